# Flows as Python calls them: samples are carried from one time to another, with the integrals along their paths.

"A joint solve for Python: what it is for, the solve, and the parameters' cotangent."
struct FlowWork
    key::String
    solve::FlowSolve
    pbar::Vector
end

"Solves that wait to be used again by what they are for: a training loop asks for the same one at every update."
const IDLE_FLOWS = Dict{String,Vector{FlowWork}}()
const MOST_FLOWS = 16

function take_flow!(request)
    idle = get!(Vector{FlowWork}, IDLE_FLOWS, request["key"])
    isempty(idle) || return pop!(idle)
    length(IDLE_FLOWS) > MOST_FLOWS && empty!(IDLE_FLOWS)
    field, gradient, (start, stop) = field_from(request["field"]), request["gradient"], request["times"]
    # A flow's densities are solved from its second time to its first.
    flow = Flow(field; times=(stop, start), trace=request["noise"] === nothing ? "exact" : "hutchinson", solver=request["solver"],
                gradient=gradient["kind"], control=control_from(request["control"]))
    solve = FlowSolve(flow, request["x"]; kinetic=request["kinetic"], jacobian=request["jacobian"], gradient_settings(gradient)...)
    return FlowWork(request["key"], solve, zeros(eltype(request["x"]), parameter_count(field)))
end

function give_back!(work::FlowWork)
    forget_solution!(work.solve.joint)
    idle = get!(Vector{FlowWork}, IDLE_FLOWS, work.key)
    length(idle) < MOST_IDLE && push!(idle, work)
    return nothing
end

"""
Carry the samples "x" (dim, samples) from the first of "times" to the second. The reply's "end" (rows, samples) holds the samples and under them the
integrals, as in an `Augmented` state, and its "kept" is for "flow_pullback" if "differentiable". "noise" is Hutchinson's (dim, samples), or `nothing` for
the exact trace. "key" names all else: "field", "solver", "gradient", "control", "times", "kinetic", "jacobian", and the samples' number and type.
"""
function call_flow_terms(request, _)
    work = take_flow!(request)
    s, x = work.solve, request["x"]
    request["noise"] === nothing || copyto!(s.field.noise, request["noise"])
    stop = copy(solve_joint!(s, flatten(s.flow.field, request["parameters"], eltype(x)), x))
    kept = request["differentiable"] ? keep!(work) : (give_back!(work); nothing)
    return Dict{String,Any}("end" => stop, "nfev" => counts(s.joint)[1], "kept" => kept)
end

"""
The products of "bar" (rows, samples), a cotangent of "end", and the derivative of the solve "kept": "x" and "parameters".
"""
function call_flow_pullback(request, _)
    work = KEPT[request["kept"]]
    xbar = similar(request["bar"], dimension(work.solve.flow.field), size(request["bar"], 2))
    pullback_joint!(work.pbar, xbar, work.solve, request["bar"])
    return Dict{String,Any}("x" => xbar, "parameters" => unflatten(work.solve.flow.field, work.pbar))
end

CALLS["flow_terms"] = call_flow_terms
CALLS["flow_pullback"] = call_flow_pullback
