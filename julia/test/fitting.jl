# Fits recover the parameters that generated the data, take torch's optimizer steps, keep the best parameters, and always end cleanly.

module FittingTests

using ForwardDiff, LinearAlgebra, Test
using ..PyNeuralODE: PyNeuralODE as P, UserError, fit_plan

function settings(kind; given...)
    merge(
        Dict{String, Any}("kind" => kind, "lr" => 1e-3, "schedule" => "constant", "final" => 0.01, "clip" => nothing),
        Dict("Adam" => Dict{String, Any}("betas" => [0.9, 0.999], "eps" => 1e-8),
            "AdamW" => Dict{String, Any}("betas" => [0.9, 0.999], "eps" => 1e-8, "weight_decay" => 1e-2),
            "RMSprop" => Dict{String, Any}("alpha" => 0.99, "eps" => 1e-8),
            "SGD" => Dict{String, Any}("momentum" => 0.0),
            "LBFGS" => Dict{String, Any}("lr" => 1.0, "history" => 50, "tolerance" => 1e-12, "patience" => 5))[kind],
        Dict{String, Any}(string(name) => value for (name, value) in given))
end

function stage(optimizer, iterations, rows; goal = nothing)
    Dict{String, Any}("optimizer" => optimizer, "iterations" => iterations, "rows" => rows, "goal" => goal)
end

with(request; given...) = merge(request, Dict{String, Any}(string(name) => value for (name, value) in given))

number(result, name) = result["parameters"][name][]

const CONTROL = Dict{String, Any}("rtol" => 1e-8, "atol" => 1e-10)
const SOLVE = Dict{String, Any}("solver" => "Tsit5", "gradient" => Dict{String, Any}("kind" => "Backprop"),
    "path" => "discrete", "vjp" => "hand", "control" => CONTROL)

function trajectory(field, parameters, u0, ts)
    copy(P.solve!(
        P.make_solve("discrete", field, u0, ts; control = P.Control(rtol = 1e-10, atol = 1e-12)), P.parameters(field, parameters), u0))
end

const TS = collect(range(0, 3; length = 16))
const MATRIX = [-0.3 -1.0; 1.0 -0.2]
const SPIRAL = trajectory(P.Linear(2), Dict("A" => MATRIX), [1.0, 0.0], TS)
const LINEAR = merge(SOLVE,
    Dict{String, Any}(
        "field" => Dict("kind" => "Linear", "matrix" => [[0.0, 0.0], [0.0, 0.0]], "input_map" => "identity"),
        "parameters" => Dict("A" => [0.0 -0.5; 0.5 0.0]), "u0" => [1.0, 0.0], "ts" => TS, "data" => SPIRAL,
        "weights" => ones(2, 16), "observed" => [0, 1], "reduction" => "sum"))

const DAYS = collect(0:2.0:40)
const EPIDEMIC = trajectory(P.SEIR(), Dict("gamma" => 0.3, "R0" => 2.5, "sigma" => 0.5), [0.98, 0.015, 0.005, 0.0], DAYS)
const OUTBREAK = merge(SOLVE,
    Dict{String, Any}(
        "field" => Dict("kind" => "SEIR"), "parameters" => Dict("gamma" => 0.2, "R0" => 3.0, "sigma" => 0.5),
        "extra" => Dict("e0" => 0.01, "i0" => 0.01), "start" => Dict("kind" => "SEIRStart"), "ts" => DAYS, "t0" => 0.0,
        "data" => EPIDEMIC[3:3, :], "weights" => ones(1, 21), "observed" => [2], "reduction" => "sum", "fixed" =>
            ["sigma"],
        "bounds" => Dict("gamma" => [0.0, nothing], "R0" => [1.0, 6.0], "e0" => [0.0, 0.1], "i0" => [0.0, 0.1]),
        "stages" => [stage(settings("LBFGS"), 200, 21)]))

"Return the objective of a request as a function that also returns the gradient."
function valued(request; rows = length(request["ts"]))
    span = P.Span(P.objective_from(request), rows)
    x = P.start_vector(span.objective.variables)
    return x, y -> (bar = zero(y); (P.value_and_gradient!(bar, span, y)..., bar))
end

function central_differences(f, x, h)
    ends(k, s) = f([x[j] + s * h * (j == k) for j in eachindex(x)])[2]
    return [(ends(k, 1) - ends(k, -1)) / 2h for k in eachindex(x)]
end

@testset "optimizers take the steps of torch.optim" begin
    # The first and the fifth point of torch 2 from (1.5, -0.5, 0.25) with the gradient x^3 - (0.1, 0.2, -0.3).
    cases = [
        (settings("Adam"; lr = 0.1), [1.4000000003053434, -0.40000000307692296, 0.15000000316831674],
            [1.019449932048865, -0.010906846083895874, -0.249147567049506]),
        (settings("AdamW"; lr = 0.1, schedule = "cosine", final = 0.05, weight_decay = 0.3),
            [1.3550000003053435, -0.38500000307692295, 0.14250000316831674],
            [1.13595593022868, -0.20953612500697663, -0.024211722600719222]),
        (settings("RMSprop"; lr = 0.05, schedule = "exponential"),
            [1.0000000152671753, -1.5384610674296084e-07, -0.24999984158420835],
            [0.9422266065088689, 0.11513253131068849, -0.39107297305795613]),
        (settings("SGD"; lr = 0.02, momentum = 0.9, schedule = "cosine", clip = 1.0),
            [1.4801886613822277, -0.49803398929747295, 0.24809070114466125],
            [1.4095817482454729, -0.49073542480568, 0.24097506560678464])
    ]
    for (given, first, fifth) in cases
        x = [1.5, -0.5, 0.25]
        optimizer = P.FirstOrder(given, x)
        points = map(0:4) do k
            gradient = P.clip!(x .^ 3 .- [0.1, 0.2, -0.3], given["clip"])
            copy(P.step!(optimizer, x, gradient, P.rate(given, k, 5)))
        end
        @test points[1] ≈ first rtol = 1e-14
        @test points[5] ≈ fifth rtol = 1e-13
    end
    @test P.rate(settings("Adam"; lr = 0.1, schedule = "exponential"), 1, 3) ≈ 0.01
    @test P.rate(settings("Adam"; lr = 0.1, schedule = "cosine"), 0, 1) == 0.1
    @test_throws UserError P.rate(settings("Adam"; schedule = "linear"), 0, 3)
    @test P.clip!([3.0, 4.0], 10.0) == [3.0, 4.0]
    @test norm(P.clip!([3.0, 4.0], 1.0)) ≈ 1 rtol = 1e-6
end

@testset "bounds are respected, and their transformation is inverted" begin
    for bound in ([0.0, nothing], [nothing, 4.0], [0.0, 4.0], [nothing, nothing])
        variables = P.Variables(["k" => [0.2, 3.0]], Dict("k" => bound), (), Float64)
        x = P.start_vector(variables)
        @test P.arrays(variables, x)["k"] ≈ [0.2, 3.0]
        moved = P.arrays(variables, x .+ 3)["k"]
        @test all(bound[1] === nothing || v > bound[1] for v in moved) &&
              all(bound[2] === nothing || v < bound[2] for v in moved)
        @test !any(moved .≈ [0.2, 3.0])
        weighed(x) = dot([2.0, -1.0], P.values!(similar(x), variables, x))
        @test P.values_pullback!(zero(x), variables, [2.0, -1.0], x) ≈ ForwardDiff.gradient(weighed, x)
    end
    for (bounds, fixed) in ((Dict("k" => [1.0, nothing]), ()), (Dict("k" => [4.0, 0.0]), ()), (
        Dict("q" => [0.0, 1.0]), ()),
        (Dict{String, Any}(), ("k",)), (Dict{String, Any}(), ("q",)))
        @test_throws UserError P.Variables(["k" => [0.2, 3.0]], bounds, fixed, Float64)
    end
end

@testset "hand-written gradients" begin
    ys = [0.2cos(3j + k + 5t) for j in 1:4, k in 1:2, t in 1:5]
    penalty = P.TotalVariation(0.3, 2, 1e-4)
    bar = zero(ys)
    value = P.penalty!(bar, nothing, penalty, ys, nothing)
    plain(ys) = 0.3 * sum(sqrt.(diff(ys[2, :, :]; dims = 2) .^ 2 .+ 1e-4))
    @test value ≈ plain(ys)
    @test bar ≈ ForwardDiff.gradient(plain, ys)
    # Fixed steps: the solve is smooth in the parameters, so that its finite differences are accurate to nine digits.
    incidence = with(OUTBREAK; observed = nothing, observe = Dict("kind" => "Incidence"),
        fixed = String[], t0 = -1.0, reduction = "mean",
        extra = Dict("e0" => 0.01, "i0" => 0.01, "factor" => 0.7), weights = reshape([k % 4 / 2 for k in 1:21], 1, 21),
        penalty = Dict("kind" => "TotalVariation", "weight" => 0.1, "component" => 1, "smooth" => 1e-6),
        control = Dict{String, Any}("step_size" => 0.5), solver = "RK4")
    x, f = valued(incidence)
    @test f(x)[3] ≈ central_differences(f, x, 1e-5) rtol = 1e-7
    net = P.MLP([2, 3, 2])
    values = Dict(string(name) => reshape(sin.(1:prod(shape)), shape) for (name, shape) in P.shapes(net))
    batch = with(LINEAR;
        field = Dict("kind" => "MLP", "sizes" => [2, 3, 2], "activation" => "tanh", "input_map" => "identity",
            "input_scale" => 1.0, "output_scale" => 1.0),
        parameters = values,
        u0 = [1.0 0.5 -1.0; 0.0 0.3 0.2],
        observed = [1], data = reshape([0.1k for k in 1:48], 1, 3, 16), weights = ones(1, 3, 16),
        control = Dict{String, Any}("step_size" => 0.1), solver = "RK4")
    x, f = valued(batch)
    @test f(x)[3] ≈ central_differences(f, x, 1e-5) rtol = 1e-7
end

@testset "L-BFGS recovers rates and the initial state within bounds" begin
    result = fit_plan(OUTBREAK)
    for (name, truth) in ("gamma" => 0.3, "R0" => 2.5, "sigma" => 0.5, "e0" => 0.015, "i0" => 0.005)
        @test number(result, name) ≈ truth rtol = 1e-3
    end
    @test number(result, "sigma") == 0.5
    @test result["finished"] && !result["interrupted"] && result["message"] == "the whole plan ran"
    history = only(result["stages"])
    @test length(history["losses"]) < 200   # `patience` ended the stage
    @test history["evaluations"] >= length(history["losses"])
    @test result["loss"] == history["best_loss"] <= minimum(history["losses"])
end

@testset "first-order optimizers lower the loss and keep the best" begin
    for optimizer in (settings("Adam"; lr = 0.05), settings("AdamW"; lr = 0.05, weight_decay = 0.0), settings("RMSprop"; lr = 0.02),
        settings("SGD"; lr = 0.005, momentum = 0.9))
        result = fit_plan(with(LINEAR; stages = [stage(optimizer, 80, 16)]))
        losses = result["stages"][1]["losses"]
        @test result["loss"] == minimum(losses) < 0.05 * losses[1]
        @test length(losses) == 80
    end
end

@testset "terms of the loss: masks, weights, the mean, components, times" begin
    once = [stage(settings("Adam"), 1, 16)]
    missing_value = SPIRAL[2:2, :]
    missing_value[4] = NaN
    weights = ones(1, 16)
    weights[4] = 0
    states = trajectory(P.Linear(2), LINEAR["parameters"], [1.0, 0.0], TS)
    expected = sum(abs2, (states .- SPIRAL)[2, [1:3; 5:16]])
    seen = with(LINEAR; stages = once, data = missing_value, weights, observed = [1])
    @test fit_plan(seen)["loss"] ≈ expected rtol = 1e-6
    @test 15 * fit_plan(with(seen; reduction = "mean"))["loss"] ≈ expected rtol = 1e-6
    @test fit_plan(with(seen; weights = 2weights))["loss"] ≈ 2expected rtol = 1e-6
    early = fit_plan(with(LINEAR; t0 = 0.0, ts = TS[2:end], data = SPIRAL[:, 2:end], weights = ones(2, 15),
        stages = [stage(settings("Adam"), 1, 1)]))
    @test early["loss"] ≈ sum(abs2, states[:, 2] - SPIRAL[:, 2]) rtol = 1e-6
    @test_throws UserError fit_plan(with(LINEAR; stages = [stage(settings("Adam"), 1, 1)]))   # only the row of the initial state: no free parameter
    @test_throws UserError fit_plan(with(LINEAR; stages = once, observed = [0, 2]))
    @test_throws UserError fit_plan(with(LINEAR; stages = once, observed = [0]))
    @test_throws UserError fit_plan(with(LINEAR; stages = [stage(merge(settings("Adam"), Dict("kind" => "Adma")), 1, 16)]))
end

@testset "growing stages start from the best parameters of the previous stage" begin
    result = fit_plan(with(LINEAR;
        stages = [stage(settings("Adam"; lr = 0.5), 30, 6), stage(settings("Adam"; lr = 0.05), 20, 11),
            stage(settings("Adam"; lr = 0.05), 10, 16), stage(settings("LBFGS"), 5, 16)]))
    for (before, after, rows) in zip(result["stages"], result["stages"][2:end], (11, 16, 16))
        states = trajectory(P.Linear(2), before["parameters"], [1.0, 0.0], TS[1:rows])
        @test after["losses"][1] ≈ sum(abs2, states - SPIRAL[:, 1:rows]) rtol = 1e-5
    end
    @test length.(getindex.(result["stages"], "losses")) == [30, 20, 10, 5]
end

@testset "a goal ends a stage, and a penalty is not part of the loss" begin
    result = fit_plan(with(LINEAR; stages = [stage(settings("LBFGS"), 100, 16; goal = 1e-3)]))
    @test result["loss"] <= 1e-3 && length(result["stages"][1]["losses"]) < 100
    penalty = Dict("kind" => "TotalVariation", "weight" => 0.1, "component" => 0, "smooth" => 1e-10)
    first = fit_plan(with(LINEAR; penalty, stages = [stage(settings("Adam"), 1, 16)]))["stages"][1]
    states = trajectory(P.Linear(2), LINEAR["parameters"], [1.0, 0.0], TS)
    @test first["objectives"][1] - first["losses"][1] ≈ 0.1 * sum(sqrt.(diff(states[1, :]) .^ 2 .+ 1e-10)) rtol = 1e-6
    @test first["best_loss"] == first["losses"][1] && first["best_objective"] == first["objectives"][1]
end

@testset "an interrupted fit returns the best parameters so far" begin
    plan = [stage(settings("RMSprop"; lr = 0.3), 30, 16), stage(settings("LBFGS"), 40, 16)]
    for (last, stop) in ((() -> false, 20), (() -> throw(P.Interrupted()), 20), (() -> throw(InterruptException()), 20), (
        () -> false, 33))
        calls = []
        function progress(call...)
            push!(calls, call)
            return length(calls) == stop ? last() : nothing
        end
        result = fit_plan(with(LINEAR; stages = plan, report_every = 1e6); progress)
        @test result["interrupted"] && !result["finished"]
        k = length(result["stages"])
        done = length(result["stages"][end]["losses"])
        @test startswith(result["message"], "interrupted in stage $k of 2, iteration $done; the parameters are the best")
        @test calls[end][1:2] == (k - 1, done - 1) && calls[end][4] == result["stages"][end]["losses"][end]
        @test result["loss"] == calls[end][3] <= minimum(result["stages"][end]["losses"])
        states = trajectory(P.Linear(2), result["parameters"], [1.0, 0.0], TS)
        @test sum(abs2, states - SPIRAL) ≈ result["loss"] rtol = 1e-4
    end
    calls = Ref(0)
    fit_plan(with(LINEAR; stages = plan[1:1], every = 10, report_every = 1e6); progress = (_...) -> (
        calls[] += 1; nothing))
    @test calls[] == 3
end

struct Wall <: P.Penalty
    error::Bool
    met::Base.RefValue{Int}
end

function P.penalty!(ysbar, vbar, wall::Wall, ys, v)
    maximum(abs, v) > 1.02 || return 0.0
    wall.met[] += 1
    return wall.error ? throw(P.SolveFailure("no way", 1.0, 0.1)) : NaN
end

@testset "parameters that cannot be solved" begin
    # A line search that reaches parameters for which the problem cannot be solved backs off and finds the minimum.
    for raises in (true, false)
        met = Ref(0)
        P.PENALTIES["Wall"] = (_...) -> Wall(raises, met)
        result = fit_plan(with(LINEAR; stages = [stage(settings("LBFGS"), 80, 16)], penalty = Dict("kind" => "Wall")))
        @test met[] > 0 && result["finished"]
        @test result["parameters"]["A"] ≈ MATRIX rtol = 1e-3
        # A first-order optimizer that reaches such parameters stops with the best parameters so far.
        result = fit_plan(with(LINEAR; stages = [stage(settings("SGD"; lr = 0.2), 50, 16)], penalty = Dict("kind" => "Wall")))
        cause = raises ? "no way" : "the loss is nan"
        @test result["message"] == "stopped in stage 1 of 1, iteration 1: $cause; the parameters are the best so far"
        @test !result["finished"] && !result["interrupted"]
        @test result["parameters"]["A"] == LINEAR["parameters"]["A"] &&
              result["loss"] == result["stages"][1]["losses"][1]
    end
    delete!(P.PENALTIES, "Wall")
    # If the problem cannot be solved for the initial parameters, there are no best parameters.
    hopeless = with(LINEAR; stages = [stage(settings("LBFGS"), 80, 16)], control = Dict{String, Any}("max_steps" => 2))
    result = fit_plan(hopeless)
    @test startswith(result["message"], "stopped in stage 1 of 1, iteration 0") && result["loss"] == Inf
    @test result["parameters"]["A"] == LINEAR["parameters"]["A"]
end

end
