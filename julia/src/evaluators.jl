# Hand-written, in-place evaluation of the fields and their vector-Jacobian products, which SciML's solvers and adjoints call
# thousands of times per solve. Automatic differentiation takes a hundred times as long as the evaluation.

"""
    Evaluator

A field with its workspace: `slope!(du, e, u, p, t)` writes the right-hand side, `pullback!(ubar, pbar, e, λ, u, p, t)` the products
``λᵀ ∂f/∂u`` and ``λᵀ ∂f/∂p`` (either output may be `nothing`). Two tasks must not share an evaluator.
Arguments whose number type differs from the evaluator's (dual numbers, for example) are passed to `slope`, which is slower.
"""
abstract type Evaluator{T} end

"""
    slope!(du, e::Evaluator, u, p, t)

Write the right-hand side at the state u and the time t to du, like u, and return du; p contains the parameters as one vector.
"""
slope!(du, e::Evaluator, u, p, t) = copyto!(du, slope(e.field, u, p, t))

"Return the evaluator of a field for states like `u`."
function evaluator end

struct PlainEvaluator{T, F <: VectorField, M <: AbstractVecOrMat{T}} <: Evaluator{T}
    field::F
    buffer::M
end

"""
Evaluator of a network: layers of linear `maps` and biases with activations between them. The field must have `input_map`, `input_scale`,
`activation` and `output_scale`; its parameters are a weight and a bias for each layer.
"""
struct NetworkEvaluator{T, F <: VectorField, U <: AbstractVecOrMat{T}, L} <: Evaluator{T}
    field::F
    maps::Vector{L}
    before::Vector{U}     # before[k]: argument of layer k's activation
    after::Vector{U}      # after[k]: input of layer k
    bars::Vector{U}       # cotangents of `before`
    weights::Vector{UnitRange{Int}}
    biases::Vector{UnitRange{Int}}
end

layer_maps(field::MLP) = MatrixMap.(field.sizes[1:(end - 1)], field.sizes[2:end])
evaluator(field::MLP, u::AbstractVecOrMat) = NetworkEvaluator(field, u)

function NetworkEvaluator(field::VectorField, u::AbstractVecOrMat)
    zeros_like(n) = fill!(similar(u, n, size(u)[2:end]...), 0)
    maps = layer_maps(field)
    weights, biases = layer_ranges(maps, true)
    out = last.(lengths.(maps))
    return NetworkEvaluator(
        field, maps, zeros_like.(out), zeros_like.(first.(lengths.(maps))), zeros_like.(out), weights, biases)
end

"Return the ranges of the layers' weights and of their biases in a flat vector; if `biased`, each layer's biases follow its weights."
function layer_ranges(maps, biased)
    weights, biases, offset = UnitRange{Int}[], UnitRange{Int}[], 0
    for layer_map in maps
        weight_count, out = prod(weight_shape(layer_map)), lengths(layer_map)[2]
        push!(weights, (offset + 1):(offset + weight_count))
        push!(biases, (offset + weight_count + 1):(offset + weight_count + biased * out))
        offset += weight_count + biased * out
    end
    return weights, biases
end

evaluator(field::Linear, u::AbstractVecOrMat) = PlainEvaluator(field, similar(u))
evaluator(field::SEIR, u::AbstractVecOrMat) = PlainEvaluator(field, similar(u, 3, length(u) ÷ 4))

weight(e::NetworkEvaluator, p, k) = view(p, e.weights[k])

function forward!(e::NetworkEvaluator{T}, u, p) where {T}
    field, flat = e.field, getdata(p)
    e.after[1] .= activate.(field.input_map, u) .* T(inv(field.input_scale))
    layer_count = length(e.before)
    for k in 1:layer_count
        e.before[k] .= view(flat, e.biases[k])
        apply!(e.before[k], e.maps[k], weight(e, flat, k), e.after[k], true)
        k < layer_count && (e.after[k + 1] .= activate.(field.activation, e.before[k]))
    end
    return e.before[layer_count]
end

function slope!(du::AbstractArray{T}, e::NetworkEvaluator{T}, u::AbstractArray{T}, p::AbstractVector{T}, t) where {T}
    du .= forward!(e, u, p) .* T(e.field.output_scale)
    return du
end

function pullback!(ubar, pbar, e::NetworkEvaluator{T}, λ, u, p, t) where {T}
    forward!(e, u, p)
    field, flat = e.field, getdata(p)
    layer_count = length(e.before)
    e.bars[layer_count] .= λ .* T(field.output_scale)
    for k in layer_count:-1:1
        if pbar !== nothing
            grad = getdata(pbar)
            gather!(weight(e, grad, k), e.maps[k], e.bars[k], e.after[k], false)
            sum_columns!(view(grad, e.biases[k]), e.bars[k])
        end
        if k > 1
            # The cotangent of the layer below includes the derivative of its activation.
            apply_back!(e.bars[k - 1], e.maps[k], weight(e, flat, k), e.bars[k])
            e.bars[k - 1] .*= derivative.(field.activation, e.before[k - 1], e.after[k])
        elseif ubar !== nothing
            apply_back!(ubar, e.maps[1], weight(e, flat, 1), e.bars[1])
            ubar .*= derivative.(field.input_map, u, u) .* T(inv(field.input_scale))
        end
    end
    return nothing
end

sum_columns!(out, x::AbstractVector) = copyto!(out, x)
sum_columns!(out, x::AbstractMatrix) = sum!(reshape(out, :, 1), x)

function slope!(du::AbstractVecOrMat{T}, e::PlainEvaluator{T, <:Linear},
        u::AbstractVecOrMat{T}, p::AbstractVector{T}, t) where {T}
    e.buffer .= activate.(e.field.input_map, u)
    return mul!(du, weight_matrix(e, p), e.buffer)
end

function pullback!(ubar, pbar, e::PlainEvaluator{T, <:Linear}, λ, u, p, t) where {T}
    if pbar !== nothing
        e.buffer .= activate.(e.field.input_map, u)
        mul!(weight_matrix(e, pbar), λ, transpose(e.buffer))
    end
    if ubar !== nothing
        mul!(ubar, transpose(weight_matrix(e, p)), λ)
        ubar .*= derivative.(e.field.input_map, u, u)
    end
    return nothing
end

weight_matrix(e::PlainEvaluator{T, <:Linear}, p) where {T} = reshape(view(getdata(p), :), e.field.dim, e.field.dim)

function slope!(du::AbstractVecOrMat, ::PlainEvaluator{T, SEIR, <:Array}, u, p, t) where {T}
    gamma, R0, sigma = getdata(p)
    for k in axes(u, 2)
        s, e, i = u[1, k], u[2, k], u[3, k]
        infected, onset, recovered = gamma * R0 * s * i, sigma * e, gamma * i
        du[1, k], du[2, k], du[3, k], du[4, k] = -infected, infected - onset, onset - recovered, recovered
    end
    return du
end

function pullback!(ubar, pbar, ::PlainEvaluator{T, SEIR, <:Array}, λ, u, p, t) where {T}
    gamma, R0, sigma = getdata(p)
    bars = zero(T), zero(T), zero(T)
    for k in axes(u, 2)
        s, e, i = u[1, k], u[2, k], u[3, k]
        infected, onset, recovered = λ[2, k] - λ[1, k], λ[3, k] - λ[2, k], λ[4, k] - λ[3, k]
        bars = bars .+ (infected * R0 * s * i + recovered * i, infected * gamma * s * i, onset * e)
        if ubar !== nothing
            ubar[1, k], ubar[2, k] = infected * gamma * R0 * i, onset * sigma
            ubar[3, k], ubar[4, k] = infected * gamma * R0 * s + recovered * gamma, zero(T)
        end
    end
    pbar === nothing || (getdata(pbar) .= bars)
    return nothing
end

# Reading single elements of an array on a GPU is slow, so these methods use rows for the compartments and arrays of length one for the rates.

row(x, k) = view(x, k:k, :)
rates(p) = ntuple(k -> view(getdata(p), k:k), 3)
compartment_rows(x) = (y = reshape(x, 4, :); ntuple(k -> row(y, k), 4))

function slope!(du::AbstractVecOrMat, e::PlainEvaluator{T, SEIR}, u, p, t) where {T}
    (gamma, R0, sigma), (s, exposed, i, _) = rates(p), compartment_rows(u)
    infected, onset, recovered = ntuple(k -> row(e.buffer, k), 3)
    infected .= gamma .* R0 .* s .* i
    onset .= sigma .* exposed
    recovered .= gamma .* i
    ds, de, di, dr = compartment_rows(du)
    ds .= .-infected
    de .= infected .- onset
    di .= onset .- recovered
    dr .= recovered
    return du
end

function pullback!(ubar, pbar, e::PlainEvaluator{T, SEIR}, λ, u, p, t) where {T}
    (gamma, R0, sigma), (s, exposed, i, _), (λs, λe, λi, λr) = rates(p), compartment_rows(u), compartment_rows(λ)
    if pbar !== nothing
        row(e.buffer, 1) .= (λe .- λs) .* R0 .* s .* i .+ (λr .- λi) .* i
        row(e.buffer, 2) .= (λe .- λs) .* gamma .* s .* i
        row(e.buffer, 3) .= (λi .- λe) .* exposed
        sum!(reshape(getdata(pbar), 3, 1), e.buffer)
    end
    if ubar !== nothing
        bs, be, bi, br = compartment_rows(ubar)
        bs .= (λe .- λs) .* gamma .* R0 .* i
        be .= (λi .- λe) .* sigma
        bi .= (λe .- λs) .* gamma .* R0 .* s .+ (λr .- λi) .* gamma
        br .= 0
    end
    return nothing
end
