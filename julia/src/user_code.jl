# Vector fields that users write in Julia: a function of (du, u, p, t) or (u, p, t), or a Lux model.

export JuliaFunction, LuxModel

"""
    JuliaFunction(f, dim, parameters; name="JuliaFunction")

The field given by a Julia function `f(du, u, p, t)`, or `f(u, p, t)` that returns du, for one state u (dim,). `parameters` are the initial
parameters by name, numbers or arrays; f receives them as a NamedTuple. Products with the Jacobian come from dual numbers (ForwardDiff), so f
may write to arrays, but must accept numbers of any type.
"""
struct JuliaFunction{F, P} <: VectorField
    f::F
    inplace::Bool
    dim::Int
    initial::P
    name::String
end

function JuliaFunction(f, dim::Integer, parameters::NamedTuple = (;); name = "JuliaFunction")
    inplace = is_callable(f, 4)
    inplace || is_callable(f, 3) ||
        throw(UserError("$name is $(describe_value(f)): give a function (du, u, p, t) or (u, p, t)."))
    return JuliaFunction(f, inplace, Int(dim), parameters, String(name))
end

is_callable(f, count) = any(method -> method.nargs == count + 1 || method.isva, methods(f))
describe_value(x) = x isa Function ? "a function of other arguments" : "a value of type $(nameof(typeof(x)))"

dimension(field::JuliaFunction) = field.dim
shapes(field::JuliaFunction) = Pair{Symbol, Dims}[name => size(value) for (name, value) in pairs(field.initial)]
function Lux.initialparameters(::AbstractRNG, field::JuliaFunction)
    map(value -> value isa Number ? Float32(value) : Float32.(value), field.initial)
end

# Flat parameters arrive if only the time is a dual number.
by_name(field, p::Vector) = Unpack(field)(p)
by_name(field, p) = p

function slope(field::JuliaFunction, u::AbstractVector, p, t)
    named = by_name(field, p)
    field.inplace || return checked_slope(field, field.f(u, named, t))
    du = similar(u, promote_type(eltype(u), typeof(t), map(eltype, values(NamedTuple(named)))...))
    field.f(du, u, named, t)
    return du
end

slope(field::JuliaFunction, u::AbstractMatrix, p, t) = reduce(hcat, [slope(field, u[:, k], p, t) for k in axes(u, 2)])

function checked_slope(field, du)
    du isa AbstractArray{<:Real} && size(du, 1) == dimension(field) && return du
    found = du isa AbstractArray ? "an array of size $(size(du)) with elements of type $(nameof(eltype(du)))" :
            describe_value(du)
    throw(UserError("$(field.name) returns $found for a state of size ($(dimension(field)),): return real numbers in an array of the state's size."))
end

"Evaluator of a `JuliaFunction`: products with its Jacobian by dual numbers, one sample at a time."
struct DualEvaluator{T, F <: JuliaFunction, U <: Unpack, S, P} <: Evaluator{T}
    field::F
    unpack::U
    u::Vector{T}
    p::Vector{T}
    t::Base.RefValue{T}
    du::Vector{T}
    by_state::Matrix{T}
    by_parameters::Matrix{T}
    state_config::S
    parameter_config::P
end

function evaluator(field::JuliaFunction, ::AbstractVecOrMat{T}) where {T}
    n, m = field.dim, parameter_count(field)
    u, p, du = zeros(T, n), zeros(T, m), zeros(T, n)
    configs = (ForwardDiff.JacobianConfig(nothing, du, u), ForwardDiff.JacobianConfig(nothing, du, p))
    return DualEvaluator(field, Unpack(field), u, p, Ref(zero(T)), du, zeros(T, n, n), zeros(T, n, m), configs...)
end

function write_slope!(du, field::JuliaFunction, u, p, t)
    field.inplace ? field.f(du, u, p, t) : copyto!(du, checked_slope(field, field.f(u, p, t)))
    return nothing
end

function slope!(
        du::AbstractVecOrMat{T}, e::DualEvaluator{T}, u::AbstractVecOrMat{T}, p::AbstractVector{T}, t::T) where {T}
    named = e.unpack(getdata(p))
    for k in axes(u, 2)
        copyto!(e.u, view(u, :, k))
        write_slope!(e.du, e.field, e.u, named, t)
        du[:, k] .= e.du
    end
    return du
end

function pullback!(ubar, pbar, e::DualEvaluator, λ, u, p, t)
    try
        dual_products!(ubar, pbar, e, λ, u, p, t)
    catch error
        error isa MethodError && occursin("Dual{", sprint(showerror, error)) || rethrow()
        throw(UserError("$(e.field.name) does not accept the dual numbers by which it is differentiated: leave types out of its arguments, " *
                        "and create arrays with the element type of u and p, as similar(u) does."))
    end
    return nothing
end

function dual_products!(ubar, pbar, e::DualEvaluator{T}, λ, u, p, t) where {T}
    copyto!(e.p, getdata(p))
    e.t[] = t
    pbar === nothing || fill!(getdata(pbar), 0)
    named = e.unpack(e.p)
    of_state! = (du, u) -> write_slope!(du, e.field, u, named, e.t[])
    of_parameters! = (du, p) -> write_slope!(du, e.field, e.u, e.unpack(p), e.t[])
    for k in axes(u, 2)
        copyto!(e.u, view(u, :, k))
        if pbar !== nothing && !isempty(e.p)
            ForwardDiff.jacobian!(e.by_parameters, of_parameters!, e.du, e.p, e.parameter_config, Val(false))
            mul!(getdata(pbar), transpose(e.by_parameters), view(λ, :, k), true, true)
        end
        if ubar !== nothing
            ForwardDiff.jacobian!(e.by_state, of_state!, e.du, e.u, e.state_config, Val(false))
            mul!(view(ubar, :, k), transpose(e.by_state), view(λ, :, k))
        end
    end
    return nothing
end

"""
    LuxModel(model, dim=nothing; name="LuxModel")

The field ``du/dt = model(u, p, state)`` of a Lux model, with its state in test mode. `dim` is needed if the first layer does not say how many
components it takes. The parameters have the names of the layers, joined by underscores, such as `layer_1_weight`.

A chain of dense layers and functions is differentiated by hand-written products, any other model by Zygote.
"""
struct LuxModel{M, S, A} <: VectorField
    model::M
    state::S
    dim::Int
    pairs::Vector{Pair{Symbol, Dims}}
    axes::A
    name::String
end

function LuxModel(model, dim = nothing; name = "LuxModel")
    model isa AbstractLuxLayer ||
        throw(UserError("$name is $(describe_value(model)): give a Lux model, such as Chain(Dense(2 => 8, tanh), Dense(8 => 2))."))
    dim = something(dim, input_size(model), Some(nothing))
    dim === nothing &&
        throw(UserError("dim is missing, and the first layer of $name does not give the number of components of the state: write dim=2, for example."))
    given, state = Lux.setup(Xoshiro(0), model)
    named = named_arrays(given)
    allunique(first.(named)) ||
        throw(UserError("two parameters of $name have the same name: name the layers, as in Chain(first=Dense(...), second=Dense(...))."))
    field = LuxModel(
        model, Lux.testmode(state), Int(dim), Pair{Symbol, Dims}[key => size(value) for (key, value) in named],
        getaxes(ComponentVector(given)), String(name))
    du = try
        slope(field, zeros(Float32, field.dim), ComponentVector(given), 0.0f0)
    catch error
        throw(UserError("$name fails for a state of size ($dim,): $(one_line(sprint(showerror, error)))."))
    end
    checked_slope(field, du)
    return field
end

"Return the number of components that a model takes, or `nothing` if its first layer does not say."
input_size(model) = hasproperty(model, :in_dims) && model.in_dims isa Integer ? model.in_dims : nothing
function input_size(model::Lux.Chain)
    for layer in model.layers
        dim = input_size(layer)
        dim === nothing || return dim
        layer isa Lux.WrappedFunction || return nothing
    end
    return nothing
end

"Return pairs of name and array for nested parameters; the names of layers and arrays are joined by underscores."
function named_arrays(ps::NamedTuple, prefix = "")
    reduce(vcat, (named_arrays(value, string(prefix, isempty(prefix) ? "" : "_", key)) for (key, value) in pairs(ps));
        init = Pair{Symbol, AbstractArray}[])
end
named_arrays(array::AbstractArray, name) = Pair{Symbol, AbstractArray}[Symbol(name) => array]

dimension(field::LuxModel) = field.dim
shapes(field::LuxModel) = field.pairs
autonomous(::LuxModel) = true
Lux.initialparameters(rng::AbstractRNG, field::LuxModel) = Lux.initialparameters(rng, field.model)

"A function that gives flat parameters the nested names of a Lux model."
struct Nest{A}
    axes::A
end

(nest::Nest)(flat) = ComponentVector(flat, nest.axes)
Unpack(field::LuxModel) = Nest(field.axes)

slope(field::LuxModel, u, p, t) = first(field.model(u, by_name(field, p), field.state))

flat_parameters(field::LuxModel, ps::NamedTuple) = reduce(vcat, vec.(last.(named_arrays(ps))); init = Float32[])
flat_parameters(::LuxModel, ps::ComponentVector) = getdata(ps)

function evaluator(field::LuxModel, u::AbstractVecOrMat)
    is_dense(field.model) ? ChainEvaluator(field, u) : ZygoteEvaluator(field, u)
end

# A chain of dense layers and functions without parameters.

is_dense(::Union{Lux.Dense, Lux.WrappedFunction, Lux.NoOpLayer}) = true
is_dense(model::Lux.Chain) = all(is_dense, values(model.layers))
is_dense(_) = false

"A layer with its workspace: `forward!(layer, p, x)` returns its output, `backward!(layer, p, pbar, λ)` the cotangent of its input."
abstract type ChainLayer end

struct DenseLayer{F, U} <: ChainLayer
    activation::F
    weight::Tuple{Int, Dims{2}}   # index of the first number, shape
    bias::UnitRange{Int}
    input::U
    before::U
    after::U
    before_bar::U
    input_bar::U
end

struct FunctionLayer{F, U} <: ChainLayer
    f::F
    input::U
    after::U
    input_bar::U
end

struct ChainEvaluator{T, F <: LuxModel} <: Evaluator{T}
    field::F
    layers::Vector{ChainLayer}
end

function ChainEvaluator(field::LuxModel, u::AbstractVecOrMat{T}) where {T}
    layers, offset = ChainLayer[], 0
    x = fill!(similar(u), 0)
    for layer in dense_layers(field.model)
        part, offset = chain_layer(layer, x, offset)
        push!(layers, part)
        x = part.after
    end
    return ChainEvaluator{T, typeof(field)}(field, layers)
end

dense_layers(layer) = Any[layer]
dense_layers(::Lux.NoOpLayer) = Any[]
dense_layers(chain::Lux.Chain) = reduce(vcat, dense_layers.(values(chain.layers)); init = Any[])

"Return a layer with its workspace for inputs like `x`, and the end of its parameters, which begin after `offset`, in the flat vector."
function chain_layer(layer::Lux.Dense, x, offset)
    like(n) = fill!(similar(x, n, size(x)[2:end]...), 0)
    out, in = layer.out_dims, layer.in_dims
    stop = offset + out * in
    biases = (stop + 1):(Lux.has_bias(layer) ? stop + out : stop)
    return DenseLayer(
        layer.activation, (offset + 1, (out, in)), biases, like(in), like(out), like(out), like(out), like(in)),
    biases.stop
end

function chain_layer(layer::Lux.WrappedFunction, x, offset)
    f = layer.func
    return FunctionLayer(f, similar(x), fill!(similar(f(x)), 0), similar(x)), offset
end

matrix_at(flat, (start, shape)) = reshape(view(flat, start:(start + prod(shape) - 1)), shape)

function forward!(s::DenseLayer, p, x)
    copyto!(s.input, x)
    mul!(s.before, matrix_at(p, s.weight), s.input)
    isempty(s.bias) || (s.before .+= view(p, s.bias))
    s.after .= s.activation.(s.before)
    return s.after
end

function backward!(s::DenseLayer, p, pbar, λ)
    s.before_bar .= λ .* derivative.(s.activation, s.before, s.after)
    if pbar !== nothing
        mul!(matrix_at(pbar, s.weight), s.before_bar, transpose(s.input))
        isempty(s.bias) || sum_columns!(view(pbar, s.bias), s.before_bar)
    end
    return mul!(s.input_bar, transpose(matrix_at(p, s.weight)), s.before_bar)
end

derivative(f, x, y) = ForwardDiff.derivative(f, x)
derivative(::typeof(identity), x, y) = one(x)
derivative(::Union{typeof(tanh), typeof(NNlib.tanh_fast)}, x, y) = derivative(Val(:tanh), x, y)
derivative(::Union{typeof(NNlib.sigmoid), typeof(NNlib.sigmoid_fast)}, x, y) = derivative(Val(:sigmoid), x, y)

forward!(s::FunctionLayer, p, x) = copyto!(s.after, s.f(copyto!(s.input, x)))

# One column at a time: the columns are independent samples.
function backward!(s::FunctionLayer{<:Any, <:AbstractVector}, p, pbar, λ)
    return mul!(s.input_bar, transpose(ForwardDiff.jacobian(s.f, s.input)), λ)
end

function backward!(s::FunctionLayer{<:Any, <:AbstractMatrix}, p, pbar, λ)
    for k in axes(s.input, 2)
        jacobian = ForwardDiff.jacobian(s.f, s.input[:, k:k])
        mul!(view(s.input_bar, :, k), transpose(jacobian), view(λ, :, k))
    end
    return s.input_bar
end

function slope!(
        du::AbstractVecOrMat{T}, e::ChainEvaluator{T}, u::AbstractVecOrMat{T}, p::AbstractVector{T}, t) where {T}
    x, flat = u, getdata(p)
    for layer in e.layers
        x = forward!(layer, flat, x)
    end
    return copyto!(du, x)
end

function pullback!(ubar, pbar, e::ChainEvaluator, λ, u, p, t)
    x, flat = u, getdata(p)
    for layer in e.layers
        x = forward!(layer, flat, x)
    end
    grad = pbar === nothing ? nothing : getdata(pbar)
    for layer in Iterators.reverse(e.layers)
        λ = backward!(layer, flat, grad, λ)
    end
    ubar === nothing || copyto!(ubar, λ)
    return nothing
end

"Evaluator of any other Lux model; the extension for SciMLSensitivity, which brings Zygote, defines `zygote_pullback`."
struct ZygoteEvaluator{T, F <: LuxModel, N} <: Evaluator{T}
    field::F
    nest::N
end

function ZygoteEvaluator(field::LuxModel, ::AbstractVecOrMat{T}) where {T}
    load_extension("SciMLSensitivity", "$(field.name) is not a chain of dense layers and functions: its derivatives need")
    nest = Unpack(field)
    return ZygoteEvaluator{T, typeof(field), typeof(nest)}(field, nest)
end

function zygote_pullback end

function slope!(
        du::AbstractVecOrMat{T}, e::ZygoteEvaluator{T}, u::AbstractVecOrMat{T}, p::AbstractVector{T}, t) where {T}
    return copyto!(du, slope(e.field, u, e.nest(getdata(p)), t))
end

function pullback!(ubar, pbar, e::ZygoteEvaluator, λ, u, p, t)
    u_bar, p_bar = Base.invokelatest(zygote_pullback, (u, p) -> slope(e.field, u, e.nest(p), t), u, getdata(p), λ)
    ubar === nothing || (u_bar === nothing ? fill!(ubar, 0) : copyto!(ubar, u_bar))
    pbar === nothing || (p_bar === nothing ? fill!(getdata(pbar), 0) : copyto!(getdata(pbar), p_bar))
    return nothing
end
