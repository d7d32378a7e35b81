# Runs a complete plan of stages for Python; the best parameters are kept, regardless of how the plan ends.

"Thrown by the function `progress` to end a fit; a return value of `false` has the same effect."
struct Interrupted <: Exception end

"""
The history of one stage: loss and objective at the start of every iteration; the best parameters with their own loss and objective; the
number of evaluations, and the seconds taken.
"""
mutable struct History{T}
    const losses::Vector{T}
    const objectives::Vector{T}
    best_loss::T
    best_objective::T
    parameters::Dict{String, Any}
    evaluations::Int
    seconds::Float64
end

mutable struct Run{T}
    const objective::Objective{T}
    best::Vector{T}            # free vector of the best parameters so far
    const histories::Vector{History{T}}
    const progress::Any
    const every::Int
    const report_every::Float64
    reported::Float64          # `time()` of the last report
    interrupted::Bool
end

"A running stage."
mutable struct Stage{T}
    const run::Run{T}
    const settings::Dict{String, Any}   # of the optimizer
    const iterations::Int
    const goal::Union{Nothing, Float64}
    const span::Span{T}
    const history::History{T}
    last_time::Float64
end

"Return loss and objective at the free vector `x`, write the clipped gradient to `gradient`, and update the best parameters."
function evaluate!(gradient, stage::Stage, x)
    (; history, settings) = stage
    fit = stage.run
    loss, total = value_and_gradient!(gradient, stage.span, x)
    history.evaluations += 1
    if total < history.best_objective
        history.best_loss, history.best_objective = loss, total
        fit.best = copy(x)
    end
    time() - fit.reported > fit.report_every && report(stage)
    clip!(gradient, settings["clip"])
    return loss, total
end

"Report progress to the caller, with the index of the last finished iteration (-1 before the first is finished)."
function report(stage::Stage)
    fit, history = stage.run, stage.history
    fit.reported = time()
    fit.progress === nothing && return
    done = length(history.losses)
    last_loss = done == 0 ? oftype(history.best_loss, NaN) : history.losses[end]
    fit.progress(length(fit.histories) - 1, done - 1, history.best_loss, last_loss) === false && throw(Interrupted())
end

current_rate(stage::Stage) = rate(stage.settings, length(stage.history.losses), stage.iterations)

function finish_iteration!(stage::Stage, loss, total)
    fit, history = stage.run, stage.history
    push!(history.losses, loss)
    push!(history.objectives, total)
    now = time()
    history.seconds += now - stage.last_time
    stage.last_time = now
    done = length(history.losses)
    (done % fit.every == 0 || now - fit.reported > fit.report_every || is_finished(stage)) && report(stage)
end

function is_finished(stage::Stage)
    (; history, goal) = stage
    reached = goal !== nothing && history.best_loss <= goal
    return reached || length(history.losses) >= stage.iterations || converged(stage.settings, history.objectives)
end

"Return whether a stage may end early because L-BFGS has made almost no progress for `patience` iterations in a row."
function converged(settings, objectives)
    settings["kind"] == "LBFGS" || return false
    patience, tolerance = settings["patience"], settings["tolerance"]
    length(objectives) > patience || return false
    recent = view(objectives, (lastindex(objectives) - patience):lastindex(objectives))
    return all(recent[k] - recent[k + 1] <= tolerance * abs(recent[k]) for k in 1:patience)
end

function run_stage!(stage::Stage)
    x = copy(stage.run.best)
    stage.settings["kind"] == "LBFGS" && return run_lbfgs!(stage, x)
    return run_first_order!(stage, x, FirstOrder(stage.settings, x))
end

function run_first_order!(stage::Stage, x, optimizer)
    gradient = zero(x)
    while !is_finished(stage)
        loss, total = evaluate!(gradient, stage, x)
        step!(optimizer, x, gradient, current_rate(stage))
        finish_iteration!(stage, loss, total)
    end
end

"""
    fit_plan(request; progress=nothing) -> Dict

Fit a field's parameters to a time series by a plan of stages, like `pyneuralode.fit`; `request` is a dictionary of plain values
from Python:

- `"field"`: the field's description; `"parameters"`: arrays by name; `"extra"`: additional numbers by name;
- `"u0"`: initial state (dim,) or (dim, samples), or `"start"`: the initial state's description; `"t0"`: the initial time;
- `"ts"` (T,), `"data"` and `"weights"` (k, T) or (k, samples, T), the latter 0 where a value is missing;
- `"observed"`: components counted from 0, or `"observe"`: an observable's description; `"reduction"`: "sum" or "mean";
  `"penalty"`: the penalty's description;
- `"bounds"`: pairs [low, high] by name; `"fixed"`: names;
- `"stages"`: dictionaries with `"optimizer"` (kind and settings), `"iterations"`, `"rows"`, `"goal"`;
- `"path"`, `"solver"`, `"control"`, `"vjp"` as in `make_solve`, `"gradient"`: the gradient method's kind and settings;
- `"every"`, `"report_every"`: `progress(stage, iteration, best_loss, loss)` is called at intervals of `every` iterations, and also if more
  than `report_every` seconds have passed since the last call; stage and iteration are counted from 0.

Return the best parameters, their loss, the history of every stage, and the reason why the fit ended. The same is returned if the fit was
interrupted (`progress` returned false or threw `Interrupted`, or Ctrl-C was pressed) or a loss could not be computed.
"""
function fit_plan(request::AbstractDict; progress = nothing)
    objective = objective_from(request)
    T = eltype(objective.variables.start)
    fit = Run{T}(objective, start_vector(objective.variables), History{T}[], progress, Int(get(request, "every", 1)),
        Float64(get(request, "report_every", 0.2)), time(), false)
    message = run_stages!(fit, request["stages"])
    final_stage = something(findlast(h -> h.evaluations > 0, fit.histories), lastindex(fit.histories))
    best = fit.histories[final_stage]
    return Dict{String, Any}(
        "loss" => best.best_loss, "parameters" => best.parameters, "finished" => message === nothing,
        "stages" => [Dict{String, Any}(string(name) => getfield(h, name) for name in fieldnames(History))
         for h in fit.histories],
        "interrupted" => fit.interrupted,
        "message" => something(message, "the whole plan ran")
    )
end

"Run all stages; return the reason for stopping early, or `nothing`."
function run_stages!(fit::Run{T}, stages) where {T}
    for (k, spec) in enumerate(stages)
        history = History(T[], T[], T(Inf), T(Inf), arrays(fit.objective.variables, fit.best), 0, 0.0)
        push!(fit.histories, history)
        place = "stage $k of $(length(stages)), iteration "
        message = nothing
        try
            goal = get(spec, "goal", nothing)
            run_stage!(Stage(fit, Dict{String, Any}(spec["optimizer"]), Int(spec["iterations"]),
                goal === nothing ? nothing : Float64(goal), Span(fit.objective, Int(spec["rows"])), history, time()))
        catch err
            if err isa Union{InterruptException, Interrupted}
                fit.interrupted = true
                message = "interrupted in $place$(length(history.losses))"
            elseif err isa Union{SolveFailure, NotFinite}
                message = "stopped in $place$(length(history.losses)): $(sprint(showerror, err))"
            else
                rethrow()
            end
        end
        history.parameters = arrays(fit.objective.variables, fit.best)
        message === nothing || return "$message; the parameters are the best so far"
    end
    return nothing
end

function objective_from(request)
    field = field_from(request["field"])
    u0 = get(request, "u0", nothing)
    T = u0 !== nothing && eltype(u0) === Float32 ? Float32 : Float64
    variables = variables_from(request, field, T)
    dim = dimension(field)
    if haskey(request, "start")
        start, shape = build_piece("start", STARTS, request["start"], variables, dim), (dim,)
    else
        start, shape = Fixed(Array{T}(u0)), Dims(size(u0))
    end
    ts = Vector{Float64}(request["ts"])
    observable = observable_from(request, variables, dim)
    penalty = get(request, "penalty", nothing)
    penalty = penalty === nothing ? NoPenalty() : build_piece("penalty", PENALTIES, penalty, variables, dim)
    data, weights = Array{T}(request["data"]), Array{T}(request["weights"])
    seen = (width(observable), shape[2:end]..., length(ts))
    size(data) == seen ||
        throw(UserError("the prediction has shape $(reverse(seen)), but data has shape $(reverse(size(data))): give data of shape " *
                        "(T, ..., k) for states of shape (T, ..., d)."))
    size(weights) == seen ||
        throw(UserError("weights has shape $(reverse(size(weights))): use the shape of data, $(reverse(seen))."))
    data[iszero.(weights)] .= 0   # a missing value may be NaN
    cube = (width(observable), prod(shape[2:end]), length(ts))
    make(u0, times) = solve_from(request, field, u0, times)
    t0 = get(request, "t0", nothing)
    return Objective{T}(field, variables, start, observable, penalty, shape, t0 === nothing ? ts[1] : Float64(t0), ts,
        reshape(data, cube), reshape(weights, cube), get(request, "reduction", "sum") == "mean", make)
end

function variables_from(request, field, ::Type{T}) where {T}
    extra = get(request, "extra", Dict{String, Float64}())
    given = request["parameters"]
    own = string.(first.(shapes(field)))
    flatten(field, given, T)   # throws an error unless names and shapes are those of the field
    entries = Pair{String, Any}[name => given[name] for name in own]
    append!(entries, (name => extra[name] for name in sort!(collect(String, keys(extra)))))
    return Variables(entries, get(request, "bounds", Dict{String, Any}()), get(request, "fixed", String[]), T)
end

function observable_from(request, variables, dim)
    observe = get(request, "observe", nothing)
    observe === nothing || return build_piece("observe", OBSERVABLES, observe, variables, dim)
    return Components([component_place("observed", j, dim) for j in request["observed"]])
end
