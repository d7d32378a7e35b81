# Solves of many samples at once, on the device of the state. No Jacobian of the joint state is formed (it would have
# (dim * samples)² entries), and every array is allocated with `similar`.

"""
    BatchSolve(field, u0, ts; solver="Tsit5", gradient="InterpolatingAdjoint", control=Control(), rtol=nothing, atol=nothing)

A `DifferentiableSolve` that uses an explicit solver of SciML and a continuous adjoint of SciMLSensitivity ("InterpolatingAdjoint",
"GaussAdjoint", "QuadratureAdjoint", "BacksolveAdjoint"; `rtol` and `atol` as for `AdjointSolve`) with hand-written vector-Jacobian
products. State, parameters and their cotangents are arrays of the same type as u0.
"""
mutable struct BatchSolve{T, U <: AbstractArray{T}, Y <: AbstractArray{T}, P <: AbstractVector{T}} <:
               DifferentiableSolve
    const start::U
    const ts::Vector{T}
    const solver::Solver
    const control::Control
    const backward::Control
    const gradient::String
    const method::Any
    const f::ODEFunction
    const ys::Y
    const p::P
    solution::Any
end

function BatchSolve(
        field::VectorField, u0::AbstractVecOrMat{T}, ts; solver = "Tsit5", gradient = "InterpolatingAdjoint",
        control = Control(), rtol = nothing, atol = nothing) where {T <: AbstractFloat}
    check_times(ts)
    lookup("gradient", gradient, BATCH_ADJOINTS)
    method = adjoint_method(gradient, PRODUCTS["hand"])
    backward = Control(; rtol = something(rtol, minimum(control.rtol)), atol = something(atol, minimum(control.atol)),
        control.step_size, control.min_step, control.max_step,
        control.max_steps)
    p = similar(u0, sum(prod(shape; init = 1) for (_, shape) in shapes(field); init = 0))
    return BatchSolve(copy(u0), collect(T, ts), require_explicit(solver), control, backward, String(gradient), method,
        batch_function(BatchSlope(evaluator(field, u0), size(u0)), u0, similar(p), gradient), similar(u0, size(u0)..., length(ts)), p, nothing)
end

const BATCH_ADJOINTS = filter(pair -> first(pair) != "ForwardMode", ADJOINTS)

function require_explicit(name)
    solver = find_solver(name)
    implicit(solver) && throw(UserError(
        "solver is $(repr(solver.name)), which needs the Jacobian of a whole batch: use an explicit solver, such as Tsit5."))
    return solver
end

# The evaluator's type is hidden from SciML, so that its solvers and adjoints are compiled once for all fields; looking up the
# method costs a fraction of a microsecond per call, negligible for a batch. BacksolveAdjoint passes flattened states.
struct BatchSlope
    evaluator::Evaluator
    shape::Dims
end

(f::BatchSlope)(du, u, p, t) = (slope!(reshape(du, f.shape), f.evaluator, reshape(u, f.shape), p, t); nothing)

# For the adjoints that request both products at the same point, one pass computes both, as in `hand_function`.
function batch_function(slope, u0, pbar, gradient)
    λ, ubar, together = similar(u0), similar(u0), gradient in ("InterpolatingAdjoint", "BacksolveAdjoint")
    function vjp!(out, cotangent, u, p, t)
        copyto!(λ, cotangent)
        pullback!(ubar, together ? pbar : nothing, slope.evaluator, λ, reshape(u, slope.shape), p, t)
        copyto!(out, ubar)
        return nothing
    end
    function vjp_p!(out, cotangent, u, p, t)
        if !together
            copyto!(λ, cotangent)
            pullback!(nothing, pbar, slope.evaluator, λ, reshape(u, slope.shape), p, t)
        end
        copyto!(out, pbar)
        return nothing
    end
    return ODEFunction{true, FullSpecialize}(slope; vjp = vjp!, vjp_p = vjp_p!)
end

solve!(s::BatchSolve, p, u0) = Base.invokelatest(integrate!, s, p, u0)::typeof(s.ys)

function integrate!(s::BatchSolve, p, u0)
    copyto!(s.p, getdata(p))
    copyto!(s.start, u0)
    saving = s.gradient == "BacksolveAdjoint" ? (saveat = s.ts, save_everystep = false, dense = false) :
             (dense = true, save_everystep = true)
    s.solution = integrate(ODEProblem(s.f, s.start, (s.ts[1], s.ts[end]), s.p), s.solver, s.ts, s.control; saving...)
    return write_states!(s.ys, s.solution, s.ts)
end

counts(s::BatchSolve) = solver_counts(s.solution)

pullback!(pbar, u0bar, s::BatchSolve, ysbar) = Base.invokelatest(backwards!, pbar, u0bar, s, ysbar)

function backwards!(pbar, u0bar, s::BatchSolve, ysbar)
    pending, reached = length(s.ts), Ref(s.ts[end])
    function cotangent!(out, u, p, t, i)
        copyto!(out, selectdim(ysbar, ndims(ysbar), i))
        pending = i - 1
    end
    steps = step_options(s.solver, reverse(s.ts), s.backward)
    steps.adaptive && (steps = merge(steps, (internalnorm = largest_norm(length(s.start), length(s.p), reached),)))
    stored = s.gradient == "BacksolveAdjoint" ? (checkpoints = s.ts,) : (;)
    u0grad, pgrad = sensitivity_gradients(
        s.solution, s.solver.make(nothing), s.method, s.ts, cotangent!; stored..., steps...)
    pending == 0 || throw(SolveFailure(
        "the backward solve with gradient=$(repr(s.gradient)) stopped at t = $(format_number(Float64(reached[]), 6)): increase max_steps, or loosen " *
        "rtol and atol.", Float64(reached[]), NaN))
    # SciMLSensitivity returns pgrad as a row vector, which `copyto!` does not accept for arrays on a GPU.
    copyto!(getdata(pbar), vec(pgrad))
    copyto!(u0bar, u0grad)
    return nothing
end

"""
    solve_batch(field, p, u0, ts; solver="Tsit5", control=Control())

Return the states at `ts`, of shape (size(u0)..., T), on the device of u0 and p. No data are kept for a gradient.
"""
function solve_batch(field::VectorField, p, u0::AbstractVecOrMat, ts; settings...)
    first(batch_states(field, p, u0, ts; settings...))
end

"Like `solve_batch`, but also return the solver's counts."
function batch_states(
        field, p, u0::AbstractVecOrMat{T}, ts; solver = "Tsit5", control = Control()) where {T <: AbstractFloat}
    check_times(ts)
    times = collect(T, ts)
    f! = ODEFunction{true, FullSpecialize}(BatchSlope(evaluator(field, u0), size(u0)))
    solution = integrate(
        ODEProblem(f!, u0, (times[1], times[end]), getdata(p)), require_explicit(solver), times, control;
        saveat = times, save_everystep = false, dense = false)
    return states(solution, times, u0), solver_counts(solution)
end
