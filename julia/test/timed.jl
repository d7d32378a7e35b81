# Fields whose weights depend on time: values compared with formulas written out here, hand-written products with ForwardDiff,
# solves and their gradients.

module TimedTest

using ComponentArrays: ComponentVector, getaxes, getdata
using ForwardDiff: ForwardDiff
using LinearAlgebra
using PyNeuralODE
using PyNeuralODE: AdjointSolve, Augmented, ConcatConv, ConcatMLP, Control, DiscreteSolve, Flow, FlowSolve, GatedMLP,
                   HyperMLP, UserError,
                   counts, draw!, loss_gradient!, make_solve, solve!, solve, traceable
using Random: Xoshiro
using Test
using Zygote: Zygote

random(field, seed = 1; size = 0.5) = (p = parameters(field); p .= size .* randn(Xoshiro(seed), length(p)); p)

# Deep and shallow fields, with scales; the image is not square and has more than one channel.
const FIELDS = (HyperMLP(2, 5, 4; time_scale = 3, output_scale = 2),
    ConcatMLP([2, 5, 4, 2]; activation = "gelu", time_scale = 2, output_scale = 0.7),
    ConcatMLP([2, 6, 2]), GatedMLP([2, 5, 3, 2]; activation = "swish", time_scale = 2, output_scale = 0.7), GatedMLP([
        2, 6, 2]),
    ConcatConv(1, 2, 3; hidden = [2], time_scale = 2, output_scale = 0.5))

sigmoid(x) = 1 / (1 + exp(-x))

@testset "timed: values" begin
    d, width, t = 2, 5, 0.8
    z = [0.4, -0.9]
    p = random(FIELDS[1])
    made = p.weight_3 * tanh.(p.weight_2 * tanh.(p.weight_1 * [t / 3] .+ p.bias_1) .+ p.bias_2) .+ p.bias_3
    rows(k) = permutedims(reshape(made[((k - 1) * d * width + 1):(k * d * width)], d, width))   # row by row, as NumPy stores them
    W, U, G, b = rows(1), rows(2), rows(3), made[(3d * width + 1):end]
    @test slope(FIELDS[1], z, p, t) ≈
          2 / width * sum(U[k, :] .* sigmoid.(G[k, :]) .* tanh(dot(W[k, :], z) + b[k]) for k in 1:width)

    p = random(FIELDS[3])
    hidden = tanh.(p.weight_1 * [z; t] .+ p.bias_1)
    @test slope(FIELDS[3], z, p, t) ≈ p.weight_2 * [hidden; t] .+ p.bias_2

    p = random(FIELDS[5])
    net(w1, b1, w2, b2) = w2 * tanh.(w1 * [t] .+ b1) .+ b2
    function layer(x, W, b, scale, shift)
        return W * (x .* sigmoid.(net(scale...)) .+ net(shift...)) .+ b
    end
    first_gates = ((p.scale_weight_1_1, p.scale_bias_1_1, p.scale_weight_1_2, p.scale_bias_1_2),
        (p.shift_weight_1_1, p.shift_bias_1_1, p.shift_weight_1_2, p.shift_bias_1_2))
    second_gates = ((p.scale_weight_2_1, p.scale_bias_2_1, p.scale_weight_2_2, p.scale_bias_2_2),
        (p.shift_weight_2_1, p.shift_bias_2_1, p.shift_weight_2_2, p.shift_bias_2_2))
    hidden = tanh.(layer(z, p.weight_1, p.bias_1, first_gates...))
    @test slope(FIELDS[5], z, p, t) ≈ layer(hidden, p.weight_2, p.bias_2, second_gates...)

    # The values of an image are in the order of Python's (channels, height, width).
    field = ConcatConv(2, 3, 4; hidden = [], kernel = 3)
    p, x = random(field), randn(Xoshiro(2), 24)
    pixel(c, i, j) = c > 2 ? (1 <= i <= 3 && 1 <= j <= 4 ? t : 0.0) :
                     (1 <= i <= 3 && 1 <= j <= 4 ? x[(c - 1) * 12 + (i - 1) * 4 + j] : 0.0)
    truth = [p.bias_1[o] +
             sum(p.weight_1[o, c, a, b] * pixel(c, i + a - 2, j + b - 2) for c in 1:3, a in 1:3, b in 1:3)
             for j in 1:4, i in 1:3, o in 1:2]
    @test slope(field, x, p, t) ≈ vec(truth)
end

@testset "timed: evaluator of $(nameof(typeof(field))), $(batch ? "batch" : "vector")" for field in FIELDS,
    batch in (false, true)

    d, t = dimension(field), 0.8
    p = random(field)
    axes = getaxes(p)
    u = batch ? randn(Xoshiro(2), d, 3) : randn(Xoshiro(2), d)
    λ = randn(Xoshiro(3), size(u))
    e, du, ubar, pbar = evaluator(field, u), similar(u), similar(u), fill(NaN, length(p))
    slope!(du, e, u, p, t)
    @test du ≈ slope(field, u, p, t)
    pullback!(ubar, pbar, e, λ, u, p, t)
    @test ubar ≈ ForwardDiff.gradient(u -> dot(λ, slope(field, u, p, t)), u)
    @test pbar ≈ ForwardDiff.gradient(q -> dot(λ, slope(field, u, ComponentVector(q, axes), t)), getdata(p))
    other = fill(NaN, length(p))
    pullback!(nothing, other, e, λ, u, p, t)
    @test other == pbar
    # Needed by stiff solvers: the derivative with respect to time, for parameters without names.
    dual = similar(u, typeof(ForwardDiff.Dual(0.0, 1.0)))
    slope!(dual, e, u, getdata(p), ForwardDiff.Dual(t, 1.0))
    @test ForwardDiff.partials.(dual, 1) ≈ ForwardDiff.derivative(t -> slope(field, u, p, t), t)
end

# Each field takes a minute to compile, so only one field of each kind is tested.
@testset "timed: $(nameof(typeof(field))) as a traceable function" for field in FIELDS[[1, 4, 6]]
    u, λ, p = randn(Xoshiro(2), dimension(field)), randn(Xoshiro(3), dimension(field)), random(field)
    e, f, ubar, pbar = evaluator(field, u), traceable(field), similar(u), zeros(length(p))
    pullback!(ubar, pbar, e, λ, u, p, 0.8)
    traced = Zygote.gradient((u, p) -> dot(λ, f(u, p, 0.8)), u, getdata(p))
    @test traced[1] ≈ ubar
    @test traced[2] ≈ pbar
end

@testset "timed: augmented $(nameof(typeof(inner))), hutchinson $hutchinson, penalties $penalized" for inner in FIELDS,
    hutchinson in (false, true), penalized in (false, true)
    d, n, t = dimension(inner), 3, 0.8
    noise = hutchinson ? draw!(zeros(d, n), "gaussian", 3) : nothing
    field, p = Augmented(inner, noise; kinetic = penalized, jacobian = penalized), random(inner)
    u, λ = randn(Xoshiro(4), dimension(field), n), randn(Xoshiro(5), dimension(field), n)
    jacobians = [ForwardDiff.jacobian(y -> slope(inner, y, p, t), u[1:d, k]) for k in 1:n]
    truth = [slope(inner, u[1:d, :], p, t);
             [hutchinson ? dot(noise[:, k], J, noise[:, k]) : tr(J) for (k, J) in enumerate(jacobians)]']
    penalized && (truth = [truth; sum(abs2, truth[1:d, :]; dims = 1)
              [sum(abs2, hutchinson ? J' * noise[:, k] : J) for (k, J) in enumerate(jacobians)]'])
    e, du, ubar, pbar = evaluator(field, u), similar(u), similar(u), similar(p)
    @test slope!(du, e, u, p, t) ≈ truth
    v, q = randn(Xoshiro(6), size(u)), randn(Xoshiro(7), length(p))
    # Fourth-order finite differences of the hand-written `slope!`, which was checked above.
    value(h) = dot(λ, slope!(similar(u), e, u .+ h .* v, p .+ h .* q, t))
    along = (8(value(1e-4) - value(-1e-4)) - value(2e-4) + value(-2e-4)) / 12e-4
    pullback!(ubar, pbar, e, λ, u, p, t)
    @test dot(ubar, v) + dot(pbar, q) ≈ along rtol = 1e-8
end

@testset "timed: solves of $(nameof(typeof(field)))" for field in FIELDS
    d, ts = dimension(field), [0.0, 0.7, 1.5]
    p, u0 = random(field), randn(Xoshiro(2), d)
    starts = randn(Xoshiro(3), d, 4)
    tight = Control(rtol = 1e-10, atol = 1e-10)
    truth = solve(field, p, u0, ts; solver = "Vern9", control = tight).ys
    @test solve(field, p, u0, ts; solver = "Rodas5P", control = Control(rtol = 1e-8, atol = 1e-8)).ys ≈ truth rtol = 1e-6
    @test solve!(DiscreteSolve(field, u0, ts; control = tight), p, u0) ≈ truth rtol = 1e-8
    # Exact gradients of the package's own fixed steps, for one sample and for many, compared with finite differences.
    ysbar = randn(Xoshiro(4), d, 4, 3)
    s = DiscreteSolve(field, starts, ts; control = Control(step_size = 0.25))
    pbar, u0bar = zeros(length(p)), zeros(d, 4)
    solve!(s, p, starts)
    pullback!(pbar, u0bar, s, ysbar)
    v, q = randn(Xoshiro(6), d, 4), randn(Xoshiro(7), length(p))
    value(h) = dot(ysbar, solve!(s, p .+ h .* q, starts .+ h .* v))
    @test dot(pbar, q) + dot(u0bar, v) ≈ (8(value(1e-4) - value(-1e-4)) - value(2e-4) + value(-2e-4)) / 12e-4 rtol = 1e-8
    # The continuous adjoint agrees to within its tolerance.
    gradients = map(("discrete" => "Backprop", "discrete" => "Checkpointed",
        "sensitivity" => "InterpolatingAdjoint")) do (path, gradient)
        s = make_solve(path, field, starts, ts; gradient, control = tight)
        solve!(s, p, starts)
        pullback!(pbar, u0bar, s, ysbar)
        [pbar; vec(u0bar)]
    end
    @test gradients[2] ≈ gradients[1] rtol = 1e-12
    @test gradients[3] ≈ gradients[1] rtol = 1e-6
end

@testset "timed: flows of $(nameof(typeof(field)))" for field in FIELDS
    trace = field isa ConcatConv ? "hutchinson" : "exact"
    p, x = random(field, 2; size = 0.3), randn(Xoshiro(3), dimension(field), 6)
    gradients = map(("discrete" => "Backprop", "discrete" => "Checkpointed",
        "batched_sensitivity" => "InterpolatingAdjoint")) do (path, gradient)
        s = FlowSolve(Flow(field; times = (0.0, 1.3), trace, gradient, control = Control(rtol = 1e-9, atol = 1e-9)),
            x; path, kinetic = true)
        grad = zeros(length(p))
        loss_gradient!(grad, s, p, x; kinetic = 0.1, seed = 1)
        grad
    end
    @test gradients[2] ≈ gradients[1] rtol = 1e-12
    @test gradients[3] ≈ gradients[1] rtol = 1e-6
end

@testset "timed: descriptions" begin
    scales = Dict("time_scale" => 2.0, "output_scale" => 0.5)
    field = field_from(merge(Dict("kind" => "HyperMLP", "dim" => 2, "width" => 5, "hidden" => 4), scales))
    @test shapes(field) == [:weight_1 => (4, 1), :bias_1 => (4,), :weight_2 => (4, 4),
        :bias_2 => (4,), :weight_3 => (35, 4), :bias_3 => (35,)]
    field = field_from(merge(Dict("kind" => "ConcatMLP", "sizes" => Any[2, 5, 2], "activation" => "elu"), scales))
    @test shapes(field) == [:weight_1 => (5, 3), :bias_1 => (5,), :weight_2 => (2, 6), :bias_2 => (2,)]
    field = field_from(merge(Dict("kind" => "GatedMLP", "sizes" => Any[2, 3, 2], "activation" => "tanh"), scales))
    @test first.(shapes(field))[1:10] ==
          [:scale_weight_1_1, :scale_bias_1_1, :scale_weight_1_2, :scale_bias_1_2, :shift_weight_1_1,
        :shift_bias_1_1, :shift_weight_1_2, :shift_bias_1_2, :weight_1, :bias_1]
    @test last.(shapes(field))[11:20] == [(3, 1), (3,), (3, 3), (3,), (3, 1), (3,), (3, 3), (3,), (2, 3), (2,)]
    field = field_from(merge(
        Dict("kind" => "ConcatConv", "channels" => 1, "height" => 4, "width" => 5, "hidden" => Any[3], "kernel" => 3,
            "activation" => "softplus"),
        scales))
    @test dimension(field) == 20
    @test shapes(field) == [:weight_1 => (3, 2, 3, 3), :bias_1 => (3,), :weight_2 => (1, 4, 3, 3), :bias_2 => (1,)]
    @test_throws UserError ConcatMLP([2, 2]; activation = "tahn")
end

end
