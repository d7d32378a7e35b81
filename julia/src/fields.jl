# Vector fields with the meaning, the parameter names and the parameter order of pyneuralode/fields.py.

const ACTIVATIONS = Dict{String,Function}(
    "identity" => identity,
    "tanh" => tanh,
    "relu" => x -> max(x, zero(x)),
    "swish" => x -> x / (1 + exp(-x)),
    "softplus" => x -> max(x, zero(x)) + log1p(exp(-abs(x))),
    "elu" => x -> x > 0 ? x : expm1(x),
    "sigmoid" => x -> 1 / (1 + exp(-x)),
    "sin" => sin,
)

const INPUT_MAPS = Dict{String,Function}("identity" => identity, "square" => x -> x^2, "cube" => x -> x^3)

"""
    MLP(weights, biases; activation="tanh", input_map="identity", input_scale=1, output_scale=1)

A fully connected network of the state; the last layer is linear. `weights[k]` is `(out, in)`, `biases[k]` is `(out,)`.
Throws `ArgumentError` for an activation or input map that is not known.
"""
struct MLP{T<:Real,A<:Function,M<:Function}
    weights::Vector{Matrix{T}}
    biases::Vector{Vector{T}}
    activation::A
    input_map::M
    input_scale::T
    output_scale::T
end

function MLP(weights::Vector{Matrix{T}}, biases::Vector{Vector{T}}; activation="tanh", input_map="identity",
             input_scale=1, output_scale=1) where {T<:Real}
    activate = known("activation", activation, ACTIVATIONS)
    enter = known("input_map", input_map, INPUT_MAPS)
    return MLP(weights, biases, activate, enter, T(input_scale), T(output_scale))
end

"""
    SEIR(gamma, R0, sigma)

The SEIR model in fractions of the population; `gamma` and `sigma` in 1/day.
"""
struct SEIR{T<:Real}
    gamma::T
    R0::T
    sigma::T
end

"""
    evaluate(field, y)

The slope `dy/dt` of the field at the state `y`, an array of `y`'s shape.
"""
function evaluate(field::MLP, y::AbstractVecOrMat)
    x = field.input_map.(y) ./ field.input_scale
    for k in eachindex(field.weights)
        x = field.weights[k] * x .+ field.biases[k]
        k < lastindex(field.weights) && (x = field.activation.(x))
    end
    return x .* field.output_scale
end

function evaluate(field::SEIR, y::AbstractVector)
    s, e, i, _ = y
    infected, onset, recovered = field.gamma * field.R0 * s * i, field.sigma * e, field.gamma * i
    return [-infected, infected - onset, onset - recovered, recovered]
end

function known(argument, name, catalogue)
    haskey(catalogue, name) && return catalogue[name]
    throw(ArgumentError("$argument is $(repr(name)), which is not known: known are $(join(sort!(collect(keys(catalogue))), ", "))."))
end
