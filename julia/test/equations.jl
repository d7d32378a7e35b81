# Formulas: every operation, right-hand sides and products compared with hand-written functions, problems with known solutions.

using ForwardDiff: ForwardDiff
using PyNeuralODE: AdjointSolve, Control, Equations, OPERATIONS, UserError, autonomous, dimension, evaluator,
                   field_from, parameters,
                   pullback!, slope, slope!, solve!, solve, traceable
using ReverseDiff: ReverseDiff
using Test
using Zygote: Zygote

allocations(du, e, u, p) = @allocated slope!(du, e, u, p, 0.3)
allocations(ubar, pbar, e, λ, u, p) = @allocated pullback!(ubar, pbar, e, λ, u, p, 0.3)

@testset "equations" begin
    @testset "every operation" begin
        by_hand = Dict{String, Function}(
            "+" => +, "-" => -, "*" => *, "/" => /, "**" => ^, "square" => x -> x^2, "neg" => -, "max" => max, "min" =>
                min,
            "sigmoid" => x -> 1 / (1 + exp(-x)),
            (string(f) => f
            for f in (abs, acos, asin, atan, cos, cosh, exp, expm1, log, log10, log1p, sin, sinh, sqrt, tan, tanh))...
        )
        @test Set(first.(OPERATIONS)) == keys(by_hand)
        u = [0.3, 0.7]
        for (name, f) in by_hand
            binary = name in PyNeuralODE.TWO_OPERANDS
            field = Equations(["x", "y"], String[], [binary ? "$name x y" : "$name x"], ["#1", "y"])
            hand(u) = [binary ? f(u[1], u[2]) : f(u[1]), u[2]]
            @test slope(field, u, Float64[], 0.0) ≈ hand(u)
            λ, ubar = [1.3, 0.4], zeros(2)
            pullback!(ubar, nothing, evaluator(field, u), λ, u, Float64[], 0.0)
            @test ubar ≈ ForwardDiff.gradient(u -> λ'hand(u), u)
            single = slope(field, Float32.(u), Float32[], 0.0)
            @test single isa Vector{Float32} && single ≈ hand(u)
        end
        outside = ["log x", "log10 x", "log1p x", "sqrt x", "acos x", "asin x", "** x 0.5"]
        field = Equations(["x"], String[], outside, ["#1"])
        for k in eachindex(outside)
            field.outputs[1] = 2 + k
            @test isnan(only(slope(field, [-2.0], Float64[], 0.0)))
        end
        @test slope(Equations(["x"], String[], ["** x 3.0"], ["#1"]), [-2.0], Float64[], 0.0) ≈ [-8]
        e, ubar = evaluator(Equations(["x"], String[], ["max x 0.0"], ["#1"]), [0.0]), [0.0]
        pullback!(ubar, nothing, e, [1.0], [0.0], Float64[], 0.0)
        @test ubar == [0.5]
    end

    # A forced predator-prey model, as described by pyneuralode.Equations.
    field = field_from(Dict(
        "kind" => "Equations",
        "equations" => [["x", "a*x*(1 + sin(w*t)/2) - b*met"], ["y", "met - c*y**1.5/(1 + y)"]],
        "parameters" => [["a", 1.5], ["b", 1.0], ["c", 3.0], ["w", 2.0]], "let" => [["met", "x*y"]],
        "steps" =>
            ["* x y", "* a x", "* w t", "sin #3", "/ #4 2.0", "+ 1.0 #5", "* #2 #6", "* b #1", "- #7 #8", "** y 1.5",
                "* c #10", "+ 1.0 y", "/ #11 #12", "- #1 #13"],
        "outputs" => ["#9", "#14"]))
    hand(u::AbstractVector, p, t) = [
        p[1] * u[1] * (1 + sin(p[4] * t) / 2) - p[2] * u[1] * u[2], u[1] * u[2] - p[3] * u[2]^1.5 / (1 + u[2])]
    hand(u::AbstractMatrix, p, t) = reduce(hcat, [hand(u[:, k], p, t) for k in axes(u, 2)])
    p = parameters(field, Dict("a" => 1.5, "b" => 1.1, "c" => 3.0, "w" => 2.0))
    flat = collect(p)

    @testset "slope and products: $(size(u))" for u in ([0.7, 1.3], [0.7 0.2 2.0; 1.3 0.9 0.4])
        t, λ = 0.3, cos.(u)
        e, du, ubar, pbar = evaluator(field, u), similar(u), similar(u), similar(p)
        expected = hand(u, flat, t)
        in_u, in_p = ForwardDiff.gradient(u -> sum(λ .* hand(u, flat, t)), u),
        ForwardDiff.gradient(p -> sum(λ .* hand(u, p, t)), flat)
        @test dimension(field) == 2 && !autonomous(field)
        @test slope(field, u, p, t) ≈ expected
        @test slope!(du, e, u, p, t) ≈ expected
        pullback!(ubar, pbar, e, λ, u, p, t)
        @test ubar ≈ in_u && pbar ≈ in_p
        pullback!(nothing, fill!(pbar, 7), e, λ, u, flat, t)
        @test pbar ≈ in_p
        pullback!(fill!(ubar, 7), nothing, e, λ, u, flat, t)
        @test ubar ≈ in_u
        @test allocations(du, e, u, p) == 0 && allocations(ubar, pbar, e, λ, u, p) == 0

        @test ForwardDiff.gradient(u -> sum(λ .* slope(field, u, p, t)), u) ≈ in_u
        @test ForwardDiff.derivative(t -> sum(λ .* slope(field, u, p, t)), t) ≈
              ForwardDiff.derivative(t -> sum(λ .* hand(u, flat, t)), t)
        dual = ForwardDiff.Dual.(u, one.(u))
        @test slope!(similar(dual), e, dual, p, t) ≈ hand(dual, flat, t)
        f = traceable(field)
        traced = (u, p) -> sum(λ .* f(u, p, t))
        for gradient in (Zygote.gradient, (f, inputs...) -> ReverseDiff.gradient(f, inputs))
            found = gradient(traced, u, flat)
            @test found[1] ≈ in_u && found[2] ≈ in_p
        end
    end

    @testset "stiff problems" begin
        robertson = Equations(["y1", "y2", "y3"], ["k1", "k2", "k3"],
            ["* k1 y1", "* k3 y2", "* #2 y3", "** y2 2.0", "* k2 #4", "neg #1", "+ #6 #3", "- #1 #3", "- #8 #5"], [
                "#7", "#9", "#5"])
        @test autonomous(robertson)
        solved = solve(robertson, [0.04, 3e7, 1e4], [1.0, 0, 0], [0.0, 40.0, 1e11];
            solver = "Rodas5P", control = Control(rtol = 1e-8, atol = 1e-14))
        @test solved.ys[:, 2] ≈ [0.7158270688, 9.185534765e-6, 0.2841637457] rtol = 1e-7
        @test all(isapprox.(solved.ys[:, 3], [2.083340149701255e-8, 8.333360770334713e-14, 0.9999999791665050]; rtol = 1e-5))
        oscillator = Equations(["x", "y"], ["eps"], ["** x 2.0", "- 1.0 #1", "* #2 y", "- #3 x", "/ #4 eps"], [
            "y", "#5"])
        solved = solve(
            oscillator, [1e-6], [2.0, 0], [0.0, 2.0]; solver = "Rodas5P", control = Control(rtol = 1e-8, atol = 1e-14))
        @test solved.ys[:, 2] ≈ [1.706167732170483, -0.8928097010247975] rtol = 1e-5
    end

    @testset "gradient of a predator-prey model" begin
        prey = Equations(["x", "y"], ["a", "b", "c", "d"],
            ["* a x", "* b x", "* #2 y", "- #1 #3", "neg c", "* #5 y", "* d x", "* #7 y", "+ #6 #8"], ["#4", "#9"])
        s = AdjointSolve(prey, [1.0, 1.0], 0:0.1:10; gradient = "InterpolatingAdjoint",
            control = Control(rtol = 1e-10, atol = 1e-10))
        ys = solve!(s, [1.5, 1.0, 3.0, 1.0], [1.0, 1.0])
        pbar, u0bar = zeros(4), zeros(2)
        pullback!(pbar, u0bar, s, fill!(similar(ys), 1))
        @test sum(ys) ≈ 450.7640640395 rtol = 1e-8
        @test pbar ≈ [8.30536266, -159.48429272, 75.20350821, -339.19509277] rtol = 1e-7
        @test u0bar ≈ [-39.12754122, -8.78778022] rtol = 1e-7
    end

    @testset "mistakes" begin
        @test_throws UserError Equations(["x"], ["k"], ["run x"], ["#1"])
        @test_throws UserError Equations(["x"], ["k"], ["* x z"], ["#1"])
        @test_throws UserError Equations(["x"], ["k"], ["exp x k"], ["#1"])
        @test_throws UserError Equations(["x"], ["k"], ["* x #2", "exp x"], ["#1"])
        @test_throws UserError Equations(["x", "y"], ["k"], ["* x k"], ["#1"])
    end
end
