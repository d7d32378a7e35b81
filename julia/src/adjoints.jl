# Gradients of SciML's solves: by SciMLSensitivity's continuous adjoints, with hand-written vector-Jacobian products instead of
# automatic differentiation, and by dual numbers passed through the solver.

export AdjointSolve

# SciMLSensitivity and its dependencies take as long to load as everything else together. The code that uses it is therefore an
# extension, which is loaded when a gradient first needs it.

const ADJOINTS = Dict(name => Val(Symbol(name))
for name in ("InterpolatingAdjoint", "GaussAdjoint", "QuadratureAdjoint", "BacksolveAdjoint", "ForwardMode"))
const PRODUCTS = Dict(name => Val(Symbol(name)) for name in ("hand", "zygote", "reversediff"))

"Return SciMLSensitivity's algorithm for an entry of `ADJOINTS` and an entry of `PRODUCTS`; the extension defines the methods."
function sensitivity_method end

"Return the gradients of a loss of a SciML solution with respect to the initial state and the parameters; the extension defines the method."
function sensitivity_gradients end

"Packages with an extension of this package that is loaded at first need."
const EXTENSIONS = Dict("SciMLSensitivity" => "1ed8b502-d754-442c-8d5d-10ac956f44a1",
    "DiffEqFlux" => "aae7a2af-3d4f-5e19-a356-7da93b79d9d0")

"""
    load_extension(package, reason)

Load a package of `EXTENSIONS` from the active environment, and with it the extension, unless they are already loaded; `reason` begins the message
of an error, as in "gradient is 'GaussAdjoint', which needs". The extension's methods are newer than the running caller, which must therefore
call them with `invokelatest`.
"""
function load_extension(package, reason)
    present() = Base.get_extension(PyNeuralODE, Symbol("PyNeuralODE", package, "Ext")) !== nothing
    present() && return nothing
    id = Base.PkgId(Base.UUID(EXTENSIONS[package]), package)
    Base.locate_package(id) === nothing && throw(UserError(
        "$reason $package, but the Julia environment does not contain this package: run `pkg> add $package` there, or `pyneuralode setup-julia`."))
    Base.require(id)
    present() ||
        throw(UserError("$reason $package, but that package does not load together with PyNeuralODE: run `pkg> resolve` in the Julia environment."))
    return nothing
end

function adjoint_method(gradient, product)
    gradient == "ForwardMode" && return nothing
    is_source(gradient) && return adjoint_from_source(gradient)
    lookup("gradient", gradient, ADJOINTS)
    load_extension("SciMLSensitivity", "gradient is '$gradient', which needs")
    return Base.invokelatest(sensitivity_method, ADJOINTS[gradient], product)
end

"""
    AdjointSolve(field, u0, ts; solver="Tsit5", gradient="InterpolatingAdjoint", control=Control(), rtol=nothing, atol=nothing, vjp="hand")

A differentiable solve by SciML. `gradient` is one of

- "InterpolatingAdjoint", "GaussAdjoint", "QuadratureAdjoint", "BacksolveAdjoint": SciMLSensitivity's continuous adjoints. The backward solve
  uses the tolerances `rtol` and `atol`, by default those of the forward solve (the smallest value if they are arrays);
- "ForwardMode": dual numbers passed through the solver in chunks; their partial derivatives are included in the error estimate of a step.
  Unlike SciMLSensitivity's ForwardSensitivity, this method also returns the derivative with respect to the initial state, and it needs no
  Jacobian of the joint system, which for an implicit solver would have as many rows as there are sensitivities.

`gradient` can also be Julia source of one of SciMLSensitivity's adjoints, such as "GaussAdjoint(autojacvec=ReverseDiffVJP(true))", which
then also selects the products.

`vjp` selects the vector-Jacobian product of the field: "hand" (the hand-written `pullback!`), or "zygote" or "reversediff" (automatic
differentiation of `traceable(field)`).
"""
mutable struct AdjointSolve{T, N, M, U <: AbstractArray{T, N}, Y <: AbstractArray{T, M}} <: DifferentiableSolve
    const field::VectorField
    const start::U
    const ts::Vector{T}
    const solver::Solver
    const gradient::String
    const control::Control
    const backward::Control
    const method::Any         # SciMLSensitivity's algorithm; `nothing` for ForwardMode
    const f::ODEFunction
    const ys::Y
    p::Vector{T}
    solution::Any
end

function AdjointSolve(field::VectorField, u0::AbstractVecOrMat{T}, ts; solver = "Tsit5",
        gradient = "InterpolatingAdjoint", control = Control(),
        rtol = nothing, atol = nothing, vjp = "hand") where {T <: AbstractFloat}
    check_times(ts)
    method = adjoint_method(gradient, lookup("vjp", vjp, PRODUCTS))
    if is_source(gradient)      # the source also selects the products
        gradient, vjp = string(nameof(typeof(method))), "zygote"
    end
    f = vjp == "hand" ? hand_function(field, u0, gradient) : ODEFunction{false, FullSpecialize}(traceable(field))
    backward = Control(; rtol = something(rtol, minimum(control.rtol)),
        atol = something(atol, minimum(control.atol)), control.step_size,
        control.min_step, control.max_step, control.max_steps)
    ys = zeros(T, size(u0)..., length(ts))
    return AdjointSolve(
        field, copy(u0), collect(T, ts), find_solver(solver), gradient, control, backward, method, f, ys, T[], nothing)
end

# "InterpolatingAdjoint" and "BacksolveAdjoint" request both products at the same point, one after the other: one pass computes both.
function hand_function(field, u0, gradient)
    d = Dynamics(field, u0)
    together = gradient in ("InterpolatingAdjoint", "BacksolveAdjoint")
    function vjp!(ubar, λ, u, p, t)
        copyto!(d.λ, λ)
        pullback!(d.ubar, together ? d.pbar : nothing, d.evaluator, d.λ, u, p, t)
        copyto!(ubar, d.ubar)
        return nothing
    end
    function vjp_p!(pbar, λ, u, p, t)
        if !together
            copyto!(d.λ, λ)
            pullback!(nothing, d.pbar, d.evaluator, d.λ, u, p, t)
        end
        copyto!(pbar, d.pbar)
        return nothing
    end
    # With a Jacobian prototype, "GaussAdjoint" and "QuadratureAdjoint" use the hand-written Jacobian, transposed, for the adjoint of a stiff
    # problem. The other two adjoints would turn the prototype into a sparse matrix without the rows of the parameters, so their Jacobian is
    # computed by finite differences.
    together && return ode_function(d; vjp = vjp!, vjp_p = vjp_p!)
    return ode_function(d; vjp = vjp!, vjp_p = vjp_p!, jac_prototype = zeros(eltype(u0), length(u0), length(u0)))
end

solve!(s::AdjointSolve, p, u0) = Base.invokelatest(integrate!, s, p, u0)::typeof(s.ys)

function integrate!(s::AdjointSolve, p, u0)
    s.solution = integrate(problem!(s, p, u0), s.solver, s.ts, s.control; saving(s)...)
    return write_states!(s.ys, s.solution, s.ts)
end

"Set the values of a solve and return them as SciML's problem, with these options of its solve."
function problem!(s::AdjointSolve{T}, p, u0; options...) where {T}
    s.p = collect(T, getdata(p))
    copyto!(s.start, u0)
    return ODEProblem(s.f, s.start, (s.ts[1], s.ts[end]), s.p; options...)
end

saving(s::AdjointSolve) = save_options(s.solver, s.ts, s.control, !(s.gradient in ("BacksolveAdjoint", "ForwardMode")))

counts(s::AdjointSolve) = solver_counts(s.solution)

function pullback!(pbar, u0bar, s::AdjointSolve, ysbar)
    Base.invokelatest(s.method === nothing ? forwards! : backwards!, pbar, u0bar, s, ysbar)
end

function backwards!(pbar, u0bar, s::AdjointSolve, ysbar)
    n, times = length(s.start), adjoint_times(s)
    index = indexin(times, s.ts)
    pending, reached = length(times), Ref(s.ts[end])
    # `times` includes the initial time: a request for its cotangent shows that the backward solve has reached that time.
    function cotangent!(out, u, p, t, i)
        index[i] === nothing ? fill!(out, 0) : copyto!(out, selectdim(ysbar, ndims(ysbar), index[i]))
        pending = i - 1
    end
    steps = step_options(s.solver, reverse(s.ts), s.backward)
    steps.adaptive && (steps = merge(steps, (internalnorm = largest_norm(n, length(s.p), reached),)))
    stored = s.gradient == "BacksolveAdjoint" ? (checkpoints = s.ts,) : (;)
    u0grad, pgrad = try
        sensitivity_gradients(
            s.solution, s.solver.make(AutoFiniteDiff()), s.method, times, cotangent!; stored..., steps...)
    catch error     # a linear solve or the quadrature encountered non-finite numbers
        error isa Union{SingularException, DomainError} || rethrow()
        pending = -1
        u0bar, pbar
    end
    pending == 0 || throw(SolveFailure(
        "the backward solve with gradient=$(repr(s.gradient)) stopped at t = $(format_number(Float64(reached[]), 6)): increase max_steps, loosen the gradient's rtol and atol, " *
        "or use another solver or gradient.", Float64(reached[]), NaN))
    copyto!(getdata(pbar), pgrad)
    copyto!(u0bar, u0grad)
    return nothing
end

# On a stiff problem, QuadratureAdjoint misses the thin boundary layer at the start of an interval between output times. This is avoided
# by adding the times of the forward solve's steps to the output times.
function adjoint_times(s)
    s.gradient == "QuadratureAdjoint" && implicit(s.solver) ?
    sort!(union(s.ts, s.solution.t); rev = s.ts[end] < s.ts[1]) : s.ts
end

"""
    largest_norm(n, m, reached)

Return a function that computes the norm of a joint adjoint state of shape (n,), (n + m,) or (n + m + n,): the largest of the norms of
its parts, so that many parameters do not mask the few components of the state's adjoint. Each call stores its time in `reached`.
"""
function largest_norm(n, m, reached)
    function norm(x::AbstractVector, t)
        reached[] = t
        length(x) == n && return bounded_norm(x, t)
        parts = (1:n, (n + 1):(n + m), (n + m + 1):length(x))
        return maximum(bounded_norm(view(x, part), t) for part in parts if !isempty(part))
    end
    norm(x, t) = bounded_norm(x, t)
    return norm
end

function forwards!(pbar, u0bar, s, ysbar)
    m = length(s.p)
    f! = ODEFunction{true, FullSpecialize}(Dynamics(s.field, s.start))
    function product(z)
        u0 = reshape(z[(m + 1):end], size(s.start))
        problem = ODEProblem(f!, u0, (s.ts[1], s.ts[end]), z[1:m])
        solution = integrate(problem, s.solver, s.ts, s.control; saveat = s.ts, save_everystep = false, dense = false)
        return sum(dot(selectdim(ysbar, ndims(ysbar), i), u) for (i, u) in enumerate(solution.u))
    end
    bars = ForwardDiff.gradient(product, [s.p; vec(s.start)])
    copyto!(getdata(pbar), view(bars, 1:m))
    copyto!(u0bar, view(bars, (m + 1):length(bars)))
    return nothing
end
