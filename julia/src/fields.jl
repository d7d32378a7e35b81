# Vector fields with the same meaning, parameter names and parameter order as in Python.
#
# A field describes the equations and contains no parameters; its parameters are a ComponentVector in the documented order, with
# weights of shape (out, in). A state is a vector (dim,) or a matrix (dim, samples): the last axis of Python's row-major arrays is the
# first axis here.

using Lux: AbstractLuxLayer

"""
    VectorField

Base type of the vector fields ``dy/dt = f(y, p, t)``. Each is a Lux layer, too (see lux.jl). A subtype defines

1. `dimension(field)`, the number of state components;
2. `shapes(field)`, pairs of parameter name and shape, in the order of Python's field;
3. `slope(field, u, p, t)`, the right-hand side, which mutates nothing, so that any automatic differentiation tool can trace it;
4. `evaluator(field, u)`, whose `slope!` and `pullback!` work in place (see `Evaluator`).
"""
abstract type VectorField <: AbstractLuxLayer end

"""
    Initialization(kind="glorot_uniform"; scale=1, bias=0)

The distribution of a network's initial parameters, with the meaning of `init`, `init_scale` and `init_bias` in Python: weights from
U(-a, a) with a = sqrt(6 / (in + out)) ("glorot_uniform") or sqrt(1 / in) ("lecun_uniform"), or from N(0, 1) ("normal"), multiplied by
`scale`; biases from U(-bias, bias). "torch" draws weights and biases from U(-a, a) with a = sqrt(1 / in).
"""
struct Initialization
    kind::String
    scale::Float64
    bias::Float64
end

const INITIALIZATIONS = Dict(kind => kind for kind in ("glorot_uniform", "lecun_uniform", "normal", "torch"))

function Initialization(kind = "glorot_uniform"; scale = 1.0, bias = 0.0)
    Initialization(lookup("init", kind, INITIALIZATIONS), Float64(scale), Float64(bias))
end
function Initialization(d::AbstractDict)
    Initialization(get(d, "init", "glorot_uniform"); scale = get(d, "init_scale", 1.0), bias = get(d, "init_bias", 0.0))
end

"""
    MLP(sizes; activation="tanh", input_map="identity", input_scale=1, output_scale=1, initialization=Initialization())

A fully connected network applied to the state, ``f(y) = output_scale * net(map(y) / input_scale)``; the last layer is linear.
Its parameters are `weight_1` (out, in), `bias_1` (out,), `weight_2`, ...
"""
struct MLP{A, M} <: VectorField
    sizes::Vector{Int}
    activation::A
    input_map::M
    input_scale::Float64
    output_scale::Float64
    initialization::Initialization
end

function MLP(sizes; activation = "tanh", input_map = "identity", input_scale = 1.0,
        output_scale = 1.0, initialization = Initialization())
    return MLP(
        collect(Int, sizes), lookup("activation", activation, ACTIVATIONS), lookup("input_map", input_map, INPUT_MAPS),
        Float64(input_scale), Float64(output_scale), initialization)
end

"""
    Linear(dim; input_map="identity")
    Linear(A; input_map="identity")

The linear field ``dy/dt = A map(y)`` with the parameter `A` (dim, dim), which is initially the given matrix, or else zero.
"""
struct Linear{M} <: VectorField
    dim::Int
    input_map::M
    matrix::Matrix{Float64}
end

Linear(dim::Integer; input_map = "identity") = Linear(zeros(dim, dim); input_map)
function Linear(A::AbstractMatrix; input_map = "identity")
    Linear(size(A, 1), lookup("input_map", input_map, INPUT_MAPS), Matrix{Float64}(A))
end

"""
    SEIR(; gamma=0.17, R0=5.7, sigma=0.17)

The SEIR epidemic model for the fractions (s, e, i, r) of the population, with parameters `gamma`, `R0`, `sigma` (`gamma` and `sigma` in
1/day) and their initial values.
"""
Base.@kwdef struct SEIR <: VectorField
    gamma::Float64 = 0.17
    R0::Float64 = 5.7
    sigma::Float64 = 0.17
end

"Return the number of components of a field's state."
function dimension end

"Return pairs of the names and the shapes of a field's parameters, in their order."
function shapes end

"""
    slope(field, u, p, t)

Return the right-hand side ``du/dt`` at the state u, (dim,) or (dim, samples), and the time t, for parameters by name, such as a
ComponentVector or a NamedTuple. Nothing is mutated, so any tool for automatic differentiation can trace it.
"""
function slope end

dimension(field::MLP) = field.sizes[1]
dimension(field::Linear) = field.dim
dimension(::SEIR) = 4

shapes(field::Linear) = Pair{Symbol, Dims}[:A => (field.dim, field.dim)]
shapes(::SEIR) = Pair{Symbol, Dims}[:gamma => (), :R0 => (), :sigma => ()]
function shapes(field::MLP)
    named_shapes = Pair{Symbol, Dims}[]
    for k in 1:(length(field.sizes) - 1)
        push!(named_shapes, Symbol(:weight_, k) => (field.sizes[k + 1], field.sizes[k]), Symbol(:bias_, k) =>
            (field.sizes[k + 1],))
    end
    return named_shapes
end

"Return the total number of values in the field's parameters."
parameter_count(field::VectorField) = sum(prod(shape; init = 1) for (_, shape) in shapes(field); init = 0)

"""
    parameters(field, T=Float64)

Return a ComponentVector of zeros with the names and shapes of the field's parameters. Parameters of shape () become scalars.
"""
function parameters(field::VectorField, ::Type{T} = Float64) where {T <: AbstractFloat}
    named_shapes = shapes(field)
    return ComponentVector(NamedTuple{Tuple(first.(named_shapes))}(Tuple(isempty(s) ? zero(T) : zeros(T, s)
    for (_, s) in named_shapes)))
end

"""
    parameters(field, arrays, T=Float64)

Return the ComponentVector of the field's parameters, filled from a dictionary of arrays by name (strings).
"""
function parameters(field::VectorField, arrays::AbstractDict, ::Type{T} = Float64) where {T <: AbstractFloat}
    ComponentVector(flatten(field, arrays, T), getaxes(parameters(field, T)))
end

"""
    flatten(field, arrays, T=Float64)

Return the values of `parameters(field, arrays, T)` as a plain vector, in the documented order. The type of a ComponentVector contains all
sizes, so code for it is recompiled for every network; the functions that Python calls therefore use plain vectors.
"""
function flatten(field::VectorField, arrays::AbstractDict, ::Type{T} = Float64) where {T <: AbstractFloat}
    flat = T[]
    named_shapes = shapes(field)
    sizehint!(flat, parameter_count(field))
    for (name, shape) in named_shapes
        array = get(arrays, string(name), nothing)
        array === nothing &&
            throw(UserError("parameters has no \"$name\": give $(join(string.(first.(named_shapes)), ", "))."))
        size(array) == shape || throw(UserError("$name has shape $(size(array)): use shape $shape."))
        append!(flat, array isa Number ? (array,) : vec(array))
    end
    return flat
end

"Return the arrays in a flat vector as a dictionary by name (string); the inverse of `flatten`."
function unflatten(field::VectorField, flat::AbstractVector)
    arrays, offset = Dict{String, Any}(), 0
    for (name, shape) in shapes(field)
        indices = (offset + 1):(offset + prod(shape; init = 1))
        arrays[string(name)] = isempty(shape) ? flat[offset + 1] : reshape(flat[indices], shape)
        offset = indices[end]
    end
    return arrays
end

"""
    field_from(description)

Return the field for a description from Python's `VectorField.describe`: a dictionary with "kind" and the settings.
"""
function field_from(description::AbstractDict)
    kind = string(description["kind"])::String
    haskey(FIELDS, kind) || throw(UserError("the Julia engine has no field $(repr(kind)): use engine=\"torch\"."))
    return FIELDS[kind](description)
end

"Functions that create a field from its description, by kind."
const FIELDS = Dict{String, Function}(
    "MLP" =>
        d -> MLP(d["sizes"]; activation = d["activation"], input_map = d["input_map"],
            input_scale = d["input_scale"], output_scale = d["output_scale"], initialization = Initialization(d)),
    "Linear" =>
        d -> Linear(Float64[row[k] for row in d["matrix"], k in eachindex(d["matrix"])]; input_map = d["input_map"]),
    "SEIR" => d -> SEIR(; (Symbol(name) => d[name] for name in ("gamma", "R0", "sigma") if haskey(d, name))...)
)

slope(field::Linear, u, p, t) = p.A * activate.(field.input_map, u)

function slope(field::MLP, u, p, t)
    x = activate.(field.input_map, u) ./ eltype(u)(field.input_scale)
    layer_count = length(field.sizes) - 1
    for k in 1:layer_count
        x = getproperty(p, Symbol(:weight_, k)) * x .+ getproperty(p, Symbol(:bias_, k))
        k < layer_count && (x = activate.(field.activation, x))
    end
    return x .* eltype(u)(field.output_scale)
end

slope(::SEIR, u::AbstractVector, p, t) = compartments(u[1], u[2], u[3], p)
slope(field::SEIR, u::AbstractMatrix, p, t) = reduce(hcat, [slope(field, u[:, k], p, t) for k in axes(u, 2)])

function compartments(s, e, i, p)
    infected, onset, recovered = p.gamma * p.R0 * s * i, p.sigma * e, p.gamma * i
    return [-infected, infected - onset, onset - recovered, recovered]
end
