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

integrate(problem, solver, ts, control; saving...) =
    PyNeuralODE.integrate(problem, PyNeuralODE.find_solver(solver), ts, control; saving...)

"Return the states that a solution saved, as one matrix (n, T)."
saved(solution) = stack(solution.u)
"Return the states (n, T) of a solution's interpolant at `ts`."
interpolated(solution, ts) = stack(solution(t) for t in ts)

end
