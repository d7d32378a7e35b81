# Batches of independent samples: the same numbers as in separate solves, on every path.
module EnsemblesTest

using PyNeuralODE
using PyNeuralODE: HANDLES, SolveFailure, call, free_handle!, sample_number, unflatten
using Test

const FIELD = MLP([2, 4, 2])
const VALUES = collect(range(-0.5, 0.5; length = 22))
const STARTS = [1.0 0.3 -1.0; 0.5 -1.0 0.2]
const TIMES = [[0.0, 0.5, 1.0], [0.0, 2.0], [1.0, 0.5, 0.25, 0.0]]

function request(path,
        gradient;
        field = Dict{String, Any}("kind" => "MLP", "sizes" => [2, 4, 2], "activation" => "tanh",
            "input_map" => "identity", "input_scale" => 1.0, "output_scale" => 1.0),
        parameters = unflatten(FIELD, VALUES), starts = STARTS, times = TIMES, own = [], control = Dict{String, Any}())
    tolerances = Dict{String, Any}("rtol" => 1e-10, "atol" => 1e-10)
    return Dict{String, Any}(
        "field" => field, "solver" => "Tsit5", "gradient" => Dict{String, Any}("kind" => gradient),
        "path" => path, "vjp" => "hand", "control" => merge(tolerances, control), "ts" => times, "u0" => starts,
        "parameters" => parameters, "own" => own, "differentiable" => path != "no_gradient")
end

"The states, and the gradients of the sum of all states, of one sample solved alone."
function alone(k, p = VALUES)
    s = make_solve("discrete", FIELD, STARTS[:, k], TIMES[k]; control = Control(rtol = 1e-10, atol = 1e-10))
    ys = copy(solve!(s, p, STARTS[:, k]))
    pbar, u0bar = zero(p), zeros(2)
    pullback!(pbar, u0bar, s, one.(ys))
    return ys, pbar, u0bar
end

const PATHS = (("discrete", "Backprop"), ("discrete", "Checkpointed"), ("sensitivity", "InterpolatingAdjoint"),
    ("sensitivity", "GaussAdjoint"), ("sensitivity", "QuadratureAdjoint"), ("sensitivity", "BacksolveAdjoint"),
    ("sensitivity", "ForwardMode"))

@testset "ensemble: $gradient" for (path, gradient) in PATHS
    reply = call("ensemble", request(path, gradient))
    back = call("ensemble_pullback", Dict{String, Any}("handle" => reply["handle"], "ysbar" => ones(2, 4, 3)))
    free_handle!(reply["handle"])
    total = zero(VALUES)
    for k in 1:3
        ys, pbar, u0bar = alone(k)
        n = length(TIMES[k])
        @test reply["ys"][:, 1:n, k] ≈ ys rtol = 1e-8
        @test all(iszero, reply["ys"][:, (n + 1):end, k])
        @test back["u0"][:, k] ≈ u0bar rtol = 1e-6
        total .+= pbar
    end
    for (name, bar) in unflatten(FIELD, total)
        @test back["parameters"][name] ≈ bar rtol = 1e-6
    end
    @test length(reply["nfev"]) == length(reply["accepted"]) == 3
end

@testset "ensemble: parameters and tolerances of each sample" begin
    named = unflatten(FIELD, VALUES)
    own = merge(named, Dict("bias_2" => [named["bias_2"]'; 2 .* named["bias_2"]'; -named["bias_2"]']))
    control = Dict{String, Any}("atol" => [1e-10 1e-11 1e-10; 1e-10 1e-10 1e-11])
    reply = call("ensemble", request("discrete", "Backprop"; parameters = own, own = ["bias_2"], control))
    back = call("ensemble_pullback", Dict{String, Any}("handle" => reply["handle"], "ysbar" => ones(2, 4, 3)))
    free_handle!(reply["handle"])
    @test size(back["parameters"]["bias_2"]) == (3, 2)
    for k in 1:3
        p = PyNeuralODE.flatten(FIELD, merge(named, Dict("bias_2" => own["bias_2"][k, :])))
        ys, pbar, _ = alone(k, p)
        @test reply["ys"][:, 1:length(TIMES[k]), k] ≈ ys rtol = 1e-7
        @test back["parameters"]["bias_2"][k, :] ≈ unflatten(FIELD, pbar)["bias_2"] rtol = 1e-7
    end
end

@testset "ensemble: without a gradient" begin
    reply = call("ensemble", request("no_gradient", "Backprop"))
    @test reply["handle"] === nothing
    @test reply["ys"][:, 1:2, 2] ≈ alone(2)[1] rtol = 1e-8
end

@testset "ensemble: a failure names the sample" begin
    square = Dict{String, Any}("kind" => "Equations", "equations" => [("x", "x**2")], "parameters" => [],
        "steps" => ["* x x"], "outputs" => ["#1"])
    for (path, gradient) in (("discrete", "Backprop"), ("no_gradient", "Backprop"))
        asked = request(path, gradient; field = square, parameters = Dict{String, Any}(), starts = [0.1 2.0],
            times = [[0.0, 1.0], [0.0, 1.0]])
        @test_throws r"sample 1: .*t = 0\.5" call("ensemble", asked)
    end
end

@testset "ensemble: the argument of SciMLBase 2 and of SciMLBase 3" begin
    @test sample_number(2) == sample_number((; sim_id = 2)) == 2
end

end
