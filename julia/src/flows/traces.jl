# Three ways to the trace (and the Jacobian term) of layers: along vectors, and in closed form without a hidden layer and with one.
# `diverge!` writes their rows of the slope; `diverge_pullback!` fills `extra` and adds to the parameters' gradient.

"The way that suits: closed forms need neither noise nor the Jacobian term."
function divergence(field::Augmented, maps, u)
    closed = field.noise === nothing && !field.jacobian && eltype(maps) == MatrixMap
    closed && length(maps) == 1 && return NoHidden()
    closed && length(maps) == 2 && return OneHidden(u, lengths(maps[1])...)
    return Along(field, maps, u)
end

"Products with one vector a sample (noise) or with all unit vectors; the last axis of the arrays counts the vectors."
struct Along{A<:AbstractArray}
    vectors::A             # (d, samples or 1, vectors)
    products::Vector{A}    # Q[l]: transposed derivative of layers l, l+1, ... times the vectors
    through::Vector{A}     # R[l]: the same at the output of layer l
    tangents::Vector{A}    # X[l]: tangents of the arguments
    inputs::Vector{A}      # tangents of the layers' inputs
    scratch::A
end

function Along(field::Augmented, maps, u)
    d, samples = dimension(field.inner), size(u, 2)
    vectors = if field.noise === nothing
        copyto!(similar(u, d, 1, d), Matrix{eltype(u)}(I, d, d))
    else
        size(field.noise) == (d, samples) || throw(UserError("noise has shape $(size(field.noise)): give $((d, samples))."))
        reshape(field.noise, d, samples, 1)
    end
    room(n) = fill!(similar(u, n, samples, size(vectors, 3)), 0)
    inputs, outputs = first.(lengths.(maps)), last.(lengths.(maps))
    return Along(vectors, room.(inputs), room.(outputs), room.(inputs), room.(inputs), room(d))
end

flatten(x) = reshape(x, size(x, 1), :)
"Sum over all but the samples, into a row of the state."
sum_vectors!(out, x) = sum!(reshape(out, 1, :, 1), x)

function along!(way::Along, e::LayeredFlow{T}, flat) where {T}
    last = length(e.before)
    way.through[last] .= way.vectors .* T(scales(e.field.inner)[2])
    for l in last:-1:1
        l < last && (way.through[l] .= e.gains[l+1] .* way.products[l+1])
        apply_back!(flatten(way.products[l]), e.maps[l], weight(e, flat, l), flatten(way.through[l]))
    end
    return nothing
end

function diverge!(du, way::Along, e::LayeredFlow, flat)
    along!(way, e, flat)
    sum_vectors!(row(du, trace_row(e.field)), way.scratch .= e.gains[1] .* way.products[1] .* way.vectors)
    e.field.jacobian &&
        sum_vectors!(row(du, jacobian_row(e.field)), way.scratch .= abs2.(e.gains[1] .* way.products[1]))
    return nothing
end

function diverge_pullback!(grad, way::Along, e::LayeredFlow, λ, flat)
    along!(way, e, flat)
    # The terms are λᵗ v·ε + λʲ v·v with v = Jᵀε: their gradient is that of εᵀ J b with b = λᵗ ε + 2 λʲ v held fixed.
    way.tangents[1] .= row(λ, trace_row(e.field)) .* way.vectors
    e.field.jacobian && (way.tangents[1] .+= 2 .* row(λ, jacobian_row(e.field)) .* e.gains[1] .* way.products[1])
    for l in eachindex(e.before)
        way.inputs[l] .= e.gains[l] .* way.tangents[l]
        l < length(e.before) && apply!(flatten(way.tangents[l+1]), e.maps[l], weight(e, flat, l), flatten(way.inputs[l]), false)
        grad === nothing ||
            gather!(weight(e, grad, l), e.maps[l], flatten(way.through[l]), flatten(way.inputs[l]), true)
        way.tangents[l] .*= way.products[l]
        sum!(reshape(e.extra[l], size(e.extra[l])..., 1), way.tangents[l])
        e.extra[l] .*= e.bends[l]
    end
    return nothing
end

"The trace of ``W diag(gain)``."
struct NoHidden end

diagonal(e::LayeredFlow, flat) = view(flat, e.weights[1][1]:size(e.after[1], 1)+1:e.weights[1][end])

function diverge!(du, ::NoHidden, e::LayeredFlow{T}, flat) where {T}
    e.start .= T(scales(e.field.inner)[2]) .* diagonal(e, flat) .* e.gains[1]
    sum!(row(du, trace_row(e.field)), e.start)
    return nothing
end

function diverge_pullback!(grad, ::NoHidden, e::LayeredFlow{T}, λ, flat) where {T}
    bar = T(scales(e.field.inner)[2]) .* row(λ, trace_row(e.field))
    grad === nothing || sum!(reshape(diagonal(e, grad), :, 1), e.extra[1] .= bar .* e.gains[1])
    e.extra[1] .= bar .* diagonal(e, flat) .* e.bends[1]
    return nothing
end

"The trace of ``W₂ diag(gain₂) W₁ diag(gain₁)`` is ``gain₁ · C gain₂`` with ``C = W₂ ∘ W₁ᵀ``: as cheap as the field itself."
struct OneHidden{M}
    C::M
    bar::M
    traces::M   # C gain₂
    weigh::M    # cotangents of it
end

OneHidden(u, d, width) = OneHidden(similar(u, d, width), similar(u, d, width), similar(u, d, size(u, 2)), similar(u, d, size(u, 2)))

function couple!(way::OneHidden, e::LayeredFlow{T}, flat) where {T}
    way.C .= matrix(e, flat, 2) .* transpose(matrix(e, flat, 1)) .* T(scales(e.field.inner)[2])
    mul!(way.traces, way.C, e.gains[2])
    return nothing
end

function diverge!(du, way::OneHidden, e::LayeredFlow, flat)
    couple!(way, e, flat)
    way.traces .*= e.gains[1]
    sum!(row(du, trace_row(e.field)), way.traces)
    return nothing
end

function diverge_pullback!(grad, way::OneHidden, e::LayeredFlow{T}, λ, flat) where {T}
    couple!(way, e, flat)
    bar = row(λ, trace_row(e.field))
    e.extra[1] .= bar .* e.bends[1] .* way.traces
    way.weigh .= bar .* e.gains[1]
    mul!(e.extra[2], transpose(way.C), way.weigh)
    e.extra[2] .*= e.bends[2]
    if grad !== nothing
        out = T(scales(e.field.inner)[2])
        mul!(way.bar, way.weigh, transpose(e.gains[2]))
        matrix(e, grad, 2) .+= out .* way.bar .* transpose(matrix(e, flat, 1))
        matrix(e, grad, 1) .+= out .* transpose(way.bar) .* transpose(matrix(e, flat, 2))
    end
    return nothing
end
