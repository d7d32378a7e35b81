# Networks whose weights depend on time, with the same parameters as Python's fields of the same names. At a fixed time
# each of them is an ordinary network: the network's evaluator is used with the weights at that time, and the cotangents of those
# weights are propagated back to the parameters.

"""
    Timed

Base type of the fields given by a network whose weights are computed from the parameters and the time. A subtype has the fields
`network` (this network) and `time_scale`, and the methods

1. `weights_at(field, p, t)`, the network's parameters by name, mutating nothing;
2. `workspace(field, u)`, the arrays, like `u`, that the next two methods write to;
3. `weights_at!(w, workspace, field, p, t)`, which writes the network's parameters to the flat `w`;
4. `weights_pullback!(pbar, workspace, field, wbar, p, t)`, which overwrites `pbar` with the product of `wbar` and the derivative of `w`.
"""
abstract type Timed <: VectorField end

dimension(field::Timed) = dimension(field.network)
slope(field::Timed, u, p, t) = slope(field.network, u, weights_at(field, p, t), t)

"""
    HyperMLP(dim=2, width=64, hidden=16; time_scale=1, output_scale=1, initialization=Initialization())

A network with one hidden layer whose weights are the output of a second network, with the time as its input; see pyneuralode's `HyperMLP`.
"""
struct HyperMLP{N <: MLP, H <: MLP} <: Timed
    network::N
    hyper::H
    time_scale::Float64
end

function HyperMLP(
        dim = 2, width = 64, hidden = 16; time_scale = 1.0, output_scale = 1.0, initialization = Initialization())
    return HyperMLP(MLP([dim, width, dim]; output_scale = output_scale / width, initialization),
        MLP([1, hidden, hidden, (3dim + 1) * width]), Float64(time_scale))
end

shapes(field::HyperMLP) = shapes(field.hyper)

"""
    ConcatMLP(sizes; activation="tanh", time_scale=1, output_scale=1, initialization=Initialization())

A network with the time appended to the input of every layer; see pyneuralode's `ConcatMLP`.
"""
struct ConcatMLP{N <: MLP} <: Timed
    network::N
    time_scale::Float64
end

ConcatMLP(sizes; time_scale = 1.0, settings...) = ConcatMLP(MLP(sizes; settings...), Float64(time_scale))

function shapes(field::ConcatMLP)
    return map(shapes(field.network)) do (name, shape)
        name => (length(shape) == 2 ? (shape[1], shape[2] + 1) : shape)
    end
end

"""
    GatedMLP(sizes; activation="tanh", time_scale=1, output_scale=1, initialization=Initialization())

A network whose layers' inputs are gated and shifted by networks with the time as their input; see pyneuralode's `GatedMLP`.
"""
struct GatedMLP{N <: MLP, G <: MLP} <: Timed
    network::N
    gates::Vector{G}     # for each layer: the network that computes its scale (before the sigmoid), and, with other parameters, its shift
    time_scale::Float64
end

function GatedMLP(sizes; time_scale = 1.0, settings...)
    network = MLP(sizes; settings...)
    return GatedMLP(network, [MLP([1, n, n]) for n in network.sizes[1:(end - 1)]], Float64(time_scale))
end

function shapes(field::GatedMLP)
    named_shapes = Pair{Symbol, Dims}[]
    for (l, n) in enumerate(field.network.sizes[1:(end - 1)])
        for net in (:scale, :shift)
            push!(named_shapes, Symbol(net, :_weight_, l, :_1) => (n, 1), Symbol(net, :_bias_, l, :_1) => (n,),
                Symbol(net, :_weight_, l, :_2) => (n, n), Symbol(net, :_bias_, l, :_2) => (n,))
        end
        out = field.network.sizes[l + 1]
        push!(named_shapes, Symbol(:weight_, l) => (out, n), Symbol(:bias_, l) => (out,))
    end
    return named_shapes
end

timed_settings(d) = (time_scale = d["time_scale"], output_scale = d["output_scale"], initialization = Initialization(d))
FIELDS["HyperMLP"] = d -> HyperMLP(d["dim"], d["width"], d["hidden"]; timed_settings(d)...)
FIELDS["ConcatMLP"] = d -> ConcatMLP(d["sizes"]; activation = d["activation"], timed_settings(d)...)
FIELDS["GatedMLP"] = d -> GatedMLP(d["sizes"]; activation = d["activation"], timed_settings(d)...)

# The time in units of `time_scale`, as the networks expect it.
scaled_time(field::Timed, t) = t / oftype(t, field.time_scale)

"Return the (weight, bias) of all layers, `layer(l)` for l = 1 to `layer_count`, under the names of a network's parameters."
function named_layers(layer, layer_count)
    layers = ntuple(layer, layer_count)
    labels(kind) = ntuple(l -> Symbol(kind, l), layer_count)
    return merge(NamedTuple{labels(:weight_)}(map(first, layers)), NamedTuple{labels(:bias_)}(map(last, layers)))
end

function weights_at(field::HyperMLP, p, t)
    d, width = field.network.sizes[1:2]
    made = slope(field.hyper, [scaled_time(field, t)], p, t)
    block(k) = reshape(made[((k - 1) * d * width + 1):(k * d * width)], d, width)
    return (weight_1 = transpose(block(1)), bias_1 = made[(3d * width + 1):end],
        weight_2 = block(2) .* logistic.(block(3)), bias_2 = zero(made[1:d]))
end

function weights_at(field::ConcatMLP, p, t)
    return named_layers(length(field.network.sizes) - 1) do l
        W, n = getproperty(p, Symbol(:weight_, l)), field.network.sizes[l]
        (W[:, 1:n], getproperty(p, Symbol(:bias_, l)) .+ W[:, n + 1] .* scaled_time(field, t))
    end
end

function weights_at(field::GatedMLP, p, t)
    function net(kind, l)
        array(name, k) = getproperty(p, Symbol(kind, name, l, :_, k))
        hidden = tanh.(array(:_weight_, 1)[:, 1] .* scaled_time(field, t) .+ array(:_bias_, 1))
        return array(:_weight_, 2) * hidden .+ array(:_bias_, 2)
    end
    return named_layers(length(field.gates)) do l
        W = getproperty(p, Symbol(:weight_, l))
        (W .* transpose(logistic.(net(:scale, l))), getproperty(p, Symbol(:bias_, l)) .+ W * net(:shift, l))
    end
end

"Split a flat vector of a network's parameters into (weight, bias) for each layer."
function split_layers(network::MLP, flat)
    layers, offset = NTuple{2, UnitRange{Int}}[], 0
    for (n, m) in zip(network.sizes, network.sizes[2:end])
        push!(layers, ((offset + 1):(offset + m * n), (offset + m * n + 1):(offset + m * n + m)))
        offset += m * n + m
    end
    return [(reshape(view(flat, weight), length(bias), :), view(flat, bias)) for (weight, bias) in layers]
end

"A network whose only input is the time, with its evaluator and the cotangent of its output."
struct TimeNetwork{E <: Evaluator, V <: AbstractVector}
    evaluator::E
    time::V
    bar::V
end

function TimeNetwork(network::MLP, u)
    TimeNetwork(evaluator(network, fill!(similar(u, 1), 0)), fill!(similar(u, 1), 0), fill!(similar(u, network.sizes[end]), 0))
end

output!(net::TimeNetwork, p, t) = (fill!(net.time, t); forward!(net.evaluator, net.time, p))
function output_pullback!(pbar, net::TimeNetwork, p, t)
    (fill!(net.time, t); pullback!(nothing, pbar, net.evaluator, net.bar, net.time, p, t))
end

workspace(field::HyperMLP, u) = TimeNetwork(field.hyper, u)

function weights_at!(w, net, field::HyperMLP, p, t)
    d, width = field.network.sizes[1:2]
    made = output!(net, p, scaled_time(field, t))
    block(k) = reshape(view(made, ((k - 1) * d * width + 1):(k * d * width)), d, width)
    (inward, bias), (outward, outward_bias) = split_layers(field.network, w)
    inward .= transpose(block(1))
    bias .= view(made, (3d * width + 1):length(made))
    outward .= block(2) .* logistic.(block(3))
    outward_bias .= 0
    return w
end

function weights_pullback!(pbar, net, field::HyperMLP, wbar, p, t)
    d, width = field.network.sizes[1:2]
    made = output!(net, p, scaled_time(field, t))
    block(x, k) = reshape(view(x, ((k - 1) * d * width + 1):(k * d * width)), d, width)
    (inward, bias), (outward, _) = split_layers(field.network, wbar)
    block(net.bar, 1) .= transpose(inward)
    block(net.bar, 2) .= outward .* logistic.(block(made, 3))
    block(net.bar, 3) .= outward .* block(made, 2) .* logistic.(block(made, 3)) .* logistic.(.-block(made, 3))
    view(net.bar, (3d * width + 1):length(made)) .= bias
    output_pullback!(pbar, net, p, scaled_time(field, t))
    return nothing
end

workspace(::ConcatMLP, u) = nothing

"Like `split_layers`, for the parameters of a `ConcatMLP`: (weight, the time's column, bias)."
function split_timed(field::ConcatMLP, flat)
    offset = 0
    return map(zip(field.network.sizes, field.network.sizes[2:end])) do (n, m)
        weight, column, bias = (offset + 1):(offset + m * n), (offset + m * n + 1):(offset + m * n + m),
        (offset + m * n + m + 1):(offset + m * n + 2m)
        offset += m * n + 2m
        reshape(view(flat, weight), m, n), view(flat, column), view(flat, bias)
    end
end

function weights_at!(w, _, field::ConcatMLP, p, t)
    for ((weight, bias), (W, column, b)) in zip(split_layers(field.network, w), split_timed(field, p))
        weight .= W
        bias .= b .+ column .* scaled_time(field, t)
    end
    return w
end

function weights_pullback!(pbar, _, field::ConcatMLP, wbar, p, t)
    for ((weight, bias), (W, column, b)) in zip(split_layers(field.network, wbar), split_timed(field, pbar))
        W .= weight
        b .= bias
        column .= bias .* scaled_time(field, t)
    end
    return nothing
end

# For each layer, the networks that compute its scale and its shift.
workspace(field::GatedMLP, u) = [(TimeNetwork(net, u), TimeNetwork(net, u)) for net in field.gates]

"Like `split_layers`, for the parameters of a `GatedMLP`: (scale's network, shift's network, weight, bias)."
function split_timed(field::GatedMLP, flat)
    offset = 0
    next(k) = (offset += k; view(flat, (offset - k + 1):offset))
    return map(zip(field.network.sizes, field.network.sizes[2:end])) do (n, m)
        next(n * (n + 3)), next(n * (n + 3)), reshape(next(m * n), m, n), next(m)
    end
end

function weights_at!(w, workspaces, field::GatedMLP, p, t)
    for ((weight, bias), (scales, shifts, W, b), (scale, shift)) in zip(split_layers(field.network, w), split_timed(field, p), workspaces)
        weight .= W .* transpose(logistic.(output!(scale, scales, scaled_time(field, t))))
        bias .= b
        mul!(bias, W, output!(shift, shifts, scaled_time(field, t)), true, true)
    end
    return w
end

function weights_pullback!(pbar, workspaces, field::GatedMLP, wbar, p, t)
    scaled_t = scaled_time(field, t)
    for ((weight, bias), (scales, shifts, W, _), (scalesbar, shiftsbar, Wbar, bbar), (scale, shift)) in zip(
        split_layers(field.network, wbar), split_timed(field, p), split_timed(field, pbar), workspaces)
        gate, moved = logistic.(output!(scale, scales, scaled_t)), output!(shift, shifts, scaled_t)
        bbar .= bias
        Wbar .= weight .* transpose(gate) .+ bias .* transpose(moved)
        scale.bar .= vec(sum(weight .* W; dims = 1)) .* gate .* (1 .- gate)
        mul!(shift.bar, transpose(W), bias)
        output_pullback!(scalesbar, scale, scales, scaled_t)
        output_pullback!(shiftsbar, shift, shifts, scaled_t)
    end
    return nothing
end

"Evaluator of a `Timed` field, or of its augmentation for flows: `inner` is the evaluator of its network, with the weights at the current time."
struct TimedEvaluator{T, F <: VectorField, K <: Timed, E <: Evaluator{T}, V <: AbstractVector{T}, R, U} <: Evaluator{T}
    field::F
    timed::K
    inner::E
    weights::V
    bars::V
    workspace::R
    by_name::U
end

function TimedEvaluator(field, timed::Timed, network, u::AbstractArray{T}) where {T}
    inner = evaluator(network, u)
    flat() = fill!(similar(u, parameter_count(network)), 0)
    return TimedEvaluator(field, timed, inner, flat(), flat(), workspace(timed, u), Unpack(timed))
end

evaluator(field::Timed, u::AbstractVecOrMat) = TimedEvaluator(field, field, field.network, u)

function slope!(du::AbstractArray{T}, e::TimedEvaluator{T}, u::AbstractArray{T},
        p::AbstractVector{T}, t::AbstractFloat) where {T}
    weights_at!(e.weights, e.workspace, e.timed, getdata(p), T(t))
    return slope!(du, e.inner, u, e.weights, T(t))
end

# For dual numbers, including a dual time; flat parameters are converted to arrays by name.
function slope!(du, e::TimedEvaluator, u, p, t)
    copyto!(du, slope(e.field, u, p isa Union{ComponentVector, NamedTuple} ? p : e.by_name(p), t))
end

function pullback!(ubar, pbar, e::TimedEvaluator{T}, λ, u, p, t) where {T}
    weights_at!(e.weights, e.workspace, e.timed, getdata(p), T(t))
    pullback!(ubar, pbar === nothing ? nothing : e.bars, e.inner, λ, u, e.weights, T(t))
    pbar === nothing || weights_pullback!(getdata(pbar), e.workspace, e.timed, e.bars, getdata(p), T(t))
    return nothing
end
