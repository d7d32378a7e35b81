# The catalog of solvers: names from pyneuralode/solvers.py, algorithms from OrdinaryDiffEq's subpackages.

using ADTypes: AutoFiniteDiff, AutoForwardDiff
using OrdinaryDiffEqBDF: FBDF
using OrdinaryDiffEqHighOrderRK: DP8
using OrdinaryDiffEqLowOrderRK: BS3, DP5, Euler, Heun, Midpoint, RK4
using OrdinaryDiffEqRosenbrock: Rodas5P, Rosenbrock23
using OrdinaryDiffEqSDIRK: KenCarp4, Kvaerno5, TRBDF2
using OrdinaryDiffEqStabilizedRK: ROCK4
using OrdinaryDiffEqTsit5: AutoTsit5, Tsit5
using OrdinaryDiffEqVerner: AutoVern7, Vern7, Vern9

export find_solver

"""
    Solver

A method of the catalog: its `order` of convergence; its `kind` (:explicit, :stabilized, :rosenbrock, :sdirk, :bdf or :switching);
`adaptive`, whether it adapts its step size (Euler, Midpoint, Heun and RK4 do not, as in the torch engine, although SciML's versions can);
and `make`, a function that returns SciML's algorithm for a kind of automatic differentiation (from ADTypes; explicit methods need none).
"""
struct Solver
    name::String
    order::Int
    kind::Symbol
    adaptive::Bool
    make::Function
end

# The SDIRK methods' smoothed error estimate is switched off: OrdinaryDiffEq divides it by the matrix J - I/(step gamma), not by
# I - step gamma J, so that it shrinks with the step. Measured on van der Pol's equation (parameter 1e-6) at rtol 1e-8:
# errors of 1e-2 (KenCarp4, TRBDF2) and 1e-3 (Kvaerno5) with smoothing; 4e-8 (KenCarp4), 2e-7 (TRBDF2) and 2e-6 (Kvaerno5) without.
const SOLVERS = Dict(solver.name => solver
for solver in (
    Solver("Euler", 1, :explicit, false, _ -> Euler()),
    Solver("Midpoint", 2, :explicit, false, _ -> Midpoint()),
    Solver("Heun", 2, :explicit, false, _ -> Heun()),
    Solver("RK4", 4, :explicit, false, _ -> RK4()),
    Solver("BS3", 3, :explicit, true, _ -> BS3()),
    Solver("DP5", 5, :explicit, true, _ -> DP5()),
    Solver("Tsit5", 5, :explicit, true, _ -> Tsit5()),
    Solver("Vern7", 7, :explicit, true, _ -> Vern7()),
    Solver("DP8", 8, :explicit, true, _ -> DP8()),
    Solver("Vern9", 9, :explicit, true, _ -> Vern9()),
    Solver("ROCK4", 4, :stabilized, true, _ -> ROCK4()),
    Solver("Rosenbrock23", 2, :rosenbrock, true, autodiff -> Rosenbrock23(; autodiff)),
    Solver("Rodas5P", 5, :rosenbrock, true, autodiff -> Rodas5P(; autodiff)),
    Solver("TRBDF2", 2, :sdirk, true, autodiff -> TRBDF2(; autodiff, smooth_est = false)),
    Solver("KenCarp4", 4, :sdirk, true, autodiff -> KenCarp4(; autodiff, smooth_est = false)),
    Solver("Kvaerno5", 5, :sdirk, true, autodiff -> Kvaerno5(; autodiff, smooth_est = false)),
    Solver("FBDF", 5, :bdf, true, autodiff -> FBDF(; autodiff)),
    Solver("AutoTsit5(Rosenbrock23)", 5, :switching, true, autodiff -> AutoTsit5(Rosenbrock23(; autodiff))),
    Solver("AutoVern7(Rodas5P)", 7, :switching, true, autodiff -> AutoVern7(Rodas5P(; autodiff)))
))

const LOWERED_SOLVERS = Dict(lowercase(name) => solver for (name, solver) in SOLVERS)

"""
    find_solver(name)

Return the catalog's entry for the name of a solver, ignoring case, or the `Solver` for Julia source of an algorithm, such as "QNDF(autodiff=false)".
"""
function find_solver(name)
    key = string(name)::String
    found = get(LOWERED_SOLVERS, lowercase(key), nothing)
    found === nothing || return found
    return is_source(key) ? solver_from_source(key) : lookup("solver", key, SOLVERS)
end

"Return whether the name of a solver or gradient method is Julia source: a call."
is_source(name) = occursin('(', name)

"Return whether a solver needs the Jacobian of the field."
implicit(solver::Solver) = !(solver.kind in (:explicit, :stabilized))

"""
    fixed_grid(solver, ts, control)

Return the times between which fixed steps are taken, or `nothing` if the steps are adaptive. With `control.step_size` they are a uniform
grid from the first time, with a shorter last step; without it, a method that does not adapt its steps uses the times `ts` themselves.
"""
function fixed_grid(solver::Solver, ts::AbstractVector{T}, control::Control) where {T}
    control.step_size === nothing && return solver.adaptive ? nothing : ts
    steps = ceil(Int, abs(ts[end] - ts[1]) / control.step_size * (1 - 1e-12))
    steps <= control.max_steps ||
        throw(UserError("step_size is $(control.step_size): the time span needs $steps steps of this size, more than max_steps = $(control.max_steps): " *
                        "increase step_size or max_steps."))
    return T[[ts[1] + i * copysign(control.step_size, ts[end] - ts[1]) for i in 0:(steps - 1)]; ts[end]]
end
