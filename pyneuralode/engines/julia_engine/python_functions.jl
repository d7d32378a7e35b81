# Python functions as SciML takes them. States and slopes cross in arrays that both languages see, so that a
# call of Python hands over one number, the time.
module PythonFunctions

using Main.PyNeuralODE: PyNeuralODE

"""
    Slope(call, y, dy, scale)

`dy = f(t, y)` of Python: `call(t)` reads the array `y` and writes `dy`. Below `scale`, one size for each
component, a state counts as small; the Jacobian's differences are taken on it.
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

# Dual numbers cannot cross to Python. SciML's own differences step by 1e-8 and more however small the state
# is, and Robertson's (1e-14) is lost then. Central differences leave no error on quadratic terms, the
# commonest in stiff chemistry.
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

`r = residual(t, y, dy)` of Python; `scale` as in a `Slope`.
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

# SciML wants the sum of both Jacobians, γ times the one of dy; a shift of y by h and of dy by γh gives it in
# one difference.
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

"The states that a solution saved, as one matrix (n, T), and those that its interpolant gives at `ts`."
saved(solution) = stack(solution.u)
interpolated(solution, ts) = stack(solution(t) for t in ts)

end
