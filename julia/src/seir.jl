# The parts of a fit of the SEIR model: an initial state that is fitted, and new cases per day as the observable.

"The initial state (1 - e0 - i0, e0, i0, 0) given by the parameters e0 and i0."
struct SEIRStart <: Start
    e0::Int
    i0::Int
end

STARTS["SEIRStart"] = (d, variables, dim) -> SEIRStart(index_of(variables, "e0"), index_of(variables, "i0"))

reads(start::SEIRStart) = (start.e0, start.i0)

function initial!(u0, start::SEIRStart, v)
    e0, i0 = v[start.e0], v[start.i0]
    u0 .= (1 - e0 - i0, e0, i0, zero(e0))
    return u0
end

function initial_pullback!(vbar, start::SEIRStart, u0bar)
    vbar[start.e0] += u0bar[2] - u0bar[1]
    vbar[start.i0] += u0bar[3] - u0bar[1]
end

"The observable of new cases per day, ``factor * sigma * e``."
struct Incidence <: Observable
    factor::Int
    sigma::Int
end

OBSERVABLES["Incidence"] = (d, variables, dim) -> Incidence(index_of(variables, "factor"), index_of(variables, "sigma"))

reads(observable::Incidence) = (observable.factor, observable.sigma)
width(::Incidence) = 1

function predict!(z, observable::Incidence, ys, v)
    view(z, 1, :, :) .= (v[observable.factor] * v[observable.sigma]) .* view(ys, 2, :, :)
    return z
end

function predict_pullback!(ysbar, vbar, observable::Incidence, zbar, ys, v)
    factor, sigma = v[observable.factor], v[observable.sigma]
    bar, exposed = view(zbar, 1, :, :), view(ys, 2, :, :)
    view(ysbar, 2, :, :) .+= (factor * sigma) .* bar
    product = dot(bar, exposed)
    vbar[observable.factor] += sigma * product
    vbar[observable.sigma] += factor * product
end
