# L-BFGS through Optimization and Optim, made to survive parameters that cannot be solved.

import Optimization
using OptimizationOptimJL: Optim

"""
    Search

What L-BFGS asks of a stage: the objective scaled to start at 1, remembered at the last point, infinite where it cannot be solved.
"""
mutable struct Search{S,X,T}
    const stage::S
    const x::X
    const gradient::X
    at::Tuple{T,T}        # loss and objective at x
    known::Bool           # whether x and its gradient hold a point that could be solved
    scale::T
end

Search(stage, x::Vector{T}) where {T} = Search(stage, similar(x), similar(x), (T(NaN), T(NaN)), false, T(NaN))

"Bring the search to `x`; return whether it could be solved there."
function visit!(search::Search, x)
    search.known && search.x == x && return true
    first = isnan(search.scale)
    search.known = false
    try
        search.at = evaluate!(search.gradient, search.stage, x)
    catch error
        # A line search may try parameters that cannot be solved: a wall sends it back. The first point has to be solvable.
        first || !(error isa Union{SolveFailure,NotFinite}) ? rethrow() : return false
    end
    first && (search.scale = search.at[2] > 0 ? inv(search.at[2]) : one(search.scale))
    search.gradient .*= search.scale
    copyto!(search.x, x)
    return search.known = true
end

"Value of the scaled objective at `x`, infinite where it cannot be solved; writes its gradient into `g` unless that is `nothing`."
function scaled!(g, search::Search, x)
    solved = visit!(search, x)
    g === nothing || (solved ? copyto!(g, search.gradient) : fill!(g, 0))
    return solved ? search.at[2] * search.scale : oftype(search.scale, Inf)
end

"The first step is the gradient, at most of unit length; those after it are tried whole, times the learning rate."
struct FirstGuess{F}
    lr::F
end

function (guess::FirstGuess)(linesearch, state, phi, dphi, d)
    lr = guess.lr()
    state.alpha = state.pseudo_iteration == 1 ? min(1, inv(norm(state.g_x, 1))) * lr : lr
end

"A line search met parameters that cannot be solved."
struct Walled <: Exception end

"""
The line search of a `Search`. Points are rounded as Optim rounds the step that it then takes, so that the value and gradient found
there are used and not computed again. Where a Wolfe search meets a wall, backtracking takes its place, which keeps its distance:
a Wolfe search would creep up to the wall's foot, from where no direction leads on.
"""
struct AlongRay{L,S<:Search}
    linesearch::L
    search::S
end

function (along::AlongRay)(d, x, s, alpha, x_new, phi, dphi)
    search = along.search
    at(a) = (x_new .= a .* s; x_new .+= x; visit!(search, x_new))
    value() = search.at[2] * search.scale
    both(a) = at(a) ? (value(), dot(search.gradient, s)) : throw(Walled())
    alpha = oftype(phi, alpha)
    try
        return along.linesearch(a -> first(both(a)), a -> last(both(a)), both, alpha, phi, dphi)
    catch error
        error isa Walled || rethrow()
        return Optim.LineSearches.BackTracking()(a -> at(a) ? value() : oftype(phi, Inf), alpha, phi, dphi)
    end
end

# Where the curvature changes along the way (a penalty with kinks, say), old pairs lead it astray: fits that crawl for thousands of
# iterations go on when their memory is dropped. Shorter fits never notice.
const MEMORY_LIFE = 500

"Run L-BFGS for the rest of a stage."
function run_lbfgs!(stage, x)
    settings, search = stage.settings, Search(stage, x)
    # Moré and Thuente's search: fewer evaluations than Hager and Zhang's, fewer failures than backtracking alone.
    method = Optim.LBFGS(; m=Int(settings["history"]), linesearch=AlongRay(Optim.LineSearches.MoreThuente(), search),
                         alphaguess=FirstGuess(() -> eltype(x)(current_rate(stage))))
    # An empty prototype: the adapter would otherwise make room for a Hessian of all parameters, which L-BFGS does not use.
    f = Optimization.OptimizationFunction((x, _) -> scaled!(nothing, search, x); grad=(g, x, _) -> scaled!(g, search, x),
                                          fg=(g, x, _) -> scaled!(g, search, x), hess_prototype=zeros(eltype(x), 0, 0))
    while !isover(stage)
        before, done = stage.history.best_objective, length(stage.history.losses)
        start = Ref(search.at)
        function callback(state, _)
            visit!(search, state.u)
            isfirst = state.iter == 1
            isfirst || finish_iteration!(stage, start[]...)
            start[] = search.at
            return !isfirst && isover(stage)
        end
        problem = Optimization.OptimizationProblem(f, copy(stage.run.best))
        maxiters = min(MEMORY_LIFE, stage.iterations - done)
        Optimization.solve(problem, method; callback, maxiters, g_abstol=0.0, extended_trace=false)
        # Where it ended of itself, at a minimum or in a line search that found nothing, its memory may have been the
        # reason: it starts anew from the best, until a start brings nothing.
        length(stage.history.losses) == done && finish_iteration!(stage, start[]...)
        stage.history.best_objective < before || return
    end
end
