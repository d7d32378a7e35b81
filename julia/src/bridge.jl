# The functions that Python calls by name, each with one dictionary of plain values. One call performs a complete solve, gradient or fit.
# If Julia runs inside the Python process, solves receive memory addresses instead: see prepared.jl.

"The objects that Python refers to by an integer handle."
const HANDLES = Dict{Int, Any}()
const LAST_HANDLE = Ref(0)

"Store an object for Python and return its handle."
function store_handle!(object)
    LAST_HANDLE[] += 1
    HANDLES[LAST_HANDLE[]] = object
    return LAST_HANDLE[]
end

"Release the object with this handle, if it exists; a solve is kept for reuse."
function free_handle!(handle)
    release!(pop!(HANDLES, handle, nothing))
    return nothing
end

include("prepared.jl")

"""
    call(name, request, progress=nothing)

Call the function with this name in `CALLS` and return its reply. Request and reply are dictionaries with strings as keys; "free" in a
request lists the handles that Python no longer needs.
"""
function call(name::AbstractString, request::AbstractDict, progress = nothing)
    for handle in get(request, "free", ())
        free_handle!(handle)
    end
    evaluate_sources(request)
    return Base.invokelatest(CALLS[name], request, progress)
end

"Return the reply that describes an error, from which Python raises an exception; `trace` is where it was thrown."
function error_reply(error, trace = catch_backtrace())
    reply = if error isa UserError
        Dict{String, Any}("kind" => "argument", "message" => error.message)
    elseif error isa SolveFailure
        Dict{String, Any}("kind" => "solver", "message" => error.message, "t" => error.t, "step" => error.step)
    else
        where, message = failing_line(trace), one_line(sprint(showerror, error))
        where === nothing ? Dict{String, Any}("kind" => "julia", "message" => message) :
        Dict{String, Any}("kind" => "argument", "message" => "$where throws an error: $message.")
    end
    return Dict{String, Any}("error" => reply)
end

"Return the function through which Python calls this package; the extension for PythonCall defines the method."
function python_entry end

function gradient_settings(gradient)
    (Symbol(name) => value for (name, value) in gradient if name != "kind" && value !== nothing)
end

control_from(settings) = Control(; (Symbol(name) => value for (name, value) in settings if value !== nothing)...)

"Create the solve that a request describes by \"path\", \"solver\", \"gradient\" (kind and settings) and \"vjp\"; see `make_solve`."
function solve_from(request, field, u0, ts, control = control_from(request["control"]))
    gradient = request["gradient"]
    kind = get(request, "differentiable", true) ? gradient["kind"] : nothing
    return make_solve(
        request["path"], field, u0, ts; solver = request["solver"], gradient = kind, vjp = request["vjp"], control,
        gradient_settings(gradient)...)
end

call_prepare(request, _) = Dict{String, Any}("handle" => store_handle!(prepare(request)))

function call_solve(request, _)
    u0 = request["u0"]
    request["dense"] && return call_dense(request, u0)
    array = Dict{String, Any}("shape" => size(u0), "dtype" => lowercase(string(eltype(u0))), "device" => "cpu")
    s = acquire!(prepare(merge(request, array)))
    copyto!(s.p, flatten(s.prepared.field, request["parameters"], eltype(u0)))
    ys = solve!(s.solve, s.p, Array(u0))
    return solved(ys, counts(s.solve), request["differentiable"] ? store_handle!(s) : nothing)
end

function call_dense(request, u0)
    request["path"] == "no_gradient" ||
        throw(UserError("path is $(repr(request["path"])), which has no dense output: use \"no_gradient\"."))
    field = field_from(request["field"])
    result = solve(field, flatten(field, request["parameters"], eltype(u0)), u0, Vector{Float64}(request["ts"]);
        solver = request["solver"], control = control_from(request["control"]), dense = true)
    return solved(result.ys, (result.nfev, result.accepted, result.rejected), store_handle!(result))
end

function solved(ys, (nfev, accepted, rejected), handle)
    return Dict{String, Any}(
        "ys" => ys, "nfev" => nfev, "accepted" => accepted, "rejected" => rejected, "handle" => handle)
end

function call_pullback(request, _)
    s, ysbar = HANDLES[request["handle"]], request["ysbar"]
    u0bar = similar(ysbar, size(ysbar)[1:(end - 1)])
    pullback!(s.pbar, u0bar, s.solve, ysbar)
    return Dict{String, Any}("u0" => u0bar, "parameters" => unflatten(s.prepared.field, s.pbar))
end

call_interpolate(request, _) = Dict{String, Any}("ys" => HANDLES[request["handle"]](Vector{Float64}(request["times"])))

function call_function(request, _)
    field, u0 = field_from(request["field"]), Array(request["u0"])
    return Dict{String, Any}("handle" =>
        store_handle!(FlatField(field, u0, flatten(field, request["parameters"], eltype(u0)))))
end

call_failure(_, _) = LAST_FAILURE[]

call_fit(request, progress) = fit_plan(request; progress)

const CALLS = Dict{String, Function}(
    "examine" => call_examine,
    "slope" => call_slope,
    "prepare" => call_prepare,
    "function" => call_function,
    "failure" => call_failure,
    "solve" => call_solve,
    "pullback" => call_pullback,
    "interpolate" => call_interpolate,
    "fit" => call_fit
)
