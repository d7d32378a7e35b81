# Batches of independent samples: each has its own steps, error control, times and end, and its own parameters if wanted.

using SciMLBase: EnsembleProblem, EnsembleSerial

"""
    Ensemble(field, members, parameters, starts)

A differentiable solve of the field for each sample, with the flat parameters and the initial state of each. `solve!(e)` returns the states of each
sample at its own times, and `counts(e)` the counts of each. SciML's solves run as one `EnsembleProblem`.
"""
struct Ensemble{S <: DifferentiableSolve, T, U <: AbstractArray{T}}
    field::VectorField
    members::Vector{S}
    parameters::Vector{Vector{T}}
    starts::Vector{U}
end

counts(e::Ensemble) = map(counts, e.members)

function solve!(e::Ensemble)
    [of_sample(() -> solve!(member, e.parameters[k], e.starts[k]), k) for (k, member) in enumerate(e.members)]
end

solve!(e::Ensemble{<:AdjointSolve}) = Base.invokelatest(solve_ensemble!, e)

function solve_ensemble!(e::Ensemble{<:AdjointSolve})
    # The options differ between samples, so each problem contains its own.
    problems = map(e.members, e.parameters, e.starts) do member, p, u0
        problem!(member, p, u0; step_options(member.solver, member.ts, member.control)..., saving(member)...)
    end
    choose(_, trajectory, _...) = problems[sample_number(trajectory)]
    ensemble = EnsembleProblem(first(problems); prob_func = choose, safetycopy = false)
    algorithm = first(e.members).solver.make(AutoForwardDiff())
    solutions = solve(ensemble, algorithm, EnsembleSerial(); trajectories = length(problems)).u
    return map(enumerate(e.members), solutions) do (k, member), solution
        # A sample that failed is solved again, alone, for the cause.
        SciMLBase.successful_retcode(solution) ||
            return of_sample(() -> integrate!(member, e.parameters[k], e.starts[k]), k)
        member.solution = solution
        return of_sample(() -> write_states!(member.ys, solution, member.ts), k)
    end
end

# SciMLBase 2 passes the number of the trajectory, SciMLBase 3 a context that contains it.
sample_number(trajectory::Integer) = trajectory
sample_number(context) = context.sim_id

"Return f(); a failure names the sample, counted from 0 as in Python."
function of_sample(f, k)
    try
        return f()
    catch failure
        failure isa SolveFailure || rethrow()
        throw(SolveFailure("sample $(k - 1): $(failure.message)", failure.t, failure.step))
    end
end

"""
    ensemble_from(request)

Return the `Ensemble` for a request like that of a single solve, in which "u0" has a last axis for the samples, "ts" is a list of the times of
each, and "own" names the parameters that have a first axis for the samples. Tolerances may have the shape of u0.
"""
function ensemble_from(request)
    u0, field = request["u0"], field_from(request["field"])
    T, samples = eltype(u0), axes(u0, ndims(u0))
    starts = [Array(selectdim(u0, ndims(u0), k)) for k in samples]
    shared = isempty(request["own"]) ? flatten(field, request["parameters"], T) : nothing
    members = map(samples) do k
        control = control_from(Dict(name => of_one(value, k) for (name, value) in request["control"]))
        times = Vector{Float64}(request["ts"][k])
        request["path"] == "no_gradient" || return solve_from(request, field, starts[k], times, control)
        # ForwardMode keeps nothing of a solve.
        return AdjointSolve(field, starts[k], times; solver = request["solver"], gradient = "ForwardMode", control)
    end
    parameters = [shared === nothing ? flatten(field, parameters_of(request, k), T) : shared for k in samples]
    return Ensemble(field, members, parameters, starts)
end

of_one(value, k) = value isa AbstractArray ? Array(selectdim(value, ndims(value), k)) : value

function parameters_of(request, k)
    Dict(name => name in request["own"] ? collapse(selectdim(value, 1, k)) : value
    for (name, value) in request["parameters"])
end

collapse(array) = ndims(array) == 0 ? array[] : Array(array)

# The states have a last axis for the samples. After a sample's last time they are zero.
function call_ensemble(request, _)
    e = ensemble_from(request)
    states = solve!(e)
    longest, shape = maximum(ys -> size(ys, ndims(ys)), states), size(first(e.starts))
    ys = zeros(eltype(first(states)), shape..., longest, length(states))
    for (k, own) in enumerate(states)
        copyto!(selectdim(selectdim(ys, ndims(ys), k), ndims(own), axes(own, ndims(own))), own)
    end
    nfev, accepted, rejected = (collect(getindex.(Tuple.(counts(e)), i)) for i in 1:3)
    return solved(ys, (nfev, accepted, rejected), request["differentiable"] ? store_handle!((e, request["own"])) :
                                                  nothing)
end

function call_ensemble_pullback(request, _)
    (e, own), bars = HANDLES[request["handle"]], request["ysbar"]
    u0bar = similar(bars, size(first(e.starts))..., length(e.members))
    pbars = map(enumerate(e.members)) do (k, member)
        pbar, startbar = zero(e.parameters[k]), similar(e.starts[k])
        bar = selectdim(bars, ndims(bars), k)
        of_sample(() -> pullback!(pbar, startbar, member, Array(selectdim(bar, ndims(bar), 1:length(member.ts)))), k)
        copyto!(selectdim(u0bar, ndims(u0bar), k), startbar)
        return pbar
    end
    gradients = unflatten(e.field, sum(pbars))
    for name in own     # these have a first axis for the samples, and no sum
        gradients[name] = stack(unflatten(e.field, pbar)[name] for pbar in pbars; dims = 1)
    end
    return Dict{String, Any}("u0" => u0bar, "parameters" => gradients)
end

CALLS["ensemble"] = call_ensemble
CALLS["ensemble_pullback"] = call_ensemble_pullback
