# Fields as Lux layers: values and products compared with `slope`, ForwardDiff and finite differences; inside Lux and DiffEqFlux.

module LuxTests

using ComponentArrays: ComponentVector
using DiffEqFlux: AugmentedNDELayer, DiffEqFlux, NeuralODE
using ForwardDiff: ForwardDiff
using LinearAlgebra: dot
using Lux: Lux, Chain, Dense
using OrdinaryDiffEqTsit5: Tsit5
using PyNeuralODE
using PyNeuralODE: UserError, slope
using Random: Xoshiro
using SciMLSensitivity: GaussAdjoint, InterpolatingAdjoint, ZygoteVJP
using Test
using Zygote: Zygote

const TIMED = (HyperMLP(2, 8, 4), ConcatMLP([3, 5, 3]), GatedMLP([3, 4, 3]; time_scale = 2.0),
    ConcatConv(1, 3, 2; hidden = [2], activation = "tanh"),
    Equations(["x", "y"], ["a", "b"], ["* a x", "sin t", "* b #2"], ["#1", "#3"]; initial = [0.5, -1.5]))
const FIELDS = (MLP([3, 5, 4, 3]; activation = "swish", input_map = "cube", input_scale = 2, output_scale = 0.5),
    Linear([0.1 0.9; -0.8 0.2]), SEIR(), TIMED...)

# Parameters away from points where a derivative is zero.
moved(ps, rng) = map(x -> x isa Number ? x + 0.1 * rand(rng) : x .+ 0.1 .* randn(rng, size(x)), ps)

@testset "lux: $(nameof(typeof(field))), $(isempty(samples) ? "one sample" : "samples")" for field in FIELDS,
    samples in ((), (4,))

    rng = Xoshiro(1)
    start, st = Lux.setup(rng, field)
    @test Lux.parameterlength(field) == sum(length, start) && st == (;)
    @test keys(start) == Tuple(first.(shapes(field)))
    named, u, t = moved(start, rng), rand(rng, dimension(field), samples...), 0.7
    λ, unpack, flat = randn(rng, size(u)), PyNeuralODE.Unpack(field), collect(ComponentVector(named))
    product(u, p, t) = dot(λ, slope(field, u, unpack(p), t))
    given(u, t) = field in TIMED ? (u, t) : u
    for ps in (named, ComponentVector(named))
        @test first(field(given(u, t), ps, st)) ≈ slope(field, u, ps, t) rtol = 1e-14
        ubar, psbar, tbar = Zygote.gradient((u, ps, t) -> dot(λ, first(field(given(u, t), ps, st))), u, ps, t)
        @test ubar ≈ ForwardDiff.gradient(u -> product(u, flat, t), u)
        @test collect(ComponentVector(psbar)) ≈ ForwardDiff.gradient(p -> product(u, p, t), flat)
        @test something(tbar, 0.0) ≈ ForwardDiff.derivative(t -> product(u, flat, t), t) atol = 1e-14
    end
    PyNeuralODE.autonomous(field) || @test_throws "depends on time: call it with the pair (u, t)" field(u, named, st)
end

@testset "lux: mixed dtypes" begin
    field, u = MLP([2, 4, 2]), [0.3, -0.4]
    ps, st = Lux.setup(Xoshiro(2), field)
    ubar, psbar = Zygote.gradient((u, ps) -> sum(abs2, first(field(u, ps, st))), u, ps)
    @test eltype(ubar) == Float64 && eltype(psbar.weight_1) == Float32
    @test ubar ≈ ForwardDiff.gradient(u -> sum(abs2, first(field(u, ps, st))), u)
    single = Zygote.gradient(u -> sum(abs2, first(field(u, ps, st))), Float32.(u))[1]
    @test eltype(single) == Float32
    @test single ≈ ubar rtol = 1e-5
end

@testset "lux: initial parameters" begin
    @test Lux.initialparameters(Xoshiro(0), FIELDS[2]) == (A = Float32[0.1 0.9; -0.8 0.2],)
    @test Lux.initialparameters(Xoshiro(0), SEIR(R0 = 2.5)).R0 == 2.5f0
    @test Lux.initialparameters(Xoshiro(0), last(TIMED)) == (a = 0.5f0, b = -1.5f0)
    for (kind, bound, bias) in (("glorot_uniform", 3 * sqrt(6 / 500), 0.2), ("lecun_uniform", 3 * sqrt(1 / 300), 0.2),
        ("torch", 3 * sqrt(1 / 300), 3 * sqrt(1 / 300)))
        ps = Lux.initialparameters(Xoshiro(3), MLP([300, 200, 300]; initialization = Initialization(kind; scale = 3, bias = 0.2)))
        @test 0.99bound < maximum(abs, ps.weight_1) <= bound && abs(sum(ps.weight_1)) < 0.02bound * length(ps.weight_1)
        @test 0.9bias < maximum(abs, ps.bias_1) <= bias * (1 + 1e-6)
    end
    ps = Lux.initialparameters(Xoshiro(3), ConcatMLP([300, 200, 300]; initialization = Initialization("normal"; scale = 3)))
    @test size(ps.weight_1) == (200, 301) && isapprox(sum(abs2, ps.weight_1), 9length(ps.weight_1); rtol = 0.04) &&
          all(iszero, ps.bias_1)
    description = Dict(
        "kind" => "MLP", "sizes" => [2, 3, 2], "activation" => "tanh", "input_map" => "identity", "input_scale" => 1.0,
        "output_scale" => 1.0, "init" => "normal", "init_scale" => 0.1, "init_bias" => 0.3)
    @test field_from(description).initialization == Initialization("normal"; scale = 0.1, bias = 0.3)
    @test_throws UserError Initialization("uniform")
end

@testset "lux: a part of other models" begin
    rng, u = Xoshiro(4), [0.5, -0.2]
    model = Chain(Dense(2 => 3, tanh), MLP([3, 6, 3]), Dense(3 => 2))
    ps, st = Lux.setup(rng, model)
    ps = Lux.f64(ps)
    loss(ps) = sum(abs2, first(model(u, ps, st)))
    flat = ComponentVector(ps)
    @test collect(ComponentVector(Zygote.gradient(loss, ps)[1])) ≈ ForwardDiff.gradient(loss, flat)

    field, options = MLP([2, 6, 2]), (; saveat = [0.0, 0.5, 1.0], abstol = 1e-10, reltol = 1e-10)
    ps, st = Lux.setup(rng, field)
    flat = ComponentVector(Lux.f64(ps))
    gradients = map((
        InterpolatingAdjoint(autojacvec = ZygoteVJP()), GaussAdjoint(autojacvec = ZygoteVJP()))) do sensealg
        layer = NeuralODE(field, (0.0, 1.0), Tsit5(); sensealg, options...)
        Zygote.gradient(p -> sum(abs2, Array(first(layer(u, p, st)))), flat)[1]
    end
    # The same field, solved and differentiated by this package.
    s = PyNeuralODE.make_solve(
        "discrete", field, u, [0.0, 0.5, 1.0]; control = PyNeuralODE.Control(rtol = 1e-10, atol = 1e-10))
    ys = PyNeuralODE.solve!(s, collect(flat), u)
    pbar, ubar = similar(collect(flat)), similar(u)
    pullback!(pbar, ubar, s, 2 .* ys)
    for gradient in gradients
        @test collect(gradient) ≈ pbar rtol = 1e-7
    end
    augmented = AugmentedNDELayer(
        NeuralODE(
            MLP([3, 6, 3]), (0.0f0, 1.0f0), Tsit5(); save_everystep = false, save_start = false), 1)
    ps, st = Lux.setup(rng, augmented)
    @test size(Array(first(augmented(Float32.(u), ComponentVector(ps), st)))) == (3, 1)
end

@testset "lux: the example of the README" begin
    example = only(match(r"```julia\n(.*?)```"s, read(joinpath(@__DIR__, "..", "README.md"), String)).captures)
    sandbox = Module()
    Base.include_string(sandbox, example)
    @test sandbox.final < sandbox.first_loss / 2
end

end
