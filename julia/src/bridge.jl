# What Python calls: functions of one dictionary of plain values, by name. One call is a whole solve, gradient or fit.

"Things that Python will ask for again, by number."
const KEPT = Dict{Int,Any}()
const LAST_KEPT = Ref(0)

function keep!(thing)
    LAST_KEPT[] += 1
    KEPT[LAST_KEPT[]] = thing
    return LAST_KEPT[]
end

"""
    call(name, request, progress=nothing)

Run the function that Python knows by `name`. The request and the reply are dictionaries by string; numbers under "forget"
are things kept for Python that it needs no longer.
"""
function call(name::AbstractString, request::AbstractDict, progress=nothing)
    for number in get(request, "forget", ())
        delete!(KEPT, number)
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

control_from(settings) = Control(; (Symbol(name) => value for (name, value) in settings if value !== nothing)...)

"The differentiable solve that a request describes; its \"gradient\" holds the method's kind and settings."
function differentiable_from(request, field, u0, ts)
    gradient = request["gradient"]
    settings = (Symbol(name) => value for (name, value) in gradient if name != "kind" && value !== nothing)
    return differentiable(field, u0, ts; solver=request["solver"], gradient=gradient["kind"], fused=request["fused"],
                          control=control_from(request["control"]), settings...)
end

function call_solve(request, _)
    field, u0, ts = field_from(request["field"]), request["u0"], Vector{Float64}(request["ts"])
    p = flatten(field, request["parameters"], eltype(u0))
    solver = request["solver"]
    differentiates, by_steps = request["differentiable"], request["gradient"]["kind"] in STEPWISE
    # Without a derivative too: the same trajectory, whether it is asked for or not.
    if differentiates || (by_steps && request["fused"] && !request["dense"] && has_discrete(field, solver))
        s = differentiable_from(request, field, u0, ts)
        ys = solve!(s, p, u0)
        return solved(ys, counts(s), s isa DiscreteSolve, differentiates ? keep!((field, s)) : nothing)
    end
    result = solve_field(field, p, u0, ts; solver, control=control_from(request["control"]), dense=request["dense"])
    counts_of = (result.nfev, result.accepted, result.rejected)
    return solved(result.ys, counts_of, false, request["dense"] ? keep!(result) : nothing)
end

function solved(ys, (nfev, accepted, rejected), fused, kept)
    return Dict{String,Any}("ys" => ys, "nfev" => nfev, "accepted" => accepted, "rejected" => rejected, "fused" => fused, "kept" => kept)
end

function call_pullback(request, _)
    (field, s), ysbar = KEPT[request["kept"]], request["ysbar"]
    pbar, u0bar = zeros(eltype(ysbar), parameter_count(field)), similar(ysbar, size(ysbar)[1:end-1])
    pullback!(pbar, u0bar, s, ysbar)
    return Dict{String,Any}("u0" => u0bar, "parameters" => unflatten(field, pbar))
end

call_interpolate(request, _) = Dict{String,Any}("ys" => KEPT[request["kept"]](Vector{Float64}(request["times"])))

call_fit(request, progress) = fit_plan(request; progress)

const CALLS = Dict{String,Function}(
    "solve" => call_solve,
    "pullback" => call_pullback,
    "interpolate" => call_interpolate,
    "fit" => call_fit,
)
