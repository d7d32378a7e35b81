# L-BFGS from the packages Optimization and Optim, extended to tolerate parameters for which the problem cannot be solved.

import Optimization
using OptimizationOptimJL: Optim

"""
    CachedObjective

The objective of a stage for L-BFGS: scaled to start at 1, cached at the last point, and infinite if the problem cannot be solved.
"""
mutable struct CachedObjective{S, X, T}
    const stage::S
    const x::X
    const gradient::X
    at::Tuple{T, T}        # loss and objective at x
    known::Bool           # whether `at` and `gradient` are valid for x
    scale::T
end

function CachedObjective(stage, x::Vector{T}) where {T}
    CachedObjective(stage, similar(x), similar(x), (T(NaN), T(NaN)), false, T(NaN))
end

"Evaluate the objective at `x` unless it is cached; return whether the problem could be solved there."
function evaluate_at!(search::CachedObjective, x)
    search.known && search.x == x && return true
    is_first = isnan(search.scale)
    search.known = false
    try
        search.at = evaluate!(search.gradient, search.stage, x)
    catch err
        # A line search backs off from points for which the problem cannot be solved, but the first point must be solvable.
        is_first || !(err isa Union{SolveFailure, NotFinite}) ? rethrow() : return false
    end
    is_first && (search.scale = search.at[2] > 0 ? inv(search.at[2]) : one(search.scale))
    search.gradient .*= search.scale
    copyto!(search.x, x)
    return search.known = true
end

"Return the scaled objective at `x`, infinite if the problem cannot be solved; write its gradient into `g` unless `g` is `nothing`."
function scaled_value!(g, search::CachedObjective, x)
    solved = evaluate_at!(search, x)
    g === nothing || (solved ? copyto!(g, search.gradient) : fill!(g, 0))
    return solved ? search.at[2] * search.scale : oftype(search.scale, Inf)
end

"""
The initial step size of a line search: the first search tries a step along the negative gradient, with a 1-norm of at most 1; later
searches try the full L-BFGS step. Both are multiplied by the learning rate.
"""
struct InitialStep{F}
    lr::F
end

function (guess::InitialStep)(linesearch, state, phi, dphi, d)
    lr = guess.lr()
    state.alpha = state.pseudo_iteration == 1 ? min(1, inv(norm(state.g_x, 1))) * lr : lr
end

"Thrown if a line search tries parameters for which the problem cannot be solved."
struct UnsolvablePoint <: Exception end

"""
The line search of a `CachedObjective`. Trial points are rounded in the same way as the step that Optim takes afterwards, so that the cached
value and gradient are used. If a Wolfe search reaches parameters for which the problem cannot be solved, a backtracking search replaces it
and stays away from them: a Wolfe search would approach the boundary of the solvable region, from which no direction makes progress.
"""
struct FallbackLineSearch{L, S <: CachedObjective}
    linesearch::L
    search::S
end

function (along::FallbackLineSearch)(d, x, s, alpha, x_new, phi, dphi)
    search = along.search
    at(a) = (x_new .= a .* s; x_new .+= x; evaluate_at!(search, x_new))
    value() = search.at[2] * search.scale
    both(a) = at(a) ? (value(), dot(search.gradient, s)) : throw(UnsolvablePoint())
    alpha = oftype(phi, alpha)
    try
        return along.linesearch(a -> first(both(a)), a -> last(both(a)), both, alpha, phi, dphi)
    catch err
        err isa UnsolvablePoint || rethrow()
        return Optim.LineSearches.BackTracking()(a -> at(a) ? value() : oftype(phi, Inf), alpha, phi, dphi)
    end
end

# If the curvature changes along the way (because of a penalty with kinks, for example), old curvature pairs mislead the search: fits that stagnate for thousands
# of iterations make progress again after a restart. Shorter fits are not affected.
const RESTART_INTERVAL = 500

"Run L-BFGS for the rest of a stage."
function run_lbfgs!(stage, x)
    settings, search = stage.settings, CachedObjective(stage, x)
    # Moré and Thuente's search: fewer evaluations than Hager and Zhang's, fewer failures than backtracking alone.
    method = Optim.LBFGS(;
        m = Int(settings["history"]), linesearch = FallbackLineSearch(Optim.LineSearches.MoreThuente(), search),
        alphaguess = InitialStep(() -> eltype(x)(current_rate(stage))))
    # An empty prototype of the Hessian: otherwise a Hessian of all parameters would be allocated, which L-BFGS does not use.
    f = Optimization.OptimizationFunction(
        (x, _) -> scaled_value!(nothing, search, x); grad = (g, x, _) -> scaled_value!(g, search, x),
        fg = (g, x, _) -> scaled_value!(g, search, x), hess_prototype = zeros(eltype(x), 0, 0))
    while !is_finished(stage)
        before, done = stage.history.best_objective, length(stage.history.losses)
        start = Ref(search.at)
        function callback(state, _)
            evaluate_at!(search, state.u)
            isfirst = state.iter == 1
            isfirst || finish_iteration!(stage, start[]...)
            start[] = search.at
            return !isfirst && is_finished(stage)
        end
        problem = Optimization.OptimizationProblem(f, copy(stage.run.best))
        maxiters = min(RESTART_INTERVAL, stage.iterations - done)
        Optimization.solve(problem, method; callback, maxiters, g_abstol = 0.0, extended_trace = false)
        # If L-BFGS stopped by itself, at a minimum or after a failed line search, its stored curvature pairs may be the cause: restart
        # it from the best point, until a restart makes no progress.
        length(stage.history.losses) == done && finish_iteration!(stage, start[]...)
        stage.history.best_objective < before || return
    end
end
