# Solves by SciML: fields and plain Julia functions, fixed and adaptive steps, failures that state their cause.

using ForwardDiff: ForwardDiff, Dual
using OrdinaryDiffEqCore: ODE_DEFAULT_NORM
using SciMLBase: SciMLBase, FullSpecialize, ODEFunction, ODEProblem, ReturnCode

export Control, DifferentiableSolve, SolveFailure, UserError, counts, make_solve, solve_problem

"Return whether the field is independent of time; SciML then need not differentiate with respect to time."
autonomous(::VectorField) = false
autonomous(::Union{MLP, Linear, SEIR}) = true

"""
    Dynamics(field, u0)

A field in the form that SciML expects, with its workspace: a call with `(du, u, p, t)`, with flat p, writes the right-hand side to du,
and `jacobian!` writes the Jacobian with respect to the flattened state. Two tasks must not share a `Dynamics`.

The field is not part of its type, so that one compiled solver and one compiled adjoint serve all fields: compiling them takes
seconds, and looking up the field's method takes a tenth of a microsecond at every evaluation.
"""
struct Dynamics{T, U <: AbstractVecOrMat{T}}
    evaluator::Evaluator{T}
    by_name::Any     # returns the arrays in a flat vector by name, for numbers of a type other than T
    λ::U
    ubar::U
    pbar::Vector{T}
end

function Dynamics(field::VectorField, u0::AbstractVecOrMat{T}) where {T <: AbstractFloat}
    return Dynamics(evaluator(field, u0), Unpack(field), similar(u0), similar(u0), zeros(T, parameter_count(field)))
end

# Parameters of the evaluator's number type remain flat; for other types (dual numbers, for example) `slope` needs them by name.
named(::Dynamics{T}, ::AbstractArray{T}, p::AbstractVector{T}) where {T} = p
named(d::Dynamics, u, p) = d.by_name(p)

(d::Dynamics)(du, u, p, t) = (slope!(shaped(du, u), d.evaluator, u, named(d, u, p), t); nothing)

# "BacksolveAdjoint" passes the derivative of a matrix state as a vector.
shaped(x::AbstractArray{<:Any, N}, ::AbstractArray{<:Any, N}) where {N} = x
shaped(x, u) = reshape(x, size(u))

# One vector-Jacobian product per component: the samples of a batch are independent, so one product with a row of ones covers them all.
function jacobian!(J, d::Dynamics, u, p, t)
    fill!(J, 0)
    rows = size(u, 1)
    for i in 1:rows
        fill!(d.λ, 0)
        fill!(selectdim(d.λ, 1, i), 1)
        pullback!(d.ubar, nothing, d.evaluator, d.λ, u, p, t)
        for k in axes(u, 2), j in 1:rows

            J[(k - 1) * rows + i, (k - 1) * rows + j] = d.ubar[j, k]
        end
    end
    return nothing
end

function time_slope!(dT, d::Dynamics, u, p, t)
    autonomous(d.evaluator.field) && return fill!(dT, 0)
    return ForwardDiff.derivative!(dT, (du, t) -> d(du, u, p, t), similar(u), t)
end

"""
    FlatField(field, u0, p)

A field with flat parameters `p` as a function `f(du, u, _, t)` of flattened states like u0, for problems that contain no other parameters.
"""
struct FlatField{D <: Dynamics, P}
    dynamics::D
    p::P
end

FlatField(field::VectorField, u0::AbstractVecOrMat, p) = FlatField(Dynamics(field, u0), p)

(f::FlatField)(du, u, _, t) = (f.dynamics(like_state(f, du), like_state(f, u), f.p, t); nothing)
like_state(f::FlatField, u) = shaped(u, f.dynamics.λ)
jacobian!(J, f::FlatField, u, _, t) = jacobian!(J, f.dynamics, like_state(f, u), f.p, t)
time_slope!(dT, f::FlatField, u, _, t) = time_slope!(like_state(f, dT), f.dynamics, like_state(f, u), f.p, t)

# The hand-written Jacobian costs `dim` products; dual numbers would go through `slope`, which is slower.
function ode_function(d::Dynamics; options...)
    return ODEFunction{true, FullSpecialize}(d; jac = (J, u, p, t) -> jacobian!(J, d, u, p, t),
        tgrad = (dT, u, p, t) -> time_slope!(dT, d, u, p, t), options...)
end

"""
    bounded_norm(u, t)

Return SciML's root-mean-square norm of u, or a large number if it is not finite: a trial step with non-finite values is then rejected and
shortened, as in the torch engine; SciML's own norm would end the solve.
"""
function bounded_norm(u, t)
    r = ODE_DEFAULT_NORM(u, t)
    return isfinite(r) ? r : oftype(r, REJECTED_NORM)
end

const REJECTED_NORM = 1e18

# The largest of the norms of the value and of each partial derivative, so that many small norms do not mask a large one.
function bounded_norm(u::AbstractArray{<:Dual}, t)
    r = maximum(k -> ODE_DEFAULT_NORM(dual_part.(u, k), t), 0:ForwardDiff.npartials(eltype(u)))
    return isfinite(r) ? r : oftype(r, REJECTED_NORM)
end

# The largest of the columns' norms, so that one sample's error is not averaged out among many others.
samples_norm(u, t) = bounded_norm(u, t)
samples_norm(u::AbstractMatrix, t) = maximum(column -> bounded_norm(column, t), eachcol(u))

dual_part(x::Dual, k) = k == 0 ? ForwardDiff.value(x) : ForwardDiff.partials(x, k)

# A `Control` as SciML's options, for adaptive steps or for a grid of times.
function step_options(solver::Solver, ts::AbstractVector{T}, control::Control) where {T}
    grid = fixed_grid(solver, ts, control)
    span = abs(ts[end] - ts[1])
    # With a step larger than every gap, SciML stops exactly at the times of the grid and nowhere else.
    tolerances = (reltol = control.rtol, abstol = control.atol, verbose = false)
    grid === nothing || return (; tolerances..., adaptive = false, dt = span, tstops = grid, maxiters = typemax(Int))
    first_step = control.first_step === nothing ? (;) : (dt = T(min(control.first_step, span)),)
    norm = control.norm == "samples" ? samples_norm : bounded_norm
    return (; tolerances..., adaptive = true, dtmin = T(control.min_step), dtmax = T(min(control.max_step, span)),
        maxiters = control.max_steps, internalnorm = norm, first_step...)
end

"""
    integrate(problem, solver, ts, control; saving...)

Solve a SciML problem over `ts` and return SciML's solution; throw a `SolveFailure` if the solve does not reach the last time.
"""
function integrate(problem, solver::Solver, ts, control::Control; autodiff = AutoForwardDiff(), saving...)
    solver.name == "FBDF" && control.step_size !== nothing &&
        throw(UserError("step_size is $(control.step_size), but FBDF chooses its steps itself: leave step_size out, or use KenCarp4."))
    integrator = SciMLBase.init(problem, solver.make(autodiff); step_options(solver, ts, control)..., saving...)
    solve!(integrator)
    SciMLBase.successful_retcode(integrator.sol) || throw(solve_failure(integrator, control))
    return integrator.sol
end

# The messages that are shared with `DiscreteSolve` are in discrete.jl.
function solve_failure(integrator, control)
    problem, t, step = integrator.sol.prob, float_value(integrator.t), abs(float_value(integrator.dt))
    start = similar(problem.u0)
    problem.f(start, problem.u0, problem.p, problem.tspan[1])
    all(isfinite, start) || return bad_start(float_value(problem.tspan[1]))
    code = integrator.sol.retcode
    code == ReturnCode.ConvergenceFailure && return no_stage(t, step)
    integrator.opts.adaptive || return not_finite(t)
    code == ReturnCode.MaxIters && return too_many_steps(control, t, step)
    return too_small_step(control, t, step, integrator.EEst < REJECTED_NORM)
end

float_value(x) = Float64(ForwardDiff.value(x))

function no_stage(t, step)
    SolveFailure(
        "no solution was found for the equations of an implicit step of $(format_number(step, 3)) at t = $(format_number(t, 6)): take smaller steps, " *
        "or leave step_size out.", t, step)
end

function not_finite(t)
    SolveFailure(
        "the state is non-finite at t = $(format_number(t, 6)): take smaller steps, or use an adaptive solver such as Tsit5.", t, NaN)
end

"""
    Solved

The result of a solve: the states `ys` (size(u0)..., T), the number `nfev` of evaluations of the field, and the numbers of `accepted` and
`rejected` steps. With dense output it can be called with a time inside the span, or with a vector of times, which returns an array like `ys`.
"""
struct Solved{Y, S}
    ys::Y
    nfev::Int
    accepted::Int
    rejected::Int
    interpolant::S
end

(s::Solved)(t::Real) = s.interpolant(t)
(s::Solved)(ts::AbstractVector) = stack(s.interpolant(t) for t in ts)
(s::Solved{<:Any, Nothing})(t::Real) = throw(UserError("this solution has no dense output: solve with dense=true."))
(s::Solved{<:Any, Nothing})(ts::AbstractVector) = s(first(ts))

function collect_states(problem, ts, solver, control, dense)
    solver = find_solver(solver)
    solution = integrate(problem, solver, ts, control; save_options(solver, ts, control, dense)...)
    return Solved(states(solution, ts, problem.u0), solver_counts(solution)..., dense ? solution : nothing)
end

# Euler's outputs are interpolated linearly, which SciML does if it saves every step without derivatives.
function save_options(solver, ts, control, dense)
    straight = solver.name == "Euler" && (dense || control.step_size !== nothing)
    straight && return (dense = false, save_everystep = true)
    return dense ? (dense = true, save_everystep = true) : (saveat = ts, save_everystep = false, dense = false)
end

solver_counts(solution) = (solution.stats.nf, solution.stats.naccept, solution.stats.nreject)

"Return the states at `ts` as one array; throw a `SolveFailure` if they are not finite, which a solve with fixed steps does not check."
function states(solution, ts, u0)
    ys = similar(u0, size(u0)..., length(ts))
    write_states!(ys, solution, ts)
    return ys
end

function write_states!(ys, solution, ts)
    stored = solution.t == ts
    for (i, t) in enumerate(ts)
        y = selectdim(ys, ndims(ys), i)
        copyto!(y, stored ? solution.u[i] : solution(t))
        all(isfinite, y) || throw(not_finite(Float64(t)))
    end
    return ys
end

function check_times(ts)
    length(ts) > 1 && (all(>(0), diff(ts)) || all(<(0), diff(ts))) && all(isfinite, ts) ||
        throw(UserError("ts is a $(summary(ts)): give at least two finite times that are strictly increasing or strictly decreasing."))
end

"""
    solve(field, p, u0, ts; solver="Tsit5", control=Control(), dense=false)

Solve ``du/dt = f(u, p, t)`` from u0 (dim,) or (dim, samples) at ts[1] and return a `Solved` with the states at ts, which may
increase or decrease. Times are converted to the state's number type. Throws `SolveFailure` if the solve cannot reach the last time.
"""
function solve(field::VectorField, p, u0::AbstractVecOrMat{T}, ts; solver = "Tsit5",
        control = Control(), dense = false) where {T <: AbstractFloat}
    check_times(ts)
    times = collect(T, ts)
    problem = ODEProblem(ode_function(Dynamics(field, u0)), u0, (times[1], times[end]), collect(T, getdata(p)))
    return collect_states(problem, times, solver, control, dense)
end

"""
    solve_problem(f!, u0, ts, p=nothing; solver="Tsit5", control=Control(), dense=false)

Like `solve`, for a Julia function `f!(du, u, p, t)`.
"""
function solve_problem(f!, u0::AbstractArray{T}, ts, p = nothing; solver = "Tsit5",
        control = Control(), dense = false) where {T <: AbstractFloat}
    check_times(ts)
    times = collect(T, ts)
    return collect_states(
        ODEProblem{true, FullSpecialize}(f!, u0, (times[1], times[end]), p), times, solver, control, dense)
end

"""
    DifferentiableSolve

A solve and its derivative: `solve!(s, p, u0)` returns the states at the times, (size(u0)..., T), in an array that `s` owns; then
`pullback!(pbar, u0bar, s, ysbar)` overwrites pbar (flat, like p) and u0bar (like u0) with the products of the states' cotangent `ysbar`
(like the states) and the derivatives; `counts(s)` returns the numbers of field evaluations, accepted steps and rejected steps of the
forward solve.
"""
abstract type DifferentiableSolve end

"Return the numbers of evaluations of the field, accepted steps and rejected steps of the last `solve!`."
function counts end
