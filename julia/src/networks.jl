# Fields as functions that any automatic differentiation tool can trace: networks as Lux models, other fields by their `slope`.
# They accept the flat parameter vector; the in-place evaluators with hand-written products are a hundred times faster.

using Lux: Lux, Chain, Dense, WrappedFunction
using Random: default_rng

"""
    network(field::MLP)

Return the Lux model of a network: a chain of the input map, the dense layers and the output scale. `lux_parameters` returns
its parameters; the model has no state.
"""
function network(field::MLP)
    layer_count = length(field.sizes) - 1
    layers = map(1:layer_count) do k
        Dense(field.sizes[k] => field.sizes[k + 1], k < layer_count ? Base.Fix1(activate, field.activation) : identity)
    end
    # Functions of one number, which ReverseDiff broadcasts as a whole.
    enter(x) = activate(field.input_map, x) / oftype(x, field.input_scale)
    leave(y) = y * oftype(y, field.output_scale)
    return Chain(;
        enter = WrappedFunction(u -> enter.(u)), (Symbol(:dense_, k) => layers[k] for k in 1:layer_count)...,
        leave = WrappedFunction(y -> leave.(y)))
end

"Return the parameters of the Lux model `network(field)`, taken from the field's arrays by name."
function lux_parameters(field::MLP, arrays)
    layer(k) = (weight = getproperty(arrays, Symbol(:weight_, k)), bias = getproperty(arrays, Symbol(:bias_, k)))
    layer_count = length(field.sizes) - 1
    dense = NamedTuple{ntuple(k -> Symbol(:dense_, k), layer_count)}(ntuple(layer, layer_count))
    return merge((enter = (;),), dense, (leave = (;),))
end

"Named slices of a flat vector. Calling it returns the slices as arrays; these are not views, so that dual and traced numbers work."
struct Unpack{labels, R, S}
    ranges::R
    shapes::S
end

function Unpack(field::VectorField)
    labels, sizes = first.(shapes(field)), last.(shapes(field))
    ends = cumsum(prod.(sizes; init = 1))
    ranges = Tuple((stop - prod(shape) + 1):stop for (stop, shape) in zip(ends, sizes))
    return Unpack{Tuple(labels), typeof(ranges), typeof(Tuple(sizes))}(ranges, Tuple(sizes))
end

piece(flat, indices, ::Tuple{}) = flat[first(indices)]
piece(flat, indices, ::Dims{1}) = flat[indices]
piece(flat, indices, shape::Dims) = reshape(flat[indices], shape)
function (unpack::Unpack{labels})(flat) where {labels}
    NamedTuple{labels}(map((indices, shape) -> piece(flat, indices, shape), unpack.ranges, unpack.shapes))
end

"""
    traceable(field)

Return the field as a function `f(u, p, t)` with flat parameters `p` that mutates nothing, for Zygote, ReverseDiff or any other automatic
differentiation tool.
"""
function traceable(field::VectorField)
    unpack = Unpack(field)
    return (u, p, t) -> slope(field, u, unpack(p), t)
end

function traceable(field::MLP)
    unpack, model = Unpack(field), network(field)
    state = Lux.initialstates(default_rng(), model)
    return (u, p, t) -> first(model(u, lux_parameters(field, unpack(p)), state))
end
