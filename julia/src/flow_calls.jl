# The functions that Python calls for flows: they carry samples from one time to another and compute integrals along their trajectories.

"A flow's solve for Python: the key of its settings, the solve, and the cotangent of the parameters."
struct PreparedFlow
    key::String
    solve::FlowSolve
    pbar::Vector
end

"Idle solves by key, kept for reuse: a training loop requests the same solve at every update."
const IDLE_FLOWS = Dict{String, Vector{PreparedFlow}}()
const MAX_IDLE_FLOWS = 16

function acquire_flow!(request)
    idle = get!(Vector{PreparedFlow}, IDLE_FLOWS, request["key"])
    isempty(idle) || return pop!(idle)
    length(IDLE_FLOWS) > MAX_IDLE_FLOWS && empty!(IDLE_FLOWS)
    field, gradient, (start, stop) = field_from(request["field"]), request["gradient"], request["times"]
    # The two times are exchanged because a density is computed from the flow's second time to its first.
    flow = Flow(field; times = (stop, start),
        trace = request["noise"] === nothing ? "exact" : "hutchinson", solver = request["solver"],
        gradient = gradient["kind"], control = control_from(request["control"]))
    solve = FlowSolve(flow, request["x"]; path = request["path"], kinetic = request["kinetic"],
        jacobian = request["jacobian"], gradient_settings(gradient)...)
    return PreparedFlow(request["key"], solve, zeros(eltype(request["x"]), parameter_count(field)))
end

function release!(work::PreparedFlow)
    drop_solution!(work.solve.joint)
    idle = get!(Vector{PreparedFlow}, IDLE_FLOWS, work.key)
    length(idle) < MAX_IDLE && push!(idle, work)
    return nothing
end

"""
    call_flow_terms(request, _)

Carry the samples "x" (dim, samples) from the first of "times" to the second. The reply contains "end" (rows, samples): the samples and, below
them, the integrals, as in an `Augmented` state; and, if "differentiable", a "handle" for "flow_pullback". "noise" is Hutchinson's noise
(dim, samples), or `nothing` for the exact trace. "key" identifies all other settings: "field", "path", "solver", "gradient", "control",
"times", "kinetic", "jacobian", and the number and type of the samples.
"""
function call_flow_terms(request, _)
    work = acquire_flow!(request)
    s, x = work.solve, request["x"]
    request["noise"] === nothing || copyto!(s.field.noise, request["noise"])
    stop = copy(solve_joint!(s, flatten(s.flow.field, request["parameters"], eltype(x)), x))
    handle = request["differentiable"] ? store_handle!(work) : (release!(work); nothing)
    return Dict{String, Any}("end" => stop, "nfev" => counts(s.joint)[1], "handle" => handle)
end

"""
    call_flow_pullback(request, _)

Return the products of "bar" (rows, samples), a cotangent of "end", with the derivatives of "end" with respect to "x" and "parameters", for the
solve with this "handle".
"""
function call_flow_pullback(request, _)
    work = HANDLES[request["handle"]]
    xbar = similar(request["bar"], dimension(work.solve.flow.field), size(request["bar"], 2))
    pullback_joint!(work.pbar, xbar, work.solve, request["bar"])
    return Dict{String, Any}("x" => xbar, "parameters" => unflatten(work.solve.flow.field, work.pbar))
end

CALLS["flow_terms"] = call_flow_terms
CALLS["flow_pullback"] = call_flow_pullback
