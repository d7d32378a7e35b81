# Convolutional networks on images, with the same parameters as Python's fields of the same names.

"""
    Convolutions(maps; activation="tanh", output_scale=1, initialization=Initialization())

A network of convolutions with activations between them; the bias of a layer is an image. Its parameters are `weight_1` (kernel, kernel, in, out),
`bias_1` (out * height * width,), `weight_2`, ...
"""
struct Convolutions{A} <: VectorField
    maps::Vector{Convolution}
    activation::A
    input_map::Val{:identity}
    input_scale::Float64
    output_scale::Float64
    initialization::Initialization
end

function Convolutions(maps; activation = "tanh", output_scale = 1.0, initialization = Initialization())
    Convolutions(
        maps, lookup("activation", activation, ACTIVATIONS), Val(:identity), 1.0, Float64(output_scale), initialization)
end

dimension(field::Convolutions) = lengths(field.maps[1])[1]
layer_maps(field::Convolutions) = field.maps
evaluator(field::Convolutions, u::AbstractVecOrMat) = NetworkEvaluator(field, u)

function shapes(field::Convolutions)
    named_shapes = Pair{Symbol, Dims}[]
    for (l, layer_map) in enumerate(field.maps)
        push!(named_shapes, Symbol(:weight_, l) => weight_shape(layer_map), Symbol(:bias_, l) =>
            (lengths(layer_map)[2],))
    end
    return named_shapes
end

function slope(field::Convolutions, u, p, t)
    x = u
    for (l, layer_map) in enumerate(field.maps)
        x = convolve(layer_map, getproperty(p, Symbol(:weight_, l)), x) .+ getproperty(p, Symbol(:bias_, l))
        l < length(field.maps) && (x = activate.(field.activation, x))
    end
    return x .* eltype(u)(field.output_scale)
end

"""
    ConcatConv(channels, height, width; hidden=[64, 64, 64], kernel=3, activation="softplus", time_scale=1, output_scale=1,
               initialization=Initialization())

A convolutional network with the time as the last input channel of each layer; see pyneuralode's `ConcatConv`. A state is an image stored
as one column, with its values in the order of Python's (channels, height, width).
"""
struct ConcatConv{N <: Convolutions} <: Timed
    network::N
    time_scale::Float64
end

function ConcatConv(channels, height, width; hidden = [64, 64, 64], kernel = 3,
        activation = "softplus", time_scale = 1.0, settings...)
    counts = Int[channels; hidden; channels]
    maps = Convolution.(counts[1:(end - 1)], counts[2:end], kernel, height, width)
    return ConcatConv(Convolutions(maps; activation, settings...), Float64(time_scale))
end

FIELDS["ConcatConv"] = d -> ConcatConv(
    d["channels"], d["height"], d["width"]; hidden = d["hidden"], kernel = d["kernel"],
    activation = d["activation"], timed_settings(d)...)

function shapes(field::ConcatConv)
    named_shapes = Pair{Symbol, Dims}[]
    for (l, layer_map) in enumerate(field.network.maps)
        push!(
            named_shapes, Symbol(:weight_, l) => (layer_map.out, layer_map.in + 1, layer_map.kernel, layer_map.kernel),
            Symbol(:bias_, l) => (layer_map.out,))
    end
    return named_shapes
end

# The time channel is constant over an image, so its contribution is the same for every sample: the convolution of an image of ones,
# multiplied by the time. The bias of the network at a fixed time is the layer's bias plus this contribution, and is an image.
time_map(layer_map::Convolution) = Convolution(1, layer_map.out, layer_map.kernel, layer_map.height, layer_map.width)

# Converts between Python's axes (out, in, kernel, kernel) and NNlib's; Zygote can differentiate permutedims.
reverse_weight_axes(W) = permutedims(W, (4, 3, 2, 1))

function weights_at(field::ConcatConv, p, t)
    return named_layers(length(field.network.maps)) do l
        layer_map, W, b = field.network.maps[l], getproperty(p, Symbol(:weight_, l)), getproperty(p, Symbol(:bias_, l))
        unit_image = fill(one(eltype(W)), lengths(time_map(layer_map))[1])
        part = convolve(time_map(layer_map), reverse_weight_axes(W[:, (layer_map.in + 1):(layer_map.in + 1), :, :]), unit_image)
        (reverse_weight_axes(W[:, 1:layer_map.in, :, :]),
            part .* scaled_time(field, t) .+ repeat(b; inner = layer_map.height * layer_map.width))
    end
end

"Return, for each layer, workspace for the kernels of the time channel and for their contribution to the bias, and an image of ones."
function workspace(field::ConcatConv, u)
    return map(field.network.maps) do layer_map
        kernels, part = similar(u, prod(weight_shape(time_map(layer_map)))), similar(u, lengths(layer_map)[2])
        (; kernels, part, ones = fill!(similar(u, layer_map.height * layer_map.width), 1))
    end
end

"Return views of each layer's weight and bias in a flat vector of the parameters of a field or of its network."
function split_shapes(field, flat)
    named_shapes, offset = shapes(field), 0
    views = map(named_shapes) do (_, shape)
        offset += prod(shape)
        reshape(view(flat, (offset - prod(shape) + 1):offset), shape)
    end
    return zip(views[1:2:end], views[2:2:end])
end

function weights_at!(w, workspaces, field::ConcatConv, p, t)
    for (layer_map, workspace, (weight, bias), (W, b)) in zip(
        field.network.maps, workspaces, split_shapes(field.network, w), split_shapes(field, p))
        permutedims!(weight, view(W, :, 1:layer_map.in, :, :), (4, 3, 2, 1))
        permutedims!(
            weights(time_map(layer_map), workspace.kernels), view(
                W, :, (layer_map.in + 1):(layer_map.in + 1), :, :), (4, 3, 2, 1))
        apply!(workspace.part, time_map(layer_map), workspace.kernels, workspace.ones, false)
        channels(x) = reshape(x, :, layer_map.out)
        channels(bias) .= channels(workspace.part) .* scaled_time(field, t) .+ transpose(b)
    end
    return w
end

function weights_pullback!(pbar, workspaces, field::ConcatConv, wbar, p, t)
    for (layer_map, workspace, (weight, bias), (W, b)) in zip(
        field.network.maps, workspaces, split_shapes(field.network, wbar), split_shapes(field, pbar))
        permutedims!(view(W, :, 1:layer_map.in, :, :), weight, (4, 3, 2, 1))
        sum!(transpose(b), reshape(bias, :, layer_map.out))
        workspace.part .= bias .* scaled_time(field, t)
        gather!(workspace.kernels, time_map(layer_map), workspace.part, workspace.ones, false)
        permutedims!(view(W, :, (layer_map.in + 1):(layer_map.in + 1), :, :), weights(time_map(layer_map), workspace.kernels), (
            4, 3, 2, 1))
    end
    return nothing
end
