# Three ways to compute the trace (and the Jacobian term) of a network: from products with vectors, and in closed form for networks with no
# hidden layer or with one. `write_trace!` writes the corresponding rows of the right-hand side; `trace_pullback!` fills `extra` and adds to the
# parameters' gradient.

"Return a suitable trace method: a closed form for one or two matrix layers without noise or Jacobian term, otherwise `VectorTrace`."
function trace_method(field::Augmented, maps, u)
    closed = field.noise === nothing && !field.jacobian && eltype(maps) == MatrixMap
    closed && length(maps) == 1 && return LinearTrace()
    closed && length(maps) == 2 && return OneHiddenTrace(u, lengths(maps[1])...)
    return VectorTrace(field, maps, u)
end

"The trace from products with one vector per sample (noise) or with all unit vectors; the last axis of the arrays is the index of the vector."
struct VectorTrace{A <: AbstractArray}
    vectors::A             # (d, samples or 1, vectors)
    products::Vector{A}    # Q[l]: transposed derivative of layers l, l+1, ... times the vectors
    through::Vector{A}     # R[l]: the same at the output of layer l
    tangents::Vector{A}    # X[l]: tangents of the arguments
    inputs::Vector{A}      # tangents of the layers' inputs
    scratch::A
end

function VectorTrace(field::Augmented, maps, u)
    d, samples = dimension(field.inner), size(u, 2)
    vectors = if field.noise === nothing
        copyto!(similar(u, d, 1, d), Matrix{eltype(u)}(I, d, d))
    else
        size(field.noise) == (d, samples) ||
            throw(UserError("noise has shape $(size(field.noise)): use shape $((d, samples))."))
        reshape(field.noise, d, samples, 1)
    end
    zeros_like(n) = fill!(similar(u, n, samples, size(vectors, 3)), 0)
    inputs, outputs = first.(lengths.(maps)), last.(lengths.(maps))
    return VectorTrace(
        vectors, zeros_like.(inputs), zeros_like.(outputs), zeros_like.(inputs), zeros_like.(inputs), zeros_like(d))
end

as_matrix(x) = reshape(x, size(x, 1), :)
"Write the sum over all axes except that of the samples to `out`, a row of the state."
sum_vectors!(out, x) = sum!(reshape(out, 1, :, 1), x)

function transposed_products!(method::VectorTrace, e::LayeredFlow{T}, flat) where {T}
    layer_count = length(e.before)
    method.through[layer_count] .= method.vectors .* T(scales(e.field.inner)[2])
    for l in layer_count:-1:1
        l < layer_count && (method.through[l] .= e.derivatives[l + 1] .* method.products[l + 1])
        apply_back!(as_matrix(method.products[l]), e.maps[l], weight(e, flat, l), as_matrix(method.through[l]))
    end
    return nothing
end

function write_trace!(du, method::VectorTrace, e::LayeredFlow, flat)
    transposed_products!(method, e, flat)
    sum_vectors!(row(du, trace_row(e.field)), method.scratch .= e.derivatives[1] .* method.products[1] .*
                                                                method.vectors)
    e.field.jacobian &&
        sum_vectors!(row(du, jacobian_row(e.field)), method.scratch .= abs2.(e.derivatives[1] .* method.products[1]))
    return nothing
end

function trace_pullback!(grad, method::VectorTrace, e::LayeredFlow, λ, flat)
    transposed_products!(method, e, flat)
    # The terms are λᵗ v·ε + λʲ v·v with v = Jᵀε: their gradient is that of εᵀ J b with b = λᵗ ε + 2 λʲ v held fixed.
    method.tangents[1] .= row(λ, trace_row(e.field)) .* method.vectors
    e.field.jacobian &&
        (method.tangents[1] .+= 2 .* row(λ, jacobian_row(e.field)) .* e.derivatives[1] .* method.products[1])
    for l in eachindex(e.before)
        method.inputs[l] .= e.derivatives[l] .* method.tangents[l]
        l < length(e.before) &&
            apply!(as_matrix(method.tangents[l + 1]), e.maps[l], weight(e, flat, l), as_matrix(method.inputs[l]), false)
        grad === nothing ||
            gather!(weight(e, grad, l), e.maps[l], as_matrix(method.through[l]), as_matrix(method.inputs[l]), true)
        method.tangents[l] .*= method.products[l]
        sum!(reshape(e.extra[l], size(e.extra[l])..., 1), method.tangents[l])
        e.extra[l] .*= e.curvatures[l]
    end
    return nothing
end

"The trace for a field without a hidden layer: the trace of ``W diag(gain)``."
struct LinearTrace end

diagonal(e::LayeredFlow, flat) = view(flat, e.weights[1][1]:(size(e.after[1], 1) + 1):e.weights[1][end])

function write_trace!(du, ::LinearTrace, e::LayeredFlow{T}, flat) where {T}
    e.start .= T(scales(e.field.inner)[2]) .* diagonal(e, flat) .* e.derivatives[1]
    sum!(row(du, trace_row(e.field)), e.start)
    return nothing
end

function trace_pullback!(grad, ::LinearTrace, e::LayeredFlow{T}, λ, flat) where {T}
    bar = T(scales(e.field.inner)[2]) .* row(λ, trace_row(e.field))
    grad === nothing || sum!(reshape(diagonal(e, grad), :, 1), e.extra[1] .= bar .* e.derivatives[1])
    e.extra[1] .= bar .* diagonal(e, flat) .* e.curvatures[1]
    return nothing
end

"The trace for one hidden layer: that of ``W₂ diag(gain₂) W₁ diag(gain₁)`` is ``gain₁ · C gain₂`` with ``C = W₂ ∘ W₁ᵀ``, as cheap as the field itself."
struct OneHiddenTrace{M}
    C::M
    bar::M
    traces::M   # C gain₂
    traces_bar::M    # cotangents of `traces`
end

function OneHiddenTrace(u, d, width)
    OneHiddenTrace(similar(u, d, width), similar(u, d, width), similar(u, d, size(u, 2)), similar(u, d, size(u, 2)))
end

function update_coupling!(method::OneHiddenTrace, e::LayeredFlow{T}, flat) where {T}
    method.C .= matrix(e, flat, 2) .* transpose(matrix(e, flat, 1)) .* T(scales(e.field.inner)[2])
    mul!(method.traces, method.C, e.derivatives[2])
    return nothing
end

function write_trace!(du, method::OneHiddenTrace, e::LayeredFlow, flat)
    update_coupling!(method, e, flat)
    method.traces .*= e.derivatives[1]
    sum!(row(du, trace_row(e.field)), method.traces)
    return nothing
end

function trace_pullback!(grad, method::OneHiddenTrace, e::LayeredFlow{T}, λ, flat) where {T}
    update_coupling!(method, e, flat)
    bar = row(λ, trace_row(e.field))
    e.extra[1] .= bar .* e.curvatures[1] .* method.traces
    method.traces_bar .= bar .* e.derivatives[1]
    mul!(e.extra[2], transpose(method.C), method.traces_bar)
    e.extra[2] .*= e.curvatures[2]
    if grad !== nothing
        out = T(scales(e.field.inner)[2])
        mul!(method.bar, method.traces_bar, transpose(e.derivatives[2]))
        matrix(e, grad, 2) .+= out .* method.bar .* transpose(matrix(e, flat, 1))
        matrix(e, grad, 1) .+= out .* transpose(method.bar) .* transpose(matrix(e, flat, 2))
    end
    return nothing
end
