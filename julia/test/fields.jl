# Fields: values compared with formulas written out here, hand-written products with ForwardDiff, Lux models with both.

using ForwardDiff, LinearAlgebra, Random, Zygote

const NETWORK = MLP([3, 5, 4, 3]; activation = "swish", input_map = "cube", input_scale = 2, output_scale = 0.5)

random(field, seed = 1) = (p = parameters(field); p .= randn(Xoshiro(seed), length(p)); p)

@testset "fields" begin
    @testset "values" begin
        p = random(NETWORK)
        u = [0.5, -1.0, 0.3]
        swish(x) = x / (1 + exp(-x))
        hidden = swish.(p.weight_2 * swish.(p.weight_1 * (u .^ 3 ./ 2) .+ p.bias_1) .+ p.bias_2)
        @test slope(NETWORK, u, p, 0.0) ≈ 0.5 .* (p.weight_3 * hidden .+ p.bias_3)
        rates = parameters(SEIR(), Dict("gamma" => 0.2, "R0" => 3.0, "sigma" => 0.4))
        @test slope(SEIR(), [0.9, 0.05, 0.03, 0.02], rates, 0.0) ≈ [-0.0162, -0.0038, 0.014, 0.006]
        A = [1.0 2.0; 3.0 4.0]
        @test slope(Linear(2; input_map = "square"), [2.0, -1.0], parameters(Linear(2), Dict("A" => A)), 0.0) ≈
              A * [4.0, 1.0]
    end

    @testset "activations and their derivatives at $x" for x in (-30.0, -0.7, 0.4, 30.0)
        for map in values(merge(PyNeuralODE.ACTIVATIONS, PyNeuralODE.INPUT_MAPS))
            y = PyNeuralODE.activate(map, x)
            @test isfinite(y)
            @test PyNeuralODE.derivative(map, x, y) ≈ ForwardDiff.derivative(x -> PyNeuralODE.activate(map, x), x) atol = 1e-12
        end
    end

    @testset "evaluator of $(nameof(typeof(field))), state $(size(u))" for field in (NETWORK, Linear(3; input_map = "cube"), SEIR()),
        u in (rand(Xoshiro(2), dimension(field)), rand(Xoshiro(3), dimension(field), 4))

        p, λ = random(field), randn(Xoshiro(4), size(u))
        e, du, ubar, pbar = evaluator(field, u), similar(u), similar(u), fill(NaN, length(p))
        slope!(du, e, u, p, 0.0)
        @test du ≈ slope(field, u, p, 0.0)
        pullback!(ubar, pbar, e, λ, u, p, 0.0)
        @test ubar ≈ ForwardDiff.gradient(u -> dot(λ, slope(field, u, p, 0.0)), u)
        @test pbar ≈ ForwardDiff.gradient(p -> dot(λ, slope(field, u, p, 0.0)), p)
        other = fill(NaN, length(p))
        pullback!(nothing, other, e, λ, u, p, 0.0)
        @test other == pbar
        traceable = PyNeuralODE.traceable(field)
        flat = collect(p)
        @test traceable(u, flat, 0.0) ≈ du rtol = 1e-14
        traced = Zygote.gradient((u, p) -> dot(λ, traceable(u, p, 0.0)), u, flat)
        @test traced[1] ≈ ubar
        @test traced[2] ≈ pbar
        dynamics = PyNeuralODE.Dynamics(field, u)
        J = fill(NaN, length(u), length(u))
        PyNeuralODE.jacobian!(J, dynamics, u, flat, 0.0)
        @test J ≈ ForwardDiff.jacobian(u -> vec(slope(field, u, p, 0.0)), u)
    end

    @testset "a Lux model with parameters in the order of the flat vector" begin
        model = PyNeuralODE.network(NETWORK)
        p = random(NETWORK)
        ps = PyNeuralODE.lux_parameters(NETWORK, p)
        @test reduce(vcat, [[vec(layer.weight); layer.bias] for layer in (ps.dense_1, ps.dense_2, ps.dense_3)]) ==
              collect(p)
        @test model isa PyNeuralODE.Lux.Chain
    end

    @testset "descriptions" begin
        description = Dict("kind" => "MLP", "sizes" => [3, 5, 4, 3], "activation" => "swish", "input_map" => "cube",
            "input_scale" => 2.0, "output_scale" => 0.5)
        field, p, u = field_from(description), random(NETWORK), [0.1, 0.2, 0.3]
        @test slope(field, u, p, 0.0) == slope(NETWORK, u, p, 0.0)
        @test first.(shapes(field)) == [:weight_1, :bias_1, :weight_2, :bias_2, :weight_3, :bias_3]
        linear = field_from(Dict("kind" => "Linear", "matrix" => [[1, 2], [3, 4]], "input_map" => "cube"))
        @test (linear.dim, linear.matrix, linear.input_map) == (2, [1 2; 3 4], Linear(2; input_map = "cube").input_map)
        @test field_from(Dict("kind" => "SEIR")) == SEIR()
        @test_throws UserError field_from(Dict("kind" => "Fortran"))
        @test_throws "tahn" MLP([1, 1]; activation = "tahn")
        @test_throws "parameters has no \"R0\"" parameters(SEIR(), Dict("gamma" => 1.0))
        @test_throws "use shape (2, 2)" parameters(Linear(2), Dict("A" => ones(2, 3)))
    end
end
