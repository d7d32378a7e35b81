# Gradients compared with dual numbers through an accurate solve, with published values, and with each other.

using ForwardDiff, LinearAlgebra, Random

"The Lotka-Volterra equations of prey x and predator y, ``x' = p1 x - p2 x y``, ``y' = p4 x y - p3 y``."
struct LotkaVolterra <: PyNeuralODE.VectorField end

"Robertson's kinetics as a field whose products are computed by ForwardDiff: an example of a field without hand-written products."
struct Robertson <: PyNeuralODE.VectorField end

PyNeuralODE.dimension(::LotkaVolterra) = 2
PyNeuralODE.dimension(::Robertson) = 3
PyNeuralODE.shapes(::LotkaVolterra) = Pair{Symbol, Dims}[:p => (4,)]
PyNeuralODE.shapes(::Robertson) = Pair{Symbol, Dims}[:k1 => (), :k2 => (), :k3 => ()]
function PyNeuralODE.slope(::LotkaVolterra, u, p, t)
    [p.p[1] * u[1] - p.p[2] * u[1] * u[2], p.p[4] * u[1] * u[2] - p.p[3] * u[2]]
end
function PyNeuralODE.slope(::Robertson, u, p, t)
    slow, quick, middle = p.k1 * u[1], p.k2 * u[2]^2, p.k3 * u[2] * u[3]
    return [middle - slow, slow - middle - quick, quick]
end

# An evaluator receives the parameters as one plain vector, but these fields need them by name.
function by_name(field, p)
    p isa PyNeuralODE.ComponentVector || p isa NamedTuple ? p :
    PyNeuralODE.ComponentVector(p, PyNeuralODE.getaxes(parameters(field)))
end

const Own = PyNeuralODE.PlainEvaluator{<:Any, <:Union{LotkaVolterra, Robertson}}
PyNeuralODE.evaluator(field::Union{LotkaVolterra, Robertson}, u) = PyNeuralODE.PlainEvaluator(field, similar(u))
PyNeuralODE.slope!(du, e::Own, u, p, t) = copyto!(du, slope(e.field, u, by_name(e.field, p), t))
function PyNeuralODE.pullback!(ubar, pbar, e::Own, λ, u, p, t)
    ubar === nothing || copyto!(ubar, ForwardDiff.gradient(u -> dot(λ, slope(e.field, u, by_name(e.field, p), t)), u))
    pbar === nothing ||
        copyto!(pbar, ForwardDiff.gradient(p -> dot(λ, slope(e.field, u, by_name(e.field, p), t)), collect(p)))
    return nothing
end

const METHODS = ("InterpolatingAdjoint", "GaussAdjoint", "QuadratureAdjoint", "BacksolveAdjoint", "ForwardMode")

"Return the states, and the gradients of their product with `ysbar` with respect to the parameters and the initial state."
function gradient_of(field, p, u0, ts, ysbar; options...)
    s = AdjointSolve(field, u0, ts; options...)
    pbar, u0bar = fill!(similar(collect(p)), NaN), fill!(similar(u0), NaN)
    ys = copy(solve!(s, p, u0))
    pullback!(pbar, u0bar, s, ysbar)
    return ys, pbar, u0bar, s
end

"Return the same quantities as `gradient_of`, computed with dual numbers through a separate RK4 solve with 4000 fixed steps."
function reference(field, p, u0, ts, ysbar)
    function loss(z)
        p = PyNeuralODE.ComponentVector(z[1:length(p)], PyNeuralODE.getaxes(p))
        u, total = reshape(z[(length(p) + 1):end], size(u0)), zero(eltype(z))
        f(u, t) = slope(field, u, p, t)
        for i in eachindex(ts)
            total += dot(selectdim(ysbar, ndims(ysbar), i), u)
            i == length(ts) && break
            n = ceil(Int, 4000 / length(ts))
            h = (ts[i + 1] - ts[i]) / n
            for k in 0:(n - 1)
                t = ts[i] + k * h
                k1 = f(u, t)
                k2 = f(u .+ h / 2 .* k1, t + h / 2)
                k3 = f(u .+ h / 2 .* k2, t + h / 2)
                k4 = f(u .+ h .* k3, t + h)
                u = u .+ h / 6 .* (k1 .+ 2 .* k2 .+ 2 .* k3 .+ k4)
            end
        end
        return total
    end
    bars = ForwardDiff.gradient(loss, [collect(p); vec(u0)])
    return bars[1:length(p)], reshape(bars[(length(p) + 1):end], size(u0))
end

close(a, b, bound) = norm(a - b) <= bound * norm(b)

const SMALL = MLP([2, 6, 2]; input_map = "cube")
weights(field) = (p = parameters(field); p .= 0.6 .* randn(Xoshiro(7), length(p)); p)
const CASES = (
    (SMALL, weights(SMALL), [1.2, -0.4], range(0.0, 1.5, 7)),
    (SMALL, weights(SMALL), 0.8 .* randn(Xoshiro(8), 2, 3), range(0.0, 1.5, 4)),
    (SMALL, weights(SMALL), [1.2, -0.4], range(1.5, 0.0, 5)),
    (Linear(3; input_map = "cube"), parameters(Linear(3), Dict("A" => [-1.0 0.3 0.2; 0.4 -0.8 -0.5; -0.2 0.6 -1.2])),
        [0.5, -0.3, 0.8], range(0.0, 2.0, 5)),
    (SEIR(), parameters(SEIR(), Dict("gamma" => 0.2, "R0" => 3.0, "sigma" => 0.4)),
        [0.98, 0.01, 0.01, 0.0], range(0.0, 40.0, 9))
)

@testset "adjoints of $(nameof(typeof(field))), state $(size(u0)), to t = $(last(ts))" for (field, p, u0, ts) in CASES
    ysbar = randn(Xoshiro(9), size(u0)..., length(ts))
    pbar, u0bar = reference(field, p, u0, ts, ysbar)
    for gradient in METHODS
        ys, pgrad, u0grad, s = gradient_of(
            field, p, u0, ts, ysbar; gradient, control = Control(rtol = 1e-10, atol = 1e-12))
        @test selectdim(ys, ndims(ys), 1) == u0
        @test close(pgrad, pbar, 1e-7)
        @test close(u0grad, u0bar, 1e-7)
        @test first(counts(s)) > 6 * counts(s)[2] > 0
    end
    ts === first(CASES)[4] || continue
    for gradient in ("InterpolatingAdjoint", "GaussAdjoint"), vjp in ("zygote", "reversediff")

        _, pgrad, u0grad = gradient_of(
            field, p, u0, ts, ysbar; gradient, vjp, control = Control(rtol = 1e-10, atol = 1e-12))
        @test close(pgrad, pbar, 1e-7)
        @test close(u0grad, u0bar, 1e-7)
    end
end

@testset "Lotka-Volterra's loss and gradients by $gradient" for gradient in METHODS
    p = parameters(LotkaVolterra(), Dict("p" => [1.5, 1.0, 3.0, 1.0]))
    ts = range(0.0, 10.0, 101)
    ys, pbar, u0bar = gradient_of(LotkaVolterra(), p, [1.0, 1.0], ts, ones(2, 101); gradient,
        solver = "Vern7", control = Control(rtol = 1e-10, atol = 1e-10))
    @test sum(ys) ≈ 450.7640640395 rtol = 1e-9
    @test pbar ≈ [8.30536266, -159.48429272, 75.20350821, -339.19509277] rtol = 1e-6
    @test u0bar ≈ [-39.12754122, -8.78778022] rtol = 1e-6
end

@testset "Robertson's gradient by $gradient and $solver" for gradient in ("InterpolatingAdjoint", "GaussAdjoint", "QuadratureAdjoint", "ForwardMode"),
    solver in ("Rodas5P", "KenCarp4", "FBDF")

    solver == "FBDF" && gradient != "ForwardMode" && continue   # its interpolant is too rough for an adjoint at this tolerance
    p = parameters(Robertson(), Dict("k1" => 0.04, "k2" => 3e7, "k3" => 1e4))
    ysbar = zeros(3, 2)
    ysbar[1, 2] = 1
    _, pbar, _ = gradient_of(Robertson(), p, [1.0, 0.0, 0.0], [0.0, 40.0], ysbar; gradient,
        solver, control = Control(rtol = 1e-9, atol = 1e-12))
    @test pbar≈[-4.24755877, -2.28835509e-9, 1.37308080e-5] rtol=1e-5 norm=x->maximum(abs, x ./ pbar)
end

@testset "a backward solve that cannot retrace the forward one says so" begin
    p = parameters(Robertson(), Dict("k1" => 0.04, "k2" => 3e7, "k3" => 1e4))
    s = AdjointSolve(Robertson(), [1.0, 0.0, 0.0], [0.0, 40.0]; gradient = "BacksolveAdjoint",
        solver = "Rodas5P", control = Control(rtol = 1e-6, atol = 1e-9, max_steps = 2000))
    solve!(s, p, [1.0, 0.0, 0.0])
    @test_throws SolveFailure pullback!(zeros(3), zeros(3), s, [0.0 1.0; 0.0 0.0; 0.0 0.0])
end

@testset "fixed steps, single precision and names" begin
    field, p, u0, ts = first(CASES)
    ysbar = ones(length(u0), length(ts))
    _, pbar, u0bar = gradient_of(field, p, u0, ts, ysbar; control = Control(rtol = 1e-9, atol = 1e-9))
    for solver in ("RK4", "Tsit5")
        _, fixed, start = gradient_of(field, p, u0, ts, ysbar; solver, control = Control(step_size = 0.02))
        @test close(fixed, pbar, 1e-4)
        @test close(start, u0bar, 1e-4)
    end
    _, single, _ = gradient_of(
        field, Float32.(p), Float32.(u0), ts, Float32.(ysbar); control = Control(rtol = 1e-5, atol = 1e-5))
    @test eltype(single) == Float32
    @test close(single, pbar, 1e-3)
    loose, tight = (gradient_of(
                        field, p, u0, ts, ysbar; control = Control(rtol = 1e-9, atol = 1e-9), rtol, atol = rtol)[2]
    for rtol in (1e-3, 1e-8))
    @test close(tight, pbar, 1e-6)
    @test norm(loose - pbar) > 10 * norm(tight - pbar)
    @test make_solve("sensitivity", field, u0, ts; gradient = "GaussAdjoint") isa AdjointSolve
    @test make_solve("discrete", field, u0, ts) isa PyNeuralODE.DiscreteSolve
    @test_throws "Gaus" make_solve("sensitivity", field, u0, ts; gradient = "Gaus")
    @test_throws UserError make_solve("discrete", field, u0, ts; solver = "Rodas5P", gradient = "Backprop")
    @test_throws "vjp is" AdjointSolve(field, u0, ts; vjp = "enzyme")
end
