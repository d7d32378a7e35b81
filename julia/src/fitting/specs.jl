# Parts of a fit that Python describes by name: the initial state of a solve, an observable of the states, and a penalty on them.
#
# A part works on states `ys` (dim, samples, times) and on `v`, the vector of all parameters. Each has a value and a hand-written
# pullback; pullbacks add to the cotangents passed to them. `reads(part)` lists the indices of the entries of `v` that it depends on.

abstract type Start end        # initial!(u0, start, v), initial_pullback!(vbar, start, u0bar)
abstract type Observable end   # predict!(z, observable, ys, v), predict_pullback!(ysbar, vbar, observable, zbar, ys, v)
abstract type Penalty end      # penalty!(ysbar, vbar, penalty, ys, v) -> value

reads(::Union{Start, Observable, Penalty}) = ()

"An initial state with given values, which are not fitted."
struct Fixed{U} <: Start
    u0::U
end

initial!(u0, start::Fixed, v) = copyto!(u0, start.u0)
initial_pullback!(vbar, ::Fixed, u0bar) = nothing

"The observable that selects components of the state, by index."
struct Components <: Observable
    places::Vector{Int}
end

width(observable::Components) = length(observable.places)

function predict!(z, observable::Components, ys, v)
    for (k, j) in enumerate(observable.places)
        view(z, k, :, :) .= view(ys, j, :, :)
    end
    return z
end

function predict_pullback!(ysbar, vbar, observable::Components, zbar, ys, v)
    for (k, j) in enumerate(observable.places)
        view(ysbar, j, :, :) .+= view(zbar, k, :, :)
    end
end

struct NoPenalty <: Penalty end

penalty!(ysbar, vbar, ::NoPenalty, ys, v) = zero(eltype(ys))

"""
    TotalVariation(weight, component, smooth)

The penalty on the total variation of one component over the times of the data: ``weight * sum(sqrt(increment^2 + smooth))``. A positive
`smooth` makes it differentiable where an increment is 0.
"""
struct TotalVariation{T} <: Penalty
    weight::T
    component::Int
    smooth::T
end

function penalty!(ysbar, vbar, penalty::TotalVariation, ys, v)
    j, total = penalty.component, zero(eltype(ys))
    for t in 1:(size(ys, 3) - 1), k in axes(ys, 2)

        increment = ys[j, k, t + 1] - ys[j, k, t]
        root = sqrt(increment * increment + penalty.smooth)
        total += root
        slope = penalty.weight * increment / root
        ysbar[j, k, t + 1] += slope
        ysbar[j, k, t] -= slope
    end
    return penalty.weight * total
end

# Constructors by the name that Python uses; their arguments are the spec, the variables and the dimension of the state.
const STARTS = Dict{String, Function}()
const OBSERVABLES = Dict{String, Function}()
const PENALTIES = Dict{String, Function}(
    "TotalVariation" =>
    (d, variables, dim) -> begin
        T = eltype(variables.start)
        TotalVariation{T}(d["weight"], component_place("component", d["component"], dim), d["smooth"])
    end,
)

"Return the index of Python's component `j`, which is counted from 0."
function component_place(argument, j, dim)
    0 <= j < dim || throw(UserError("$argument is $j: give a component of the state, 0 to $(dim - 1)."))
    return Int(j) + 1
end

"Build the start, observable or penalty that the Python spec `d` describes."
build_piece(argument, catalog, d, variables, dim) = lookup(argument, d["kind"], catalog)(d, variables, dim)
