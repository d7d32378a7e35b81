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

weight_shape(map::MatrixMap) = (map.out, map.in)
weight_shape(map::Convolution) = (map.kernel, map.kernel, map.in, map.out)
"Return the numbers of values in a sample before the map and after it."
lengths(map::MatrixMap) = (map.in, map.out)
lengths(map::Convolution) = (map.in, map.out) .* (map.height * map.width)

weights(map, flat) = reshape(flat, weight_shape(map))

"""
    apply!(y, map, w, x, add)

Write y = W x, or y += W x if `add`. `apply_back!(x, map, w, y)` writes x = Wᵗ y; `gather!(w, map, y, x, add)` writes y xᵗ, the
derivative of yᵗ W x with respect to W, to w, or adds it to w if `add`.
"""
apply!(y, map::MatrixMap, w, x, add) = mul!(y, weights(map, w), x, true, add)
apply_back!(x, map::MatrixMap, w, y) = mul!(x, transpose(weights(map, w)), y)
gather!(w, map::MatrixMap, y, x, add) =
    add ? mul!(weights(map, w), y, transpose(x), true, true) : mul!(weights(map, w), y, transpose(x))

images(map::Convolution, x, channels) = reshape(x, map.width, map.height, channels, :)
convolution_dims(map::Convolution, x, w) = DenseConvDims(x, w; padding=map.kernel ÷ 2, flipkernel=true)

function apply!(y::AbstractArray{T}, map::Convolution, w, x, add) where {T}
    from, kernels = images(map, x, map.in), weights(map, w)
    NNlib.conv!(images(map, y, map.out), from, kernels, convolution_dims(map, from, kernels); alpha=one(T), beta=T(add))
    return y
end

function apply_back!(x::AbstractArray, map::Convolution, w, y)
    to, kernels = images(map, x, map.in), weights(map, w)
    NNlib.∇conv_data!(to, images(map, y, map.out), kernels, convolution_dims(map, to, kernels))
    return x
end

function gather!(w::AbstractArray{T}, map::Convolution, y, x, add) where {T}
    from, kernels = images(map, x, map.in), weights(map, w)
    NNlib.∇conv_filter!(kernels, from, images(map, y, map.out), convolution_dims(map, from, kernels); alpha=one(T), beta=T(add))
    return w
end

"Return the convolution of x with kernels (kernel, kernel, in, out), without mutation."
function convolve(map::Convolution, w, x)
    from = images(map, x, map.in)
    return reshape(NNlib.conv(from, w, convolution_dims(map, from, w)), lengths(map)[2], size(x)[2:end]...)
end

"Like `apply_back!`, but return the result without mutation."
function convolve_back(map::Convolution, w, y)
    to = similar(y, map.width, map.height, map.in, length(y) ÷ lengths(map)[2])
    bars = NNlib.∇conv_data(images(map, y, map.out), w, convolution_dims(map, to, w))
    return reshape(bars, lengths(map)[1], size(y)[2:end]...)
end
