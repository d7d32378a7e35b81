# The augmented slope of networks and linear fields, and its vector-Jacobian product, written by hand on matrices: the
# tangents X of the layers' arguments and the products Q with their transposed derivatives give every second derivative.

"""
    LayeredFlow

Evaluator of an `Augmented` network or linear field, seen as layers ``z = W a + b`` between elementwise maps. For layer
l, `after[l]` is its input, `gains[l]` and `bends[l]` are the first and second derivative of that input from its argument,
and `extra[l]` is what the trace and the Jacobian term add to the cotangent of that argument.
"""
struct LayeredFlow{T,F<:Augmented,M<:AbstractMatrix{T},D} <: Evaluator{T}
    field::F
    weights::Vector{UnitRange{Int}}
    biases::Vector{UnitRange{Int}}   # empty ranges: no bias
    before::Vector{M}                # outputs z of the layers
    after::Vector{M}
    gains::Vector{M}
    bends::Vector{M}
    extra::Vector{M}
    bars::Vector{M}                  # cotangents of `before`
    start::M                         # cotangent of the samples
    divergence::D
end

widths(field::MLP) = field.sizes
widths(field::Linear) = [field.dim, field.dim]
activation(field::MLP) = field.activation
activation(::Linear) = Val(:identity)
scales(field::MLP) = inv(field.input_scale), field.output_scale
scales(::Linear) = 1.0, 1.0

function evaluator(field::Augmented{<:Union{MLP,Linear}}, u::AbstractMatrix{T}) where {T}
    samples = size(u, 2)
    room(n) = fill!(similar(u, n, samples), 0)
    sizes = widths(field.inner)
    inputs, outputs = sizes[1:end-1], sizes[2:end]
    biased = field.inner isa MLP
    weights, biases, last = UnitRange{Int}[], UnitRange{Int}[], 0
    for (n, m) in zip(inputs, outputs)
        push!(weights, last+1:last+m*n)
        push!(biases, last+m*n+1:last+m*n+biased*m)
        last += m * n + biased * m
    end
    return LayeredFlow(field, weights, biases, room.(outputs), room.(inputs), room.(inputs), room.(inputs), room.(inputs),
                       room.(outputs), room(sizes[1]), divergence(field, sizes, u))
end

weight(e::LayeredFlow, flat, l) = reshape(view(flat, e.weights[l]), size(e.before[l], 1), size(e.after[l], 1))

function forward!(e::LayeredFlow{T}, y, flat) where {T}
    inner = e.field.inner
    into = T(scales(inner)[1])
    e.after[1] .= activate.(inner.input_map, y) .* into
    e.gains[1] .= derivative.(inner.input_map, y, y) .* into
    for l in eachindex(e.before)
        W = weight(e, flat, l)
        if isempty(e.biases[l])
            mul!(e.before[l], W, e.after[l])
        else
            e.before[l] .= view(flat, e.biases[l])
            mul!(e.before[l], W, e.after[l], true, true)
        end
        if l < length(e.before)
            e.after[l+1] .= activate.(activation(inner), e.before[l])
            e.gains[l+1] .= derivative.(activation(inner), e.before[l], e.after[l+1])
        end
    end
    return e.before[end]
end

function bend!(e::LayeredFlow{T}, y) where {T}
    inner = e.field.inner
    e.bends[1] .= second.(inner.input_map, y, y) .* T(scales(inner)[1])
    for l in 2:length(e.bends)
        e.bends[l] .= second.(activation(inner), e.before[l-1], e.after[l])
    end
    return nothing
end

function slope!(du::AbstractMatrix{T}, e::LayeredFlow{T}, u::AbstractMatrix{T}, p::AbstractVector{T}, t) where {T}
    field, flat = e.field, getdata(p)
    d = dimension(field.inner)
    f = view(du, 1:d, :)
    f .= forward!(e, view(u, 1:d, :), flat) .* T(scales(field.inner)[2])
    field.kinetic && sum!(row(du, kinetic_row(field)), e.start .= abs2.(f))
    diverge!(du, e.divergence, e, flat)
    return du
end

function pullback!(ubar, pbar, e::LayeredFlow{T}, λ, u, p, t) where {T}
    field, flat, grad = e.field, getdata(p), pbar === nothing ? nothing : getdata(pbar)
    d, out, last = dimension(field.inner), T(scales(field.inner)[2]), length(e.before)
    y = view(u, 1:d, :)
    forward!(e, y, flat)
    bend!(e, y)
    grad === nothing || fill!(grad, 0)
    e.bars[last] .= out .* view(λ, 1:d, :)
    field.kinetic && (e.bars[last] .+= 2 * out^2 .* row(λ, kinetic_row(field)) .* e.before[last])
    diverge_pullback!(grad, e.divergence, e, λ, flat)
    for l in last:-1:1
        if grad !== nothing
            mul!(weight(e, grad, l), e.bars[l], transpose(e.after[l]), true, true)
            isempty(e.biases[l]) || sum_columns!(view(grad, e.biases[l]), e.bars[l])
        end
        below = l > 1 ? e.bars[l-1] : e.start
        mul!(below, transpose(weight(e, flat, l)), e.bars[l])
        below .= below .* e.gains[l] .+ e.extra[l]
    end
    if ubar !== nothing
        fill!(ubar, 0)
        view(ubar, 1:d, :) .= e.start
    end
    return nothing
end
