# Vector fields as Lux layers, for `Lux.Chain`, `DiffEqFlux.NeuralODE`, `AugmentedNDELayer` or any other use in Julia.
#
# A layer's parameters have the names and shapes of Python's. Derivatives of a layer come from the hand-written products of its evaluator;
# only the derivative with respect to the time is left to forward differentiation.

using ChainRulesCore: @thunk, AbstractZero, ProjectTo, ZeroTangent
using Lux: Lux
using Random: AbstractRNG

"""
    (field::VectorField)(u, ps, st)
    (field::VectorField)((u, t), ps, st)

Return ``du/dt`` at the state `u`, (dim,) or (dim, samples), and the unchanged state `st` of the layer. A field that depends on time needs
the time `t`, too.
"""
function (field::VectorField)(x, ps, st::NamedTuple)
    u, t = state_and_time(field, x)
    return slope(field, u, ps, t), st
end

state_and_time(::VectorField, (u, t)::Tuple{AbstractVecOrMat, Number}) = u, t
function state_and_time(field::VectorField, u::AbstractVecOrMat)
    autonomous(field) && return u, zero(eltype(u))
    throw(UserError("$(nameof(typeof(field))) depends on time: call it with the pair (u, t)."))
end

Lux.parameterlength(field::VectorField) = parameter_count(field)
Lux.initialstates(::AbstractRNG, ::VectorField) = (;)

"""
    initialparameters(rng, field)

Return the initial parameters of a field by name, in Float32, as is usual in Lux: random numbers for a network (see `Initialization`), the
values in the description for other fields.
"""
Lux.initialparameters(::AbstractRNG, field::Linear) = (A = Float32.(field.matrix),)
function Lux.initialparameters(::AbstractRNG, field::SEIR)
    (gamma = Float32(field.gamma), R0 = Float32(field.R0), sigma = Float32(field.sigma))
end
function Lux.initialparameters(::AbstractRNG, field::Equations)
    NamedTuple{Tuple(first.(shapes(field)))}(Tuple(Float32.(field.initial)))
end
Lux.initialparameters(rng::AbstractRNG, field::Union{MLP, Convolutions}) = draw(rng, field, field.initialization)
Lux.initialparameters(rng::AbstractRNG, field::Timed) = draw(rng, field, field.network.initialization)

"Draw the parameters of a network: weights (out, in) or (out, in, kernel, kernel), each followed by its bias (out,)."
function draw(rng, field::VectorField, initialization::Initialization)
    (; kind, scale, bias) = initialization
    uniform(bound, shape) = Float32.(bound .* (2 .* rand(rng, shape...) .- 1))
    arrays = map(shapes(field)) do (_, shape)
        length(shape) == 1 && return uniform(bias, shape)
        pixels = prod(shape[3:end]; init = 1)
        out, in = shape[1] * pixels, shape[2] * pixels
        kind == "torch" && (bias = scale * sqrt(1 / in))
        kind == "normal" && return Float32.(scale .* randn(rng, shape...))
        return uniform(scale * (kind == "glorot_uniform" ? sqrt(6 / (in + out)) : sqrt(1 / in)), shape)
    end
    return NamedTuple{Tuple(first.(shapes(field)))}(Tuple(arrays))
end

"Return the parameters of a layer as one vector, in the order of `shapes`."
function flat_parameters(field::VectorField, ps)
    reduce(vcat, (vec_of(getproperty(ps, name)) for (name, _) in shapes(field)); init = Union{}[])
end
vec_of(x::Number) = [x]
vec_of(x::AbstractArray) = vec(x)

function ChainRulesCore.rrule(field::VectorField, x, ps, st::NamedTuple)
    (given, t), flat = state_and_time(field, x), flat_parameters(field, ps)
    T = promote_type(eltype(given), eltype(flat))
    u, p = convert(AbstractArray{T}, given), convert(Vector{T}, flat)
    e = evaluator(field, u)
    du = slope!(similar(u), e, u, p, T(t))
    unpack = Unpack(field)
    function layer_pullback(bars)
        λ = unthunk(bars)[1]
        λ isa AbstractZero && return NoTangent(), ZeroTangent(), ZeroTangent(), NoTangent()
        ubar, pbar = similar(u), similar(p)
        pullback!(ubar, pbar, e, convert(AbstractArray{T}, unthunk(λ)), u, p, T(t))
        ubar = ProjectTo(given)(ubar)
        tbar = @thunk(dot(unthunk(λ), ForwardDiff.derivative(t -> slope(field, u, unpack(p), t), T(t))))
        return NoTangent(), x isa Tuple ? Tangent{typeof(x)}(ubar, tbar) : ubar, like_parameters(ps, unpack(pbar)),
        NoTangent()
    end
    return (du, st), layer_pullback
end

like_parameters(ps::NamedTuple, bars) = Tangent{typeof(ps)}(; bars...)
function like_parameters(ps::ComponentVector, bars)
    ComponentVector(reduce(vcat, map(vec_of, values(bars)); init = eltype(ps)[]), getaxes(ps))
end
