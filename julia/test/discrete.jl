using ForwardDiff
using LinearAlgebra
using OrdinaryDiffEqTsit5: Tsit5
using PyNeuralODE
using PyNeuralODE: ACTIVATIONS, Control, DiscreteSolve, MAX_DOT_ROWS, SolveFailure, TABLEAUS, UserError, activate,
                   counts, derivative, lanes, load, solve!,
                   store!, value_and_slope
using Random
using SciMLBase: SciMLBase
using Test

# Small networks that cover every branch of the kernels: few and many outputs, more than fit in a SIMD vector, one and several samples.
# A forced predator-prey model.
const FORCED = Equations(["x", "y"], ["a", "b", "c", "d", "w"],
    ["* a x", "* b x", "* #2 y", "- #1 #3", "* w t", "sin #5",
        "+ #4 #6", "* d x", "* #8 y", "* c y", "neg t", "exp #11",
        "+ 1.0 #12", "/ #10 #13", "- #9 #14"], ["#7", "#15"])
forced(u, p, t) = [p[1] * u[1] - p[2] * u[1] * u[2] + sin(p[5] * t), p[4] * u[1] * u[2] - p[3] * u[2] / (1 + exp(-t))]

randomized(field, T = Float64; seed = 1) = T.(0.4 .* randn(Xoshiro(seed), length(parameters(field))))
const FIELDS = Dict(
    "tanh on cubes" => (MLP([2, 9, 2]; input_map = "cube", input_scale = 2, output_scale = 1.5), [0.8, -0.5]),
    "deep swish" => (MLP([4, 20, 37, 4]; activation = "swish"), [0.1, 0.2, -0.3, 0.0]),
    "wide state" =>
        (MLP([19, 8, 19]; activation = "softplus", input_map = "square", input_scale = 3, output_scale = 0.2),
            collect(range(-0.5, 0.5; length = 19))),
    "no hidden layer" => (MLP([3, 3]), [0.3, 0.1, -0.2]),
    "linear" => (Linear(2; input_map = "cube"), [1.1, -0.4]),
    "SEIR" => (SEIR(), [0.9, 0.07, 0.03, 0.0]),
    "formulas" => (FORCED, [1.0, 0.8])
)
start_parameters(field, T = Float64) = randomized(field, T)
start_parameters(::SEIR, T = Float64) = T[0.3, 2.5, 0.4]
start_parameters(::Equations, T = Float64) = T[1.5, 1.0, 3.0, 1.0, 2.0]

function gradient(s, p, u0, ysbar)
    solve!(s, p, u0)
    pbar, u0bar = similar(p), similar(u0)
    pullback!(pbar, u0bar, s, ysbar)
    return pbar, u0bar
end

"Return the states after fixed steps, computed directly with the tableau's formulas."
function plain_steps(tableau, field, p, u0, grid)
    y, states = u0, Any[u0]
    for (t, t_end) in zip(grid, grid[2:end])
        h, k = t_end - t, []
        for i in 1:tableau.stages
            argument = i == 1 ? y : y .+ h .* sum(tableau.rows[j, i] .* k[j] for j in 1:(i - 1))
            push!(k, slope(field, argument, p, t + h * sum(tableau.rows[:, i])))
        end
        y = y .+ h .* sum(tableau.ends[j, 1] .* k[j] for j in 1:tableau.stages)
        push!(states, y)
    end
    return states
end

as_components(field, flat) = PyNeuralODE.ComponentVector(flat, PyNeuralODE.getaxes(parameters(field)))

@testset "discrete: activations to a few units in the last place, $T" for T in (Float32, Float64)
    xs = T[range(-12, 12; length = 4000); exp10.(range(-6, 1; length = 1000)); -exp10.(range(-6, 1; length = 1000))]
    xs = xs[1:(end - length(xs) % lanes(T))]
    for (name, kind) in ACTIVATIONS
        values, slopes = similar(xs), similar(xs)
        GC.@preserve xs values slopes for i in 0:lanes(T):(length(xs) - 1)
            value, slope = value_and_slope(kind, load(pointer(xs), i))
            store!(pointer(values), value, i)
            store!(pointer(slopes), slope, i)
        end
        exact = activate.(kind, big.(xs))
        exact_slopes = derivative.(kind, big.(xs), exact)
        @test maximum(abs, values .- exact) < 12eps(T)
        @test maximum(abs, slopes .- exact_slopes) < 8eps(T)
        # These two use functions of Base and SpecialFunctions; gelu suffers from cancellation near its zero.
        name in ("gelu", "sin") || @test maximum(abs.(values .- exact) ./ eps.(max.(abs.(T.(exact)), floatmin(T)))) < 4
    end
    nothing_known = fill(T(NaN), lanes(T))
    for kind in (Val(:tanh), Val(:swish), Val(:softplus), Val(:elu), Val(:relu), Val(:sigmoid))
        GC.@preserve nothing_known @test isnan(first(value_and_slope(kind, load(pointer(nothing_known)))).data[1].value)
    end
end

@testset "discrete: gradient of $name against finite differences" for (name, (field, u0)) in FIELDS
    p, ts, e = start_parameters(field), [0.0, 0.3, 0.35, 1.0, 2.0], 1e-5
    ysbar = cos.(reshape(1.0:(length(u0) * length(ts)), length(u0), :))
    for solver in ("Tsit5", "Vern7")
        s = DiscreteSolve(field, u0, ts; solver, control = Control(rtol = 1e-12, atol = 1e-12))
        pbar, u0bar = gradient(s, p, u0, ysbar)
        loss(p, u0) = dot(solve!(s, p, u0), ysbar)
        for i in unique([1; length(p) ÷ 2; length(p)])
            d = e .* (eachindex(p) .== i)
            @test pbar[i]≈(loss(p .+ d, u0)-loss(p .- d, u0))/2e rtol=1e-5 atol=1e-7
        end
        for i in eachindex(u0)
            d = e .* (eachindex(u0) .== i)
            @test u0bar[i]≈(loss(p, u0 .+ d)-loss(p, u0 .- d))/2e rtol=1e-5 atol=1e-7
        end
    end
end

@testset "discrete: fixed steps of $solver agree with its formulas, and their gradient with ForwardDiff" for solver in sort!(collect(keys(TABLEAUS)))
    solver == "RK38" && continue   # not in the catalog of this engine
    for (field, u0) in values(FIELDS)
        p, ts, h = start_parameters(field), [0.0, 0.25, 1.0], 0.25
        s = DiscreteSolve(field, u0, ts; solver, control = Control(step_size = h))
        ysbar = sin.(reshape(1.0:3length(u0), :, 3))
        states(p, u0) = reduce(hcat, plain_steps(TABLEAUS[solver], field, as_components(field, p), u0, 0:h:1)[[
            1, 2, 5]])
        @test solve!(s, p, u0) ≈ states(p, u0) rtol = 1e-13
        pbar, u0bar = gradient(s, p, u0, ysbar)
        @test pbar ≈ ForwardDiff.gradient(p -> dot(states(p, u0), ysbar), p) rtol = 1e-11
        @test u0bar ≈ ForwardDiff.gradient(u0 -> dot(states(p, u0), ysbar), u0) rtol = 1e-11
    end
end

@testset "discrete: order of $solver" for solver in sort!(collect(keys(TABLEAUS)))
    solver == "RK38" && continue
    field, u0 = Linear(2), [1.0, 0.0]
    A = [-0.2 1.0; -1.0 -0.1]
    order = TABLEAUS[solver].order
    h = order > 6 ? 0.5 : 0.05
    error(h, t) = norm(solve!(DiscreteSolve(field, u0, [0.0, t, 4.0]; solver, control = Control(step_size = h)), vec(A), u0)[:, 2] -
                       exp(A * t) * u0)
    @test log2(error(h, 3.0) / error(h / 2, 3.0)) > order - 0.35
    # Between the steps the order is that of the interpolant, which is lower by 1.
    inside = 3.0 + 0.3h / 4
    @test error(h / 4, inside) < 5 * max(error(h, 3.0), 1e-13)
    # The times of the stages: one step integrates a polynomial in time of this order exactly.
    power = Equations(["x"], ["a"], ["** t $(order - 1).0", "* a #1"], ["#2"])
    s = DiscreteSolve(power, [0.0], [0.5, 2.0]; solver, control = Control(step_size = 1.5))
    @test solve!(s, [3.0], [0.0])[end] ≈ 3 / order * (2.0^order - 0.5^order) rtol = 1e-13
end

@testset "discrete: Checkpointed agrees with Backprop to rounding" for solver in ("Tsit5", "Vern7", "RK4", "DP8"),
    every in (1, 3, 1000)

    for (field, u0) in values(FIELDS)
        p, ts = start_parameters(field), [0.0, 0.1, 0.13, 0.9, 2.0]
        control = Control(rtol = 1e-7, atol = 1e-7, step_size = solver == "RK4" ? 0.02 : nothing)
        ysbar = cos.(reshape(1.0:5length(u0), :, 5))
        whole = DiscreteSolve(field, u0, ts; solver, control)
        pbar, u0bar = gradient(whole, p, u0, ysbar)
        s = DiscreteSolve(field, u0, ts; solver, control, gradient = "Checkpointed", every)
        again = gradient(s, p, u0, ysbar)
        @test again[1] ≈ pbar rtol = 1e-12
        @test again[2] ≈ u0bar rtol = 1e-12
        pullback!(again..., s, 2 .* ysbar)   # the tape remains valid after a pullback
        @test again[1] ≈ 2 .* pbar rtol = 1e-12
        @test counts(s) == counts(whole)
    end
end

@testset "discrete: a batch gives the same results as its samples, and times may decrease, $T" for T in (Float32, Float64)
    for (field, u0) in values(FIELDS), samples in (1, 3, 6)

        p = start_parameters(field, T)
        starts = T.(u0) .* T.(1 .+ (1:samples) ./ 20)'
        for ts in ([0.0, 0.3, 1.0], [1.0, 0.45, 0.0])
            control = Control(step_size = 0.125)
            batch = DiscreteSolve(field, starts, ts; control)
            ysbar = T.(cos.(reshape(1:(length(starts) * 3), size(starts)..., 3)))
            ys = copy(solve!(batch, p, starts))
            pbar, startsbar = gradient(batch, p, starts, ysbar)
            total = zero(p)
            for k in 1:samples
                one = DiscreteSolve(field, T.(u0), ts; control)
                @test solve!(one, p, starts[:, k])≈ys[:, k, :] rtol=20eps(T) atol=20eps(T)
                parts = gradient(one, p, starts[:, k], ysbar[:, k, :])
                total .+= parts[1]
                @test parts[2] ≈ startsbar[:, k] rtol = 200eps(T)
            end
            @test total ≈ pbar rtol = 200eps(T)
        end
    end
    field, u0 = FIELDS["tanh on cubes"]
    p = start_parameters(field)
    there = solve!(DiscreteSolve(field, u0, [0.0, 2.0]; control = Control(rtol = 1e-10, atol = 1e-10)), p, u0)[:, end]
    back = solve!(DiscreteSolve(field, u0, [2.0, 0.7, 0.0]; control = Control(rtol = 1e-10, atol = 1e-10)), p, there)[:, end]
    @test back ≈ u0 rtol = 1e-8
end

@testset "one moving sample among many at rest: $kind" for kind in ("discrete", "SciML")
    field = Equations(["x", "v"], ["m"], ["* x x", "- 1.0 #1", "* #2 v", "* m #3", "- #4 x"], ["v", "#5"])
    start, ts = [2.0, 0.0], [0.0, 5.0]
    function steps(u0, norm)
        control = Control(; norm)
        kind == "SciML" && return solve(field, [1.0], u0, ts; solver = "Rodas5P", control)
        s = DiscreteSolve(field, u0, ts; control)
        return (ys = solve!(s, [1.0], u0), counts(s)...)
    end
    alone, among, hidden = steps(start, "joint"), steps([start zeros(2, 500)], "samples"),
    steps([start zeros(2, 500)], "joint")
    @test (among.accepted, among.rejected) == (alone.accepted, alone.rejected)
    @test among.ys[:, 1, :] ≈ alone.ys rtol = 1e-9
    @test hidden.accepted < alone.accepted
    @test_throws UserError Control(norm = "sample")
end

@testset "discrete: OrdinaryDiffEq agrees" begin
    field, u0 = FIELDS["deep swish"]
    p, ts = start_parameters(field), [0.0, 0.7, 1.5, 3.0]
    f(u, p, t) = slope(field, u, as_components(field, p), t)
    theirs(p, u0) = reduce(hcat,
        SciMLBase.solve(
            SciMLBase.ODEProblem(f, u0, (0.0, 3.0), p), Tsit5(); saveat = ts, reltol = 1e-11, abstol = 1e-11).u)
    s = DiscreteSolve(field, u0, ts; control = Control(rtol = 1e-11, atol = 1e-11))
    @test solve!(s, p, u0) ≈ theirs(p, u0) rtol = 1e-9
    ysbar = cos.(reshape(1.0:16, 4, 4))
    pbar, u0bar = gradient(s, p, u0, ysbar)
    @test u0bar ≈ ForwardDiff.gradient(u0 -> dot(theirs(p, u0), ysbar), u0) rtol = 1e-7
    d, e = randn(Xoshiro(2), length(p)), 1e-5
    @test dot(pbar, d) ≈ dot(theirs(p .+ e .* d, u0) .- theirs(p .- e .* d, u0), ysbar) / 2e rtol = 1e-6
end

@testset "discrete: formulas, states $(size(u0))" for u0 in ([1.0, 0.8], [1.0 0.9 1.2; 0.8 1.1 0.5])
    p, ts, ysbar = start_parameters(FORCED), [0.0, 0.3, 0.35, 1.0, 2.5], cos.(reshape(1.0:5length(u0), size(u0)..., 5))
    f(u, p, t) = reduce(hcat, [forced(u[:, k], p, t) for k in axes(u, 2)])
    function truth(inputs)
        problem = SciMLBase.ODEProblem(f, reshape(inputs[6:end], 2, :), (0.0, 2.5), inputs[1:5])
        return vec(stack(SciMLBase.solve(problem, Tsit5(); saveat = ts, reltol = 1e-11, abstol = 1e-11).u))
    end
    inputs = [p; vec(u0)]
    states, products = truth(inputs), ForwardDiff.gradient(inputs -> dot(truth(inputs), vec(ysbar)), inputs)
    for (T, tolerance) in ((Float64, 1e-9), (Float32, 1e-5)),
        (gradient, every) in (("Backprop", 1), ("Checkpointed", 1), ("Checkpointed", 3))

        s = DiscreteSolve(FORCED, T.(u0), ts; gradient, every, control = Control(rtol = tolerance, atol = tolerance))
        @test vec(solve!(s, T.(p), T.(u0))) ≈ states rtol = 10tolerance
        pbar, u0bar = zeros(T, 5), zeros(T, size(u0))
        pullback!(pbar, u0bar, s, ysbar)
        @test [pbar; vec(u0bar)] ≈ products rtol = 10tolerance
        pullback!(nothing, u0bar .= 0, s, ysbar)
        @test vec(u0bar) ≈ products[6:end] rtol = 10tolerance
    end
end

@testset "discrete: formulas take the steps of the torch engine by $solver" for (solver, alone, together) in (# pyneuralode.solve(..., engine="torch"): evaluations, accepted steps, rejected steps
    ("Tsit5", (518, 86, 0), (578, 96, 0)),
    ("Vern7", (445, 42, 1), (505, 48, 1)),
    ("DP8", (419, 31, 3), (467, 34, 4)),
    ("BS3", (2636, 878, 0), (2930, 976, 0))
)
    p, ts = start_parameters(FORCED), [0.0, 0.3, 0.35, 1.0, 2.0, 6.0]
    for (u0, expected) in (([1.0, 0.8], alone), ([1.0 0.9 1.2; 0.8 1.1 0.5], together))
        s = DiscreteSolve(FORCED, u0, ts; solver, control = Control(rtol = 1e-7, atol = 1e-7))
        solve!(s, p, u0)
        @test Tuple(counts(s)) == expected
    end
end

@testset "discrete: no stage lies beyond the last time, by $solver" for solver in ("Euler", "Midpoint", "RK4", "DP5", "Tsit5", "Vern7", "DP8")
    field = Equations(["x"], String[], ["- 0.7 t", "** #1 1.5"], ["#2"])   # NaN after t = 0.7
    for step_size in (0.1, 0.2), gradient in ("Backprop", "Checkpointed")

        s = DiscreteSolve(field, [0.0], [0.1, 0.45, 0.7]; solver, gradient, control = Control(; step_size))
        @test solve!(s, Float64[], [0.0])[end] ≈ 0.6^2.5 / 2.5 rtol = solver == "Euler" ? 0.5 : 0.02
        u0bar = [0.0]
        pullback!(Float64[], u0bar, s, ones(1, 3))
        @test u0bar == [3.0]
    end
end

allocated(s, p, u0, pbar, u0bar, ysbar) = (@allocated(solve!(s, p, u0)), @allocated(pullback!(pbar, u0bar, s, ysbar)))

@testset "discrete: nothing is allocated after the first solve" for T in (Float32, Float64),
    gradient in ("Backprop", "Checkpointed")

    for (field, u0) in values(FIELDS), starts in (T.(u0), T.(u0) .* ones(T, 1, 5))

        p = as_components(field, start_parameters(field, T))
        s = DiscreteSolve(field, starts, [0.0, 0.4, 2.0]; gradient)
        pbar, u0bar, ysbar = zero(p), zero(starts), ones(T, size(starts)..., 3)
        allocated(s, p, starts, pbar, u0bar, ysbar)
        @test allocated(s, p, starts, pbar, u0bar, ysbar) == (0, 0)
    end
end

@testset "discrete: failures say what to do" begin
    field, u0 = Linear(1; input_map = "square"), [1.0]   # u' = u^2 goes to infinity at t = 1
    s(ts; settings...) = DiscreteSolve(field, u0, ts; control = Control(; settings...))
    message(f) =
        try
            f();
            ""
        catch failure
            ;
            sprint(showerror, failure)
        end
    runs(ts; settings...) = solve!(s(ts; settings...), [1.0], u0)
    @test_throws SolveFailure runs([0.0, 2.0])
    @test occursin(r"the step fell to .* at t = 1(\.0+\d*)?, below the minimum of .*: look for a singularity there",
        message(() -> runs([0.0, 2.0])))
    @test occursin("the solve took max_steps = 5 steps and reached t = 0", message(() -> runs([0.0, 0.9]; max_steps = 5)))
    @test occursin("increase max_steps, loosen rtol and atol, or, if the problem is stiff, use a stiff solver",
        message(() -> runs([0.0, 0.9]; max_steps = 5)))
    @test occursin("non-finite value at the start, t = 0: check the initial state", message(() -> solve!(
        s([
            0.0, 1.0]), [NaN], u0)))
    @test occursin("the state is non-finite at t = 20", message(() -> solve!(s([0.0, 20.0]; step_size = 0.5), [1.0], u0)))
    @test occursin("step_size is 0.001: the time span needs 2000 steps of this size, more than max_steps = 100",
        message(() -> s([0.0, 2.0]; step_size = 1e-3, max_steps = 100)))
    ready = s([0.0, 0.5])
    @test length(solve!(ready, [1.0], u0)) == 2   # a failure does not affect the next solve
    try
        solve!(ready, [NaN], u0)
    catch
    end
    @test solve!(ready, [1.0], u0)[end] ≈ 2 rtol = 1e-5
    @test_throws UserError DiscreteSolve(field, [1.0, 2.0], [0.0, 1.0])
    @test_throws UserError DiscreteSolve(field, u0, [0.0, 1.0]; gradient = "GaussAdjoint")
    @test_throws UserError DiscreteSolve(field, u0, [0.0, 1.0]; solver = "Rodas5P")
    @test_throws UserError DiscreteSolve(field, u0, [0.0, 1.0]; control = Control(rtol = [1e-3, 1e-3]))
    @test_throws UserError solve!(ready, [1.0], [1.0, 2.0])
    @test_throws UserError pullback!([0.0], [0.0], ready, zeros(1, 3))
    @test_throws UserError pullback!([0.0], [0.0], DiscreteSolve(field, u0, [0.0, 1.0]; gradient = nothing), zeros(1, 2))
end
