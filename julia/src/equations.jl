# Formulas written in Python (pyneuralode.Equations), which arrive already parsed, as steps: each is an operation with one or two operands.
#
# The steps are data that a loop executes, not generated Julia code: every model of every user has the same type, so that
# solvers and adjoints are compiled once, in the package's image, and nothing in a description is ever evaluated as code.
# The nine steps of the Lotka-Volterra model take 20 ns this way, and their vector-Jacobian products 50 ns; compiling one solver
# for a separate type would take three seconds in every process.

using ChainRulesCore: ChainRulesCore, NoTangent, Tangent, unthunk
using ForwardDiff: ForwardDiff

# Each row: an operation, its value z for operands x and y, ∂z/∂x and ∂z/∂y. Outside its domain a function returns NaN, as in the torch
# engine, so that the solver rejects a step there. At a tie of max or min, the derivative is split equally between the operands.
const OPERATIONS = (
    ("+", :(x + y), 1, 1),
    ("-", :(x - y), 1, -1),
    ("*", :(x * y), :y, :x),
    ("/", :(x / y), :(inv(y)), :(-z / y)),
    ("**", :(power(x, y)), :(iszero(y) ? y : y * power(x, y - 1)), :(iszero(x) && y >= 0 ? x : z * log(abs(x)))),
    ("square", :(x * x), :(x + x), 0),
    ("neg", :(-x), -1, 0),
    ("abs", :(abs(x)), :(sign(x)), 0),
    ("acos", :(within(acos, x, abs(x) <= 1)), :(-inv(root(1 - x * x))), 0),
    ("asin", :(within(asin, x, abs(x) <= 1)), :(inv(root(1 - x * x))), 0),
    ("atan", :(atan(x)), :(inv(1 + x * x)), 0),
    ("cos", :(within(cos, x, isfinite(x))), :(-within(sin, x, isfinite(x))), 0),
    ("cosh", :(cosh(x)), :(sinh(x)), 0),
    ("exp", :(exp(x)), :z, 0),
    ("expm1", :(expm1(x)), :(z + 1), 0),
    ("log", :(within(log, x, x >= 0)), :(inv(x)), 0),
    ("log10", :(within(log10, x, x >= 0)), :(inv(x * oftype(x, log(10)))), 0),
    ("log1p", :(within(log1p, x, x >= -1)), :(inv(1 + x)), 0),
    ("sigmoid", :(logistic(x)), :(z * (1 - z)), 0),
    ("sin", :(within(sin, x, isfinite(x))), :(within(cos, x, isfinite(x))), 0),
    ("sinh", :(sinh(x)), :(cosh(x)), 0),
    ("sqrt", :(root(x)), :(inv(z + z)), 0),
    ("tan", :(within(tan, x, isfinite(x))), :(1 + z * z), 0),
    ("tanh", :(tanh(x)), :(1 - z * z), 0),
    ("max", :(max(x, y)), :(share(x > y, x == y)), :(share(y > x, x == y))),
    ("min", :(min(x, y)), :(share(x < y, x == y)), :(share(y < x, x == y)))
)
const OPERATION_NUMBERS = Dict(name => number for (number, (name, _...)) in enumerate(OPERATIONS))
const TWO_OPERANDS = ("+", "-", "*", "/", "**", "max", "min")

within(f, x, inside) = inside ? f(x) : oftype(float(x), NaN)
root(x) = within(sqrt, x, x >= 0)
share(wins, ties) = wins ? 1.0 : ties ? 0.5 : 0.0
# If the exponent is a dual number, x^y computes the logarithm of the base, which must therefore not be negative.
power(x, y) = x >= 0 ? x^y : isinteger(y) ? cospi(y) * (-x)^y : oftype(x^one(y), NaN)

# One branch per operation; the compiler turns these branches into a jump table.
function branches(rows)
    none = :(throw(ArgumentError("unknown index of an operation.")))
    return foldr(((number, result), rest) -> :(operation == $number ? $result : $rest), enumerate(rows); init = none)
end
@eval @inline computed(operation, x, y) = $(branches([value for (_, value, _, _) in OPERATIONS]))
@eval @inline partials(operation, x, y, z) = $(branches([:((oftype(z, $dx), oftype(z, $dy)))
                                                         for (_, _, dx, dy) in OPERATIONS]))

"One step of the formulas: the index of its operation, and the registers of its operands. For a unary operation, `y` equals `x`."
struct FormulaStep
    operation::Int8
    binary::Bool
    x::Int32
    y::Int32
end

"""
    Equations(components, parameters, steps, outputs; initial=zeros(length(parameters)))

A vector field given by formulas. `steps` are strings such as "* a x" or "exp #3" (an operation and its operands: a name, a
number, or the value of an earlier step), and `outputs` are the operands that give the components' time derivatives, both as
`pyneuralode.Equations` writes them; `t` is the time. The parameters are scalars with the given initial values.
"""
struct Equations <: VectorField
    components::Vector{String}
    parameters::Vector{String}
    steps::Vector{FormulaStep}
    constants::Vector{Float64}
    outputs::Vector{Int32}
    initial::Vector{Float64}
end

# Registers: the state, the parameters, the time, the value of each step, the constants.
function Equations(components, parameters, steps, outputs; initial = zeros(length(parameters)))
    symbols = String[components..., parameters..., "t"]
    registers = Dict{String, Int32}(name => place for (place, name) in enumerate(symbols))
    first_constant = length(symbols) + length(steps)
    constants, code = Float64[], FormulaStep[]
    function register(word)
        return get!(registers, word) do
            number = tryparse(Float64, word)
            number === nothing &&
                throw(UserError("the equations contain $(repr(word)), which is not defined: use a component, a parameter, t, a number or an earlier step."))
            push!(constants, number)
            return first_constant + length(constants)
        end
    end
    for (place, instruction) in enumerate(steps)
        name, words... = string.(split(instruction))
        name == "**" && words[end] == "2.0" && ((name, words) = ("square", words[1:1]))
        operation, binary = lookup("the operation", name, OPERATION_NUMBERS), name in TWO_OPERANDS
        length(words) == 1 + binary || throw(UserError(
            "the step $(repr(instruction)) has $(length(words)) operands, but this operation needs $(1 + binary)."))
        push!(code, FormulaStep(operation, binary, register(words[1]), register(words[end])))
        registers["#$place"] = length(symbols) + place
    end
    length(outputs) == length(components) ||
        throw(UserError("outputs has $(length(outputs)) entries: give $(length(components)), one for each component."))
    return Equations(String[components...], String[parameters...], code,
        constants, Int32[register(string(word)) for word in outputs],
        Float64[initial...])
end

FIELDS["Equations"] = d -> Equations(
    first.(d["equations"]), first.(d["parameters"]), d["steps"], d["outputs"]; initial = last.(d["parameters"]))

dimension(field::Equations) = length(field.components)
shapes(field::Equations) = Pair{Symbol, Dims}[Symbol(name) => () for name in field.parameters]

function autonomous(field::Equations)
    time_register = offsets(field)[2] + 1
    return time_register ∉ field.outputs &&
           !any(instruction -> time_register == instruction.x || time_register == instruction.y, field.steps)
end

"Return the numbers of registers that precede the parameters, the time, the steps and the constants."
function offsets(field::Equations)
    d = length(field.components)
    q = d + length(field.parameters)
    return d, q, q + 1, q + 1 + length(field.steps)
end

"Return registers with numbers of type T, in which only the constants are set."
function registers_of(::Type{T}, field::Equations) where {T}
    constants = offsets(field)[4]
    registers = zeros(T, constants + length(field.constants))
    registers[(constants + 1):end] .= field.constants
    return registers
end

"Write the parameters and the time, which all states of a batch share, to the registers."
function set_shared!(registers, field::Equations, p, t)
    d, q, _, _ = offsets(field)
    for j in eachindex(field.parameters)
        registers[d + j] = p[j]
    end
    registers[q + 1] = t
    return registers
end

"Compute every step for state k, a column of `u`."
function forward!(registers, field::Equations, u, k)
    for i in 1:dimension(field)
        registers[i] = u[i, k]
    end
    target = offsets(field)[3]
    @inbounds for instruction in field.steps
        registers[target += 1] = computed(instruction.operation, registers[instruction.x], registers[instruction.y])
    end
    return registers
end

# If automatic differentiation traces single numbers, their type can differ from step to step.
register_type(::Type{T}) where {T <: Union{AbstractFloat, ForwardDiff.Dual}} = T
register_type(::Type) = Real

flat_values(p) = getdata(p)
flat_values(p::NamedTuple) = [values(p)...]

function slope(field::Equations, u::AbstractVecOrMat, p, t)
    flat = flat_values(p)
    numbers = isempty(field.parameters) ? eltype(u) : promote_type(eltype(u), eltype(flat))
    T = register_type(t isa Union{AbstractFloat, Integer} ? numbers : promote_type(numbers, typeof(t)))
    registers = set_shared!(registers_of(T, field), field, flat, t)
    columns = [[forward!(registers, field, u, k)[i] for i in field.outputs] for k in axes(u, 2)]
    return u isa AbstractVector ? columns[1] : reduce(hcat, columns)
end

# Zygote cannot differentiate code that writes to arrays. The time is treated as a constant.
function ChainRulesCore.rrule(::typeof(slope), field::Equations, u::AbstractVecOrMat, p, t)
    function slope_pullback(λ)
        flat = flat_values(p)
        ubar, pbar = similar(u), similar(flat)
        pullback!(ubar, pbar, evaluator(field, u), unthunk(λ), u, flat, t)
        return NoTangent(), NoTangent(), ubar, tangent(p, pbar), NoTangent()
    end
    return slope(field, u, p, t), slope_pullback
end

tangent(p, pbar) = copyto!(similar(p), pbar)
tangent(p::NamedTuple, pbar) = Tangent{typeof(p)}(; (keys(p) .=> pbar)...)

struct EquationsEvaluator{T} <: Evaluator{T}
    field::Equations
    registers::Vector{T}
    bars::Vector{T}     # cotangents of the registers
end

function evaluator(field::Equations, ::AbstractVecOrMat{T}) where {T}
    registers = registers_of(T, field)
    return EquationsEvaluator{T}(field, registers, zero(registers))
end

function slope!(du::AbstractVecOrMat{T}, e::EquationsEvaluator{T}, u::AbstractVecOrMat{T},
        p::AbstractVector{T}, t::Union{AbstractFloat, Integer}) where {T}
    set_shared!(e.registers, e.field, getdata(p), t)
    for k in axes(u, 2)
        forward!(e.registers, e.field, u, k)
        for (i, output) in enumerate(e.field.outputs)
            du[i, k] = e.registers[output]
        end
    end
    return du
end

function pullback!(ubar, pbar, e::EquationsEvaluator, λ, u, p, t)
    field, registers, bars = e.field, e.registers, e.bars
    d, _, before, _ = offsets(field)
    set_shared!(registers, field, getdata(p), t)
    pbar === nothing || fill!(getdata(pbar), 0)
    for k in axes(u, 2)
        forward!(registers, field, u, k)
        fill!(bars, 0)
        for (i, output) in enumerate(field.outputs)
            bars[output] += λ[i, k]
        end
        @inbounds for place in length(field.steps):-1:1
            instruction, bar = field.steps[place], bars[before + place]
            dx, dy = partials(instruction.operation, registers[instruction.x], registers[instruction.y], registers[before + place])
            bars[instruction.x] += bar * dx
            instruction.binary && (bars[instruction.y] += bar * dy)
        end
        if ubar !== nothing
            for i in 1:d
                ubar[i, k] = bars[i]
            end
        end
        if pbar !== nothing
            out = getdata(pbar)
            for j in eachindex(field.parameters)
                out[j] += bars[d + j]
            end
        end
    end
    return nothing
end

# The parameters remain a plain vector for SciML's solvers: with names, every model would have a separate type.
function Dynamics(field::Equations, u0::AbstractVecOrMat{T}) where {T <: AbstractFloat}
    return Dynamics(evaluator(field, u0), identity, similar(u0), similar(u0), zeros(T, length(field.parameters)))
end
