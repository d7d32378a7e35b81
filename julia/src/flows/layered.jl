# The augmented right-hand side of networks and linear fields, and its vector-Jacobian product, hand-written for matrices: all second
# derivatives follow from the tangents X of the layers' arguments and the products Q with the layers' transposed derivatives.

"""
    LayeredFlow

Evaluator of an `Augmented` network or linear field, viewed as layers ``z = W a + b`` between elementwise maps. For layer
l, `after[l]` is its input, which an elementwise map computes from an argument; `derivatives[l]` and `curvatures[l]` are the first and
second derivatives of that map, and `extra[l]` is the contribution of the trace and the Jacobian term to the cotangent of the map's argument.
"""
struct LayeredFlow{T, F <: Augmented, M <: AbstractMatrix{T}, D, L} <: Evaluator{T}
    field::F
    maps::Vector{L}
    weights::Vector{UnitRange{Int}}
    biases::Vector{UnitRange{Int}}   # empty ranges: no bias
    before::Vector{M}                # outputs z of the layers
    after::Vector{M}
    derivatives::Vector{M}
    curvatures::Vector{M}
    extra::Vector{M}
    bars::Vector{M}                  # cotangents of `before`
    start::M                         # cotangent of the samples
    trace_method::D
end

activation(field) = field.activation
activation(::Linear) = Val(:identity)
scales(field) = inv(field.input_scale), field.output_scale
scales(::Linear) = 1.0, 1.0
layer_maps(field::Linear) = [MatrixMap(field.dim, field.dim)]

evaluator(field::Augmented{<:Union{MLP, Linear, Convolutions}}, u::AbstractMatrix) = LayeredFlow(field, u)

function LayeredFlow(field::Augmented, u::AbstractMatrix)
    zeros_like(n) = fill!(similar(u, n, size(u, 2)), 0)
    maps = layer_maps(field.inner)
    inputs, outputs = first.(lengths.(maps)), last.(lengths.(maps))
    weights, biases = layer_ranges(maps, !(field.inner isa Linear))
    return LayeredFlow(field, maps, weights, biases, zeros_like.(outputs), zeros_like.(inputs),
        zeros_like.(inputs), zeros_like.(inputs), zeros_like.(inputs),
        zeros_like.(outputs), zeros_like(inputs[1]), trace_method(field, maps, u))
end

weight(e::LayeredFlow, flat, l) = view(flat, e.weights[l])
matrix(e::LayeredFlow, flat, l) = weights(e.maps[l], weight(e, flat, l))

function forward!(e::LayeredFlow{T}, y, flat) where {T}
    inner = e.field.inner
    into = T(scales(inner)[1])
    e.after[1] .= activate.(inner.input_map, y) .* into
    e.derivatives[1] .= derivative.(inner.input_map, y, y) .* into
    for l in eachindex(e.before)
        biased = !isempty(e.biases[l])
        biased && (e.before[l] .= view(flat, e.biases[l]))
        apply!(e.before[l], e.maps[l], weight(e, flat, l), e.after[l], biased)
        l < length(e.before) && activate!(e.after[l + 1], e.derivatives[l + 1], activation(inner), e.before[l])
    end
    return e.before[end]
end

function update_curvatures!(e::LayeredFlow{T}, y) where {T}
    inner = e.field.inner
    e.curvatures[1] .= second_derivative.(inner.input_map, y, y) .* T(scales(inner)[1])
    for l in 2:length(e.curvatures)
        e.curvatures[l] .= second_derivative.(activation(inner), e.before[l - 1], e.after[l])
    end
    return nothing
end

function slope!(du::AbstractMatrix{T}, e::LayeredFlow{T}, u::AbstractMatrix{T}, p::AbstractVector{T}, t) where {T}
    field, flat = e.field, getdata(p)
    d = dimension(field.inner)
    f = view(du, 1:d, :)
    f .= forward!(e, view(u, 1:d, :), flat) .* T(scales(field.inner)[2])
    field.kinetic && sum!(row(du, kinetic_row(field)), e.start .= abs2.(f))
    write_trace!(du, e.trace_method, e, flat)
    return du
end

function pullback!(ubar, pbar, e::LayeredFlow{T}, λ, u, p, t) where {T}
    field, flat, grad = e.field, getdata(p), pbar === nothing ? nothing : getdata(pbar)
    d, out, layer_count = dimension(field.inner), T(scales(field.inner)[2]), length(e.before)
    y = view(u, 1:d, :)
    forward!(e, y, flat)
    update_curvatures!(e, y)
    grad === nothing || fill!(grad, 0)
    e.bars[layer_count] .= out .* view(λ, 1:d, :)
    field.kinetic && (e.bars[layer_count] .+= 2 * out^2 .* row(λ, kinetic_row(field)) .* e.before[layer_count])
    trace_pullback!(grad, e.trace_method, e, λ, flat)
    for l in layer_count:-1:1
        if grad !== nothing
            gather!(weight(e, grad, l), e.maps[l], e.bars[l], e.after[l], true)
            isempty(e.biases[l]) || sum_columns!(view(grad, e.biases[l]), e.bars[l])
        end
        below = l > 1 ? e.bars[l - 1] : e.start
        apply_back!(below, e.maps[l], weight(e, flat, l), e.bars[l])
        below .= below .* e.derivatives[l] .+ e.extra[l]
    end
    if ubar !== nothing
        fill!(ubar, 0)
        view(ubar, 1:d, :) .= e.start
    end
    return nothing
end
