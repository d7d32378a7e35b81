# The augmented right-hand side of fields without a specialized method, computed with the field's own evaluator: the trace by one
# vector-Jacobian product per vector, and the second derivatives by the same products with dual numbers.

struct FlowTag end

struct GenericFlow{T, F <: Augmented, E <: Evaluator, D <: Evaluator} <: Evaluator{T}
    field::F
    inner::E
    dual::D                       # evaluator of the same field for dual states
    y::Matrix{T}
    f::Matrix{T}
    product::Matrix{T}
    pbar::Vector{T}
    dual_y::Matrix{ForwardDiff.Dual{FlowTag, T, 1}}
    dual_product::Matrix{ForwardDiff.Dual{FlowTag, T, 1}}
    dual_pbar::Vector{ForwardDiff.Dual{FlowTag, T, 1}}
end

evaluator(field::Augmented, u::AbstractMatrix) = GenericFlow(field, u)

function GenericFlow(field::Augmented, u::AbstractMatrix{T}) where {T}
    d, samples, n = dimension(field.inner), size(u, 2), sum(prod(s; init = 1) for (_, s) in shapes(field); init = 0)
    dual = ForwardDiff.Dual{FlowTag, T, 1}
    zero_states(S) = zeros(S, d, samples)
    return GenericFlow(field, evaluator(field.inner, zero_states(T)), evaluator(field.inner, zero_states(dual)),
        zero_states(T), zero_states(T), zero_states(T),
        zeros(T, n), zero_states(dual), zero_states(dual), zeros(dual, n))
end

expand(e, y) = e .+ zero(y)

function slope!(du::AbstractMatrix{T}, e::GenericFlow{T}, u::AbstractMatrix{T}, p::AbstractVector{T}, t) where {T}
    field, flat = e.field, getdata(p)
    d = dimension(field.inner)
    e.y .= view(u, 1:d, :)
    slope!(e.f, e.inner, e.y, flat, t)
    view(du, 1:d, :) .= e.f
    field.kinetic && sum!(row(du, kinetic_row(field)), abs2.(e.f))
    trace, norm = row(du, trace_row(field)), row(du, jacobian_row(field))
    trace .= 0
    field.jacobian && (norm .= 0)
    for vector in directions(field, T)
        pullback!(e.product, nothing, e.inner, expand(vector, e.y), e.y, flat, t)
        trace .+= sum(e.product .* vector; dims = 1)
        field.jacobian && (norm .+= sum(abs2, e.product; dims = 1))
    end
    return du
end

function pullback!(ubar, pbar, e::GenericFlow{T}, λ, u, p, t) where {T}
    field, flat = e.field, getdata(p)
    d = dimension(field.inner)
    e.y .= view(u, 1:d, :)
    bar = λ[1:d, :]
    if field.kinetic
        slope!(e.f, e.inner, e.y, flat, t)
        bar .+= 2 .* row(λ, kinetic_row(field)) .* e.f
    end
    pullback!(e.product, e.pbar, e.inner, bar, e.y, flat, t)
    ubar === nothing || (fill!(ubar, 0); view(ubar, 1:d, :) .= e.product)
    pbar === nothing || (getdata(pbar) .= e.pbar)
    for vector in directions(field, T)
        # The gradient of λᵗ v·ε + λʲ v·v with v = Jᵀε is that of εᵀJb with b = λᵗ ε + 2 λʲ v held fixed: the tangent along b of the
        # vector-Jacobian product with ε.
        ε = expand(vector, e.y)
        tangent = row(λ, trace_row(field)) .* ε
        if field.jacobian
            pullback!(e.product, nothing, e.inner, ε, e.y, flat, t)
            tangent .+= 2 .* row(λ, jacobian_row(field)) .* e.product
        end
        e.dual_y .= ForwardDiff.Dual{FlowTag}.(e.y, tangent)
        pullback!(e.dual_product, e.dual_pbar, e.dual, ε, e.dual_y, flat, t)
        ubar === nothing || (view(ubar, 1:d, :) .+= ForwardDiff.partials.(e.dual_product, 1))
        pbar === nothing || (getdata(pbar) .+= ForwardDiff.partials.(e.dual_pbar, 1))
    end
    return nothing
end
