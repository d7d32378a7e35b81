# The parameters of a fit: an optimizer changes an unbounded vector of the free parameters, which is mapped to values within their bounds.

# One bound is enforced by an exponential, two by a logistic function.
bounded(x, ::Nothing, ::Nothing) = x
bounded(x, low, ::Nothing) = low + exp(x)
bounded(x, ::Nothing, high) = high - exp(x)
bounded(x, low, high) = low + (high - low) * logistic(x)

unbounded(v, ::Nothing, ::Nothing) = v
unbounded(v, low, ::Nothing) = log(v - low)
unbounded(v, ::Nothing, high) = log(high - v)
unbounded(v, low, high) = (part = (v - low) / (high - low); log(part / (1 - part)))

"Return the derivative of `bounded` at `x`."
bounded_derivative(x, ::Nothing, ::Nothing) = one(x)
bounded_derivative(x, low, ::Nothing) = exp(x)
bounded_derivative(x, ::Nothing, high) = -exp(x)
bounded_derivative(x, low, high) = (s = logistic(x); (high - low) * s * (1 - s))

struct Variable{L, H}
    name::String
    shape::Dims
    all::UnitRange{Int}                   # indices in the vector of all parameters
    free::Union{Nothing, UnitRange{Int}}   # indices in the vector of free parameters; `nothing` if fixed
    low::L
    high::H
end

"""
    Variables(arrays, bounds, fixed, T)

Free and fixed parameters by name. `arrays` is a vector of pairs of name and array, in order; `bounds` maps names to pairs
(low, high) with `nothing` for no bound; `fixed` contains the names of the parameters that are not fitted.

The vector of all parameters contains all arrays one after the other; the free vector contains the unbounded values of the fitted parameters.
"""
struct Variables{T}
    list::Vector{Variable}
    start::Vector{T}
end

function Variables(arrays, bounds::AbstractDict, fixed, ::Type{T}) where {T}
    known = first.(arrays)
    for (label, given) in (("bounds", keys(bounds)), ("fixed", fixed)), name in given

        name in known ||
            throw(UserError("$label names \"$name\", which is not a parameter: use one of $(join(known, ", "))."))
    end
    list, start, free = Variable[], T[], 0
    for (name, array) in arrays
        low, high = map(end_ -> end_ === nothing ? nothing : T(end_), get(bounds, name, (nothing, nothing)))
        n = length(array)
        moves = !(name in fixed)
        push!(list,
            Variable(String(name), Dims(size(array)), (length(start) + 1):(length(start) + n),
                moves ? ((free + 1):(free + n)) : nothing, low, high))
        append!(start, array isa Number ? (array,) : vec(array))
        free += moves * n
        moves && check_inside(name, view(start, list[end].all), low, high)
    end
    free > 0 || throw(UserError("fixed names every parameter: leave at least one free."))
    return Variables{T}(list, start)
end

function check_inside(name, initial, low, high)
    if low !== nothing && high !== nothing && !(low < high)
        throw(UserError("bounds of $name are ($low, $high): give a lower bound below the upper bound."))
    end
    inside = all(v -> (low === nothing || v > low) && (high === nothing || v < high), initial)
    inside || throw(UserError(
        "$name starts at $(collect(initial)), not inside its bounds ($low, $high): choose an initial value inside the bounds."))
end

"Return the index of the single number `name` in the vector of all parameters."
function index_of(variables::Variables, name)
    k = findfirst(v -> v.name == name, variables.list)
    k === nothing && throw(UserError("extra has no \"$name\": add a number with this name."))
    return first(variables.list[k].all)
end

"Return whether the number at `index` of the vector of all parameters is free."
isfree(variables::Variables, index) = any(v -> v.free !== nothing && index in v.all, variables.list)

"Return the free vector that represents the initial values of the parameters."
function start_vector(variables::Variables{T}) where {T}
    free = T[]
    for v in variables.list
        v.free === nothing || append!(free, unbounded.(view(variables.start, v.all), Ref(v.low), Ref(v.high)))
    end
    return free
end

"Write the vector of all parameters that the free vector `x` represents into `full`."
function values!(full, variables::Variables, x)
    for v in variables.list
        v.free === nothing ? copyto!(view(full, v.all), view(variables.start, v.all)) :
        broadcast!(bounded, view(full, v.all), view(x, v.free), v.low, v.high)
    end
    return full
end

"Write the gradient with respect to `x` into `bar`, computed from `allbar`, the gradient with respect to all parameters."
function values_pullback!(bar, variables::Variables, allbar, x)
    for v in variables.list
        v.free === nothing && continue
        view(bar, v.free) .= view(allbar, v.all) .* bounded_derivative.(view(x, v.free), v.low, v.high)
    end
    return bar
end

"Return all parameters that the free vector `x` represents, by name and within their bounds; a number is an array of shape ()."
function arrays(variables::Variables, x)
    full = values!(similar(variables.start), variables, x)
    return Dict{String, Any}(v.name => reshape(full[v.all], v.shape) for v in variables.list)
end
