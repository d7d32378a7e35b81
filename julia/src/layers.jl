# The linear maps of network layers: matrices or convolutions, applied to one sample or to columns of samples. Their
# weights are slices of a flat vector.

using NNlib: NNlib, DenseConvDims

"""
    MatrixMap(in, out)

The linear map given by a matrix of shape (out, in).
"""
struct MatrixMap
    in::Int
    out::Int
end

"""
    Convolution(in, out, kernel, height, width)

The cross-correlation of images with kernels (kernel, kernel, in, out), with zero padding around the images. An image is a column
with its values in the order of Python's (channels, height, width); the kernels' axes are reversed accordingly.
"""
struct Convolution
    in::Int
    out::Int
    kernel::Int
    height::Int
    width::Int
end

weight_shape(layer_map::MatrixMap) = (layer_map.out, layer_map.in)
weight_shape(layer_map::Convolution) = (layer_map.kernel, layer_map.kernel, layer_map.in, layer_map.out)
"Return the numbers of values in a sample before the map and after it."
lengths(layer_map::MatrixMap) = (layer_map.in, layer_map.out)
lengths(layer_map::Convolution) = (layer_map.in, layer_map.out) .* (layer_map.height * layer_map.width)

weights(layer_map, flat) = reshape(flat, weight_shape(layer_map))

"""
    apply!(y, layer_map, w, x, add)

Write y = W x, or y += W x if `add`. `apply_back!(x, layer_map, w, y)` writes x = Wᵗ y; `gather!(w, layer_map, y, x, add)` writes y xᵗ, the
derivative of yᵗ W x with respect to W, to w, or adds it to w if `add`.
"""
apply!(y, layer_map::MatrixMap, w, x, add) = mul!(y, weights(layer_map, w), x, true, add)
apply_back!(x, layer_map::MatrixMap, w, y) = mul!(x, transpose(weights(layer_map, w)), y)
function gather!(w, layer_map::MatrixMap, y, x, add)
    add ? mul!(weights(layer_map, w), y, transpose(x), true, true) : mul!(weights(layer_map, w), y, transpose(x))
end

images(layer_map::Convolution, x, channels) = reshape(x, layer_map.width, layer_map.height, channels, :)
convolution_dims(layer_map::Convolution, x, w) = DenseConvDims(x, w; padding = layer_map.kernel ÷ 2, flipkernel = true)

function apply!(y::AbstractArray{T}, layer_map::Convolution, w, x, add) where {T}
    from, kernels = images(layer_map, x, layer_map.in), weights(layer_map, w)
    NNlib.conv!(images(layer_map, y, layer_map.out), from, kernels,
        convolution_dims(layer_map, from, kernels); alpha = one(T), beta = T(add))
    return y
end

function apply_back!(x::AbstractArray, layer_map::Convolution, w, y)
    to, kernels = images(layer_map, x, layer_map.in), weights(layer_map, w)
    NNlib.∇conv_data!(to, images(layer_map, y, layer_map.out), kernels, convolution_dims(layer_map, to, kernels))
    return x
end

function gather!(w::AbstractArray{T}, layer_map::Convolution, y, x, add) where {T}
    from, kernels = images(layer_map, x, layer_map.in), weights(layer_map, w)
    NNlib.∇conv_filter!(kernels, from, images(layer_map, y, layer_map.out), convolution_dims(layer_map, from, kernels);
        alpha = one(T), beta = T(add))
    return w
end

"Return the convolution of x with kernels (kernel, kernel, in, out), without mutation."
function convolve(layer_map::Convolution, w, x)
    from = images(layer_map, x, layer_map.in)
    return reshape(NNlib.conv(from, w, convolution_dims(layer_map, from, w)), lengths(layer_map)[2], size(x)[2:end]...)
end

"Like `apply_back!`, but return the result without mutation."
function convolve_back(layer_map::Convolution, w, y)
    to = similar(y, layer_map.width, layer_map.height, layer_map.in, length(y) ÷ lengths(layer_map)[2])
    bars = NNlib.∇conv_data(images(layer_map, y, layer_map.out), w, convolution_dims(layer_map, to, w))
    return reshape(bars, lengths(layer_map)[1], size(y)[2:end]...)
end
