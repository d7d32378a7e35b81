using PyNeuralODE
using Test

@testset "fields" begin
    net = MLP([[1.0 2.0; 3.0 4.0], [0.5 -0.5; 1.0 1.0]], [[0.1, 0.2], [0.0, -1.0]]; input_map="cube", input_scale=2, output_scale=3)
    y = [0.5, -1.0]
    hidden = tanh.([1.0 2.0; 3.0 4.0] * (y .^ 3 ./ 2) .+ [0.1, 0.2])
    @test evaluate(net, y) ≈ 3 .* ([0.5 -0.5; 1.0 1.0] * hidden .+ [0.0, -1.0])
    @test evaluate(net, [y y]) ≈ [evaluate(net, y) evaluate(net, y)]
    for name in keys(PyNeuralODE.ACTIVATIONS)
        @test all(isfinite, evaluate(MLP([[1.0;;], [1.0;;]], [[0.0], [0.0]]; activation=name), [-30.0]))
    end
    @test_throws ArgumentError MLP([[1.0;;]], [[0.0]]; activation="tahn")
    slope = evaluate(SEIR(0.2, 3.0, 0.4), [0.9, 0.05, 0.03, 0.02])
    @test slope ≈ [-0.0162, -0.0038, 0.014, 0.006]
    @test abs(sum(slope)) < 1e-16
end
