# Python functions in the form that SciML requires. States and slopes are stored in arrays shared by both languages, so
# that a call of Python passes only one number, the time.
module PythonFunctions

using Main.PyNeuralODE: PyNeuralODE

"""
    Slope(call, y, dy, scale)

Python's `dy = f(t, y)`: `call(t)` reads the array `y` and writes `dy`. `scale` contains, for each
component, the size below which it is treated as small; the steps of the Jacobian's differences are relative to at least this
size.
"""
struct Slope{F,A,S}
    call::F
    y::A
    dy::A
    scale::S
end

function (f::Slope)(dy, y, p, t)
    copyto!(f.y, y)
    f.call(t)
    copyto!(dy, f.dy)
    return nothing
end

# Dual numbers cannot be passed to Python. SciML's own differences use steps of at least 1e-8 regardless of the size of
# the state, which are far too large for Robertson's (1e-14). Central differences are exact for quadratic terms, the most common
# ones in stiff chemistry.
function jacobian!(J, f::Slope, y, p, t)
    above, below, shifted = similar(y), similar(y), copy(y)
    for j in eachindex(y)
        h = cbrt(eps(eltype(y))) * max(abs(y[j]), f.scale[j])
        shifted[j] = y[j] + h
        f(above, shifted, p, t)
        shifted[j] = y[j] - h
        f(below, shifted, p, t)
        shifted[j] = y[j]
        J[:, j] .= (above .- below) ./ 2h
    end
    return nothing
end

# Hairer and Wanner's step in time (Solving Ordinary Differential Equations II, RODAS).
function time_slope!(dT, f::Slope, y, p, t)
    later, now, h = similar(y), similar(y), sqrt(eps(eltype(y)) * max(1e-5, abs(t)))
    f(later, y, p, t + h)
    f(now, y, p, t)
    dT .= (later .- now) ./ h
    return nothing
end

jacobian(f::Slope) = (J, y, p, t) -> jacobian!(J, f, y, p, t)
time_slope(f::Slope) = (dT, y, p, t) -> time_slope!(dT, f, y, p, t)

"""
    Residual(call, y, dy, r, scale)

Python's `r = residual(t, y, dy)`; `scale` is as in `Slope`.
"""
struct Residual{F,A,S}
    call::F
    y::A
    dy::A
    r::A
    scale::S
end

function (f::Residual)(r, dy, y, p, t)
    copyto!(f.y, y)
    copyto!(f.dy, dy)
    f.call(t)
    copyto!(r, f.r)
    return nothing
end

# SciML wants ∂r/∂y + γ ∂r/∂dy; shifting y by h and dy by γh computes the sum by one difference.
function jacobian!(J, f::Residual, dy, y, p, γ, t)
    above, below, shifted, tilted = similar(y), similar(y), copy(y), copy(dy)
    for j in eachindex(y)
        h = cbrt(eps(eltype(y))) * max(abs(y[j]), f.scale[j])
        shifted[j], tilted[j] = y[j] + h, dy[j] + γ * h
        f(above, tilted, shifted, p, t)
        shifted[j], tilted[j] = y[j] - h, dy[j] - γ * h
        f(below, tilted, shifted, p, t)
        shifted[j], tilted[j] = y[j], dy[j]
        J[:, j] .= (above .- below) ./ 2h
    end
    return nothing
end

jacobian(f::Residual) = (J, dy, y, p, γ, t) -> jacobian!(J, f, dy, y, p, γ, t)

"""
    Delayed(call, y, past, dy, lags)

Python's `dy = f(t, y, y1, ...)`, where the arrays in the tuple `past` receive the states at t - lag for each of the `lags`.
"""
struct Delayed{F,A,P,L}
    call::F
    y::A
    past::P
    dy::A
    lags::L
end

function (f::Delayed)(dy, y, h, p, t)
    copyto!(f.y, y)
    for (state, lag) in zip(f.past, f.lags)
        copyto!(state, h(p, t - lag))
    end
    f.call(t)
    copyto!(dy, f.dy)
    return nothing
end

"Python's `y = history(t)`, in the forms in which SciML calls it."
struct History{F,A}
    call::F
    y::A
end

function (h::History)(p, t; idxs=nothing)
    h.call(t)
    return idxs === nothing ? copy(h.y) : h.y[idxs]
end
(h::History)(out, p, t; idxs=nothing) = copyto!(out, h(p, t; idxs))

"""
    delay_source(source, names, values)

Return the function of the source of a delay equation, and its parameters by name.
"""
function delay_source(source, names, values)
    f = PyNeuralODE.evaluate_source("f", string(source))
    f isa Function || throw(PyNeuralODE.UserError("f is $(PyNeuralODE.describe_value(f)): give the source of a function (du, u, h, p, t) -> ..."))
    isempty(names) && return f, PyNeuralODE.SciMLBase.NullParameters()  # SciMLBase recurses forever on an empty NamedTuple
    return f, NamedTuple{Tuple(Symbol(string(name)) for name in names)}(Tuple(number(value) for value in values))
end

number(value::AbstractArray) = ndims(value) == 0 ? value[] : collect(value)
number(value) = value

"Return SciML's algorithm for the name or the source of a solver; Python functions take no dual numbers."
algorithm(solver) = PyNeuralODE.find_solver(string(solver)).make(PyNeuralODE.AutoFiniteDiff())

"A described field as a function of flat states; `calls` counts its evaluations, as not every solver of SciML counts them."
struct Described{F}
    field::F
    calls::Base.RefValue{Int}
end

Described(field) = Described(field, Ref(0))

function (f::Described)(dy, y, p, t)
    f.calls[] += 1
    f.field(dy, y, p, t)
    return nothing
end

jacobian(f::Described) = (J, y, p, t) -> PyNeuralODE.jacobian!(J, f.field, y, p, t)
time_slope(f::Described) = (dT, y, p, t) -> PyNeuralODE.time_slope!(dT, f.field, y, p, t)

integrate(problem, solver, ts, control; saving...) =
    PyNeuralODE.integrate(problem, PyNeuralODE.find_solver(solver), ts, control; saving...)

"Return the states that a solution saved, as one matrix (n, T)."
saved(solution) = stack(solution.u)
"Return the states (n, T) of a solution's interpolant at `ts`."
interpolated(solution, ts) = stack(solution(t) for t in ts)

end
