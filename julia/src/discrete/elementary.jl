# Exponentials of SIMD vectors, and activations with their derivatives, in branch-free arithmetic that is accurate to a few units in the
# last place.
#
# x = n log 2 + r with an integer n and |r| <= log(2) / 2; exp(r) is computed from its Taylor series, 2^n is constructed from its bits. log 2
# is split in two, so that n log 2 is subtracted without rounding (Cody and Waite 1980).

rounding_shift(::Type{Float64}) = 1.5 * 2.0^52   # adding this to a small number puts the nearest integer into the last bits of the sum
rounding_shift(::Type{Float32}) = 1.5f0 * 2.0f0^23
function log2_parts(::Type{T}) where {T}
    (high = round(log(big(2)) * 2^(T == Float64 ? 32 : 9)) / 2^(T == Float64 ? 32 : 9);
        (T(high), T(log(big(2)) - high)))
end
# exp(x) is a normal number for |x| up to this value; 1 + exp(-x) already rounds to 1 for much smaller x.
largest_exponent(::Type{Float64}) = 708.0
largest_exponent(::Type{Float32}) = 87.0f0

# The omitted terms are below half a unit in the last place.
exp_coefficients(::Type{T}) where {T} = Tuple(T(inv(big(factorial(n)))) for n in 2:(T == Float64 ? 13 : 8))
@generated artanh_coefficients(::Type{T}) where {T} = Tuple(T(big(2) / (2n + 1)) for n in 1:(T == Float64 ? 16 : 8))

"""
    polynomial(x, coefficients)

Return the value of the polynomial with these coefficients, constant first, by Estrin's scheme: pairs, then pairs of pairs. Fewer
operations wait for the result of another than in Horner's scheme.
"""
@inline polynomial(x, coefficients::Tuple{Any}) = coefficients[1]
@inline polynomial(x, coefficients::Tuple) = polynomial(x * x, pairs_of(x, coefficients...))
@inline pairs_of(x, a, b, others...) = (muladd(x, b, a), pairs_of(x, others...)...)
@inline pairs_of(x, a) = (a,)
@inline pairs_of(x) = ()

"Return 2^n and exp(r) - 1 for x = n log 2 + r."
@generated function split_exponential(x::Vec{N, T}) where {N, T}
    high, low = log2_parts(T)
    return quote
        $(Expr(:meta, :inline))
        whole = muladd(x, $(T(inv(log(big(2))))), $(rounding_shift(T)))
        n = whole - $(rounding_shift(T))
        r = muladd(n, $(-low), muladd(n, $(-high), x))
        return power_of_two(whole), muladd(r * r, polynomial(r, $(exp_coefficients(T))), r)
    end
end

"Return exp(x), with |x| limited to `largest_exponent`."
@inline function exponential(x::Vec{N, T}) where {N, T}
    scale, rise = split_exponential(at_least(at_most(x, largest_exponent(T)), -largest_exponent(T)))
    return muladd(scale, rise, scale)
end

"Return exp(x) - 1 for |x| up to `largest_exponent`."
@inline function exponential_less_one(x::Vec)
    scale, rise = split_exponential(x)
    return muladd(scale, rise, scale - 1)
end

"Return log(1 + x) for x in [0, 1], as 2 artanh(x / (2 + x))."
@inline function log_one_plus(x::Vec{N, T}) where {N, T}
    s = x / (2 + x)
    return muladd(s * s * s, polynomial(s * s, artanh_coefficients(T)), 2 * s)
end

@inline sigmoid(x::Vec) = 1 / (1 + exponential(0 - x))

# `value_and_slope` returns an activation and its derivative for all lanes at once; activations without their own method are computed lane
# by lane.

@inline value_and_slope(::Val{:identity}, x::Vec{N, T}) where {N, T} = x, Vec{N, T}(1)

@inline function value_and_slope(::Val{:tanh}, x::Vec{N, T}) where {N, T}
    rising = exponential_less_one(2 * at_most(abs(x), T == Float64 ? 20 : 10))  # beyond this limit, tanh rounds to 1
    value = copysign(rising / (rising + 2), x)
    return value, muladd(value, 0 - value, 1)
end

@inline function value_and_slope(::Val{:swish}, x::Vec{N, T}) where {N, T}
    opening = sigmoid(x)
    value = x * opening
    return value, muladd(value, 1 - opening, opening)
end

@inline function value_and_slope(::Val{:sigmoid}, x::Vec{N, T}) where {N, T}
    value = sigmoid(x)
    return value, value * (1 - value)
end

@inline function value_and_slope(::Val{:relu}, x::Vec{N, T}) where {N, T}
    nil, unit = Vec{N, T}(0), Vec{N, T}(1)
    return at_least(x, 0), pick(x, nil, unit, nil)
end

@inline function value_and_slope(::Val{:softplus}, x::Vec{N, T}) where {N, T}
    nil, unit, small = Vec{N, T}(0), Vec{N, T}(1), exponential(0 - abs(x))
    return at_least(x, 0) + log_one_plus(small), pick(x, nil, unit, small) / (1 + small)
end

@inline function value_and_slope(::Val{:elu}, x::Vec{N, T}) where {N, T}
    nil, unit, fall = Vec{N, T}(0), Vec{N, T}(1), exponential_less_one(at_least(at_most(x, 0), -60))
    return pick(x, nil, x, fall), pick(x, nil, unit, 1 + fall)
end

@inline value_and_slope(::Val{:square}, x::Vec{N, T}) where {N, T} = x * x, 2 * x
@inline value_and_slope(::Val{:cube}, x::Vec{N, T}) where {N, T} = x * x * x, 3 * x * x

@inline function value_and_slope(kind::Val, x::Vec{N, T}) where {N, T}
    value = map_lanes(number -> activate(kind, number), x)
    return value, Vec(map((a, b) -> derivative(kind, a, b), Tuple(x), Tuple(value)))
end
