# The objective of a fit and its gradient: the sum or mean of the weighted squared residuals over the first rows of the data, plus a penalty.

"Thrown if the loss is not a finite number."
struct NotFinite <: Exception
    value::Float64
end

function Base.showerror(io::IO, err::NotFinite)
    print(io, "the loss is ", isnan(err.value) ? "nan" : err.value > 0 ? "inf" : "-inf")
end

"""
    Objective

The data of a fit, and the parts that compute a prediction from parameters. States have the shape (dim, samples, times), data and
weights (components, samples, times). `Span(objective, rows)` is the objective over the first rows of the data, which a stage uses.

The types of the parts are not part of its type, so that a fit of another field or penalty does not recompile the code that runs a plan.
"""
struct Objective{T}
    field::VectorField
    variables::Variables{T}
    start::Start
    observable::Observable
    penalty::Penalty
    shape::Dims              # of the initial state
    t0::Float64
    ts::Vector{Float64}
    data::Array{T, 3}
    weights::Array{T, 3}
    mean::Bool
    make::Any                # make(u0, ts) -> a DifferentiableSolve
end

"The objective over the first rows of the data, with its workspace: one solve, reused by every evaluation of a stage."
struct Span{T}
    objective::Objective{T}
    solve::Union{Nothing, DifferentiableSolve}   # `nothing` if only the initial state is needed
    skip::Int                # number of solve times before the first row
    v::Vector{T}             # all parameters
    vbar::Vector{T}
    p::Vector{T}             # the field's part of `v`
    pbar::Vector{T}
    u0::Array{T}
    u0bar::Array{T}
    ysbar::Array{T}
    z::Array{T, 3}
    zbar::Array{T, 3}
    data::Array{T, 3}
    weights::Array{T, 3}
    norm::T
end

function Span(objective::Objective{T}, rows) where {T}
    (; variables, start, shape, t0, ts) = objective
    skipped = Int(t0 < ts[1])
    times = [t0; ts[(2 - skipped):rows]]
    v = copy(variables.start)
    u0 = initial!(zeros(T, shape), start, v)
    solve = length(times) == 1 ? nothing : objective.make(u0, times)
    data, weights = objective.data[:, :, 1:rows], objective.weights[:, :, 1:rows]
    p = zeros(T, parameter_count(objective.field))
    span = Span{T}(
        objective, solve, skipped, v, zero(v), p, zero(p), u0, zero(u0), zeros(T, shape..., length(times)), zero(data),
        zero(data), data, weights, objective.mean ? sum(weights) : one(T))
    check_depends(span, rows)
    return span
end

function check_depends(span::Span, rows)
    (; variables, start, observable, penalty) = span.objective
    own = span.solve === nothing ? () : eachindex(span.pbar)
    any(k -> isfree(variables, k), Iterators.flatten((own, reads(start), reads(observable), reads(penalty)))) && return
    throw(UserError("the loss of the first $rows rows depends on no free parameter: use a later end for the stage, or an earlier t0."))
end

"""
    value_and_gradient!(bar, span, x) -> loss, objective

Return the loss and the objective (loss plus penalty) at the free vector `x`; write the objective's gradient into `bar`. Throw `SolveFailure` if
the problem cannot be solved for these parameters, and `NotFinite` if the objective is not finite.
"""
function value_and_gradient!(bar, span::Span, x)
    (; objective, v, vbar, u0, u0bar, ysbar, z, zbar) = span
    (; variables, start, observable, penalty) = objective
    values!(v, variables, x)
    copyto!(span.p, 1, v, 1, length(span.p))
    initial!(u0, start, v)
    ys = span.solve === nothing ? u0 : solve!(span.solve, span.p, u0)
    seen = seen_times(ys, span)
    seenbar = seen_times(fill!(ysbar, 0), span)
    fill!(vbar, 0)
    predict!(z, observable, seen, v)
    loss = squares!(zbar, z, span)
    predict_pullback!(seenbar, vbar, observable, zbar, seen, v)
    total = loss + penalty!(seenbar, vbar, penalty, seen, v)
    isfinite(total) || throw(NotFinite(total))
    if span.solve === nothing
        copyto!(u0bar, ysbar)
    else
        pullback!(span.pbar, u0bar, span.solve, ysbar)
        view(vbar, eachindex(span.pbar)) .+= span.pbar
    end
    initial_pullback!(vbar, start, u0bar)
    values_pullback!(bar, variables, vbar, x)
    return loss, total
end

"Return the states (dim, samples, times) at the times of the data."
function seen_times(ys, span::Span)
    dim, samples = size(span.u0, 1), size(span.z, 2)
    return view(reshape(ys, dim, samples, :), :, :, (1 + span.skip):(size(span.z, 3) + span.skip))
end

function squares!(zbar, z, span::Span{T}) where {T}
    total = zero(T)
    for k in eachindex(z, zbar, span.data, span.weights)
        residual = z[k] - span.data[k]
        zbar[k] = 2 * span.weights[k] * residual / span.norm
        total += span.weights[k] * residual * residual
    end
    return total / span.norm
end
