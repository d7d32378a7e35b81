# What Python calls: functions of one dictionary of plain values, by name. One call is a whole solve, gradient or fit. Where
# Python's memory is ours too, solves go by addresses instead: prepared.jl.

"Things that Python will ask for again, by number."
const KEPT = Dict{Int,Any}()
const LAST_KEPT = Ref(0)

function keep!(thing)
    LAST_KEPT[] += 1
    KEPT[LAST_KEPT[]] = thing
    return LAST_KEPT[]
end

function forget!(number)
    give_back!(pop!(KEPT, number, nothing))
    return nothing
end

include("prepared.jl")

"""
    call(name, request, progress=nothing)

Run the function that Python knows by `name`. The request and the reply are dictionaries by string; numbers under "forget"
are things kept for Python that it needs no longer.
"""
function call(name::AbstractString, request::AbstractDict, progress=nothing)
    for number in get(request, "forget", ())
        forget!(number)
    end
    return CALLS[name](request, progress)
end

"A failure as the reply that Python turns into its own exception."
function reply_of(error)
    reply = if error isa UserError
        Dict{String,Any}("kind" => "argument", "message" => error.message)
    elseif error isa SolveFailure
        Dict{String,Any}("kind" => "solver", "message" => error.message, "t" => error.t, "step" => error.step)
    else
        # The type parameters of SciML's errors fill pages; the first lines say what happened.
        lines = split(sprint(showerror, error), '\n')
        Dict{String,Any}("kind" => "julia", "message" => first(join(first(lines, 3), " "), 600))
    end
    return Dict{String,Any}("error" => reply)
end

"Defined by the extension that PythonCall loads: the function that Python calls."
function python_entry end

gradient_settings(gradient) = (Symbol(name) => value for (name, value) in gradient if name != "kind" && value !== nothing)

control_from(settings) = Control(; (Symbol(name) => value for (name, value) in settings if value !== nothing)...)

"The differentiable solve that a request describes; its \"gradient\" holds the method's kind and settings."
function differentiable_from(request, field, u0, ts, control=control_from(request["control"]))
    gradient = request["gradient"]
    return differentiable(field, u0, ts; solver=request["solver"], gradient=gradient["kind"], compiled=request["compiled"], control,
                          gradient_settings(gradient)...)
end

function call_prepare(request, _)
    prepared = prepare(request)
    return Dict{String,Any}("kept" => keep!(prepared), "compiled" => last(prepared.idle).solve isa DiscreteSolve)
end

function call_solve(request, _)
    u0 = request["u0"]
    request["dense"] && return call_dense(request, u0)
    about = Dict{String,Any}("shape" => size(u0), "dtype" => lowercase(string(eltype(u0))), "device" => "cpu")
    work = take!(prepare(merge(request, about)))
    copyto!(work.p, flatten(work.prepared.field, request["parameters"], eltype(u0)))
    ys = solve!(work.solve, work.p, Array(u0))
    return solved(ys, counts(work.solve), work.solve isa DiscreteSolve, request["differentiable"] ? keep!(work) : nothing)
end

function call_dense(request, u0)
    field = field_from(request["field"])
    result = solve_field(field, flatten(field, request["parameters"], eltype(u0)), u0, Vector{Float64}(request["ts"]);
                         solver=request["solver"], control=control_from(request["control"]), dense=true)
    return solved(result.ys, (result.nfev, result.accepted, result.rejected), false, keep!(result))
end

function solved(ys, (nfev, accepted, rejected), compiled, kept)
    return Dict{String,Any}("ys" => ys, "nfev" => nfev, "accepted" => accepted, "rejected" => rejected, "compiled" => compiled, "kept" => kept)
end

function call_pullback(request, _)
    work, ysbar = KEPT[request["kept"]], request["ysbar"]
    u0bar = similar(ysbar, size(ysbar)[1:end-1])
    pullback!(work.pbar, u0bar, work.solve, ysbar)
    return Dict{String,Any}("u0" => u0bar, "parameters" => unflatten(work.prepared.field, work.pbar))
end

call_interpolate(request, _) = Dict{String,Any}("ys" => KEPT[request["kept"]](Vector{Float64}(request["times"])))

call_failure(_, _) = FAILURE[]

call_fit(request, progress) = fit_plan(request; progress)

const CALLS = Dict{String,Function}(
    "prepare" => call_prepare,
    "failure" => call_failure,
    "solve" => call_solve,
    "pullback" => call_pullback,
    "interpolate" => call_interpolate,
    "fit" => call_fit,
)
