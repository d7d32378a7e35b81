# Continuous normalizing flows: densities, samples and training gradients for any of the package's fields.
#
# DiffEqFlux.FFJORD is not used because of two measured defects (DiffEqFlux 4.4.0): with regularize=true it returns two samples in
# place of the two penalties, and it redraws Hutchinson's noise at every call of the right-hand side, which is then no longer a
# function of state and time. Here the noise is fixed during a solve, and the penalties are separate integrals.

using Random: Xoshiro, rand!, randn!

include("flows/curvature.jl")
include("flows/augmented.jl")
include("flows/elementwise.jl")
include("flows/layered.jl")
include("flows/traces.jl")
include("flows/generic.jl")

"""
    Flow(field; times=(0.0, 1.0), trace="exact", noise="rademacher", solver="Tsit5", gradient="Backprop", control=Control())

A continuous normalizing flow: a standard normal sample z at times[1] moves along the field and becomes the data x at times[2]
(Chen et al. 2018; Grathwohl et al. 2019); ``log p(x) = log N(z) - ∫ tr ∂f/∂y dt``.

- `trace`: "exact" (closed form for linear fields and networks with one hidden layer, otherwise `dim` vector-Jacobian products), or
  "hutchinson" with one vector of `noise` ("rademacher", "gaussian") per sample, drawn from a seed before a solve and fixed during it;
- `gradient`: "Backprop" and "Checkpointed" differentiate the steps of this package's own solve (arrays on the CPU); "InterpolatingAdjoint",
  "GaussAdjoint", "QuadratureAdjoint" and "BacksolveAdjoint" are SciMLSensitivity's;
- `solver`: an explicit solver.

Samples are columns of matrices (dim, samples), on any device; the parameters p are on the same device.
"""
struct Flow{F <: VectorField}
    field::F
    times::Tuple{Float64, Float64}
    trace::String
    noise::String
    solver::String
    gradient::String
    control::Control
end

function Flow(field::VectorField; times = (0.0, 1.0), trace = "exact", noise = "rademacher",
        solver = "Tsit5", gradient = "Backprop", control = Control())
    trace in ("exact", "hutchinson") || throw(UserError("trace is $(repr(trace)): give \"exact\" or \"hutchinson\"."))
    lookup("noise", noise, NOISES)
    gradient in DISCRETE_GRADIENTS || lookup("gradient", gradient, BATCH_ADJOINTS)
    start, stop = Float64.(Tuple(times))
    start == stop &&
        throw(UserError("times are both $start: give two different times, the time of the normal samples and the time of the data."))
    return Flow(
        field, (start, stop), String(trace), String(noise), require_explicit(solver).name, String(gradient), control)
end

"""
    transform(flow, p, z; times=[flow.times[2]])

Carry samples z (dim, samples) of the base distribution from flow.times[1] to `times`, given in the order in which the flow reaches them.
Return the samples at these times, (dim, samples, times).
"""
transform(flow::Flow, p, z; times = [flow.times[2]]) = carry(flow, p, z, flow.times[1], times)

"""
    inverse(flow, p, x; times=[flow.times[1]])

Carry data x (dim, samples) back from flow.times[2] to `times`. Return the samples at these times, (dim, samples, times).
"""
inverse(flow::Flow, p, x; times = [flow.times[1]]) = carry(flow, p, x, flow.times[2], times)

function carry(flow, p, y, from, times)
    check_samples(flow, y)
    # The initial time may itself be requested.
    asked = first(times) == from
    ys = length(times) == 1 && asked ? reshape(copy(y), size(y)..., 1) :
         solve_batch(flow.field, p, y, asked ? times : [from; times]; flow.solver, flow.control)
    return asked ? ys : ys[:, :, 2:end]
end

function check_samples(flow, y)
    ndims(y) == 2 && size(y, 1) == dimension(flow.field) ||
        throw(UserError("samples have shape $(size(y)): use shape ($(dimension(flow.field)), samples), with one sample per column."))
end

"""
    sample(flow, p, n; seed=0)

Return n samples (dim, n) of the flow's density, on the device of p; they depend only on p and the seed.
"""
function sample(flow::Flow, p, n; seed = 0)
    z = draw!(similar(getdata(p), dimension(flow.field), n), "gaussian", seed)
    return dropdims(transform(flow, p, z); dims = 3)
end

"""
    FlowSolve(flow, x; path="discrete", kinetic=false, jacobian=false, settings...)

Reusable workspace to solve and differentiate the flow for samples like x (dim, samples), with `solve!`, `pullback!` and
`loss_gradient!`. `path` is "discrete" or "batched_sensitivity", whichever the flow's gradient requires (see `make_solve`). `kinetic` and
`jacobian` add the penalties' integrals to the state. The additional settings are those of the gradient: `every` for "Checkpointed", `rtol`
and `atol` for SciML's backward solve.
"""
struct FlowSolve{F <: Flow, A <: Augmented, S <: DifferentiableSolve, M <: AbstractMatrix}
    flow::F
    field::A
    joint::S
    start::M
    startbar::M
end

function FlowSolve(flow::Flow, x::AbstractMatrix; path = "discrete", kinetic = false, jacobian = false, settings...)
    check_samples(flow, x)
    field = augmented(flow, x, kinetic, jacobian)
    start = fill!(similar(x, dimension(field), size(x, 2)), 0)
    joint = make_solve(
        path, field, start, reverse(collect(flow.times)); flow.solver, flow.gradient, flow.control, settings...)
    return FlowSolve(flow, field, joint, start, similar(start))
end

function augmented(flow, x, kinetic, jacobian)
    Augmented(flow.field, flow.trace == "exact" ? nothing : fill!(similar(x), 0); kinetic, jacobian)
end

redraw!(flow, field, seed) = field.noise === nothing ? nothing : draw!(field.noise, flow.noise, seed)

"""
    solve!(s::FlowSolve, p, x; seed=0)

Return `(; log_density, base, kinetic, jacobian)` of samples x (dim, samples): log p(x) (samples,), the corresponding base samples
(dim, samples), and the integrals of |f|² and |∂f/∂y|² over time along each trajectory (samples,), which are positive in either direction of
time, and `nothing` if not requested. Hutchinson's noise is generated from the seed.
"""
function solve!(s::FlowSolve, p, x; seed = 0)
    check_samples(s.flow, x)
    redraw!(s.flow, s.field, seed)
    return integrals(s.flow, s.field, solve_joint!(s, p, x))
end

"""
    solve_joint!(s::FlowSolve, p, x)

Return the final joint state (rows, samples), see `Augmented`, for samples x and the noise in `s.field`; the array belongs to `s`.
"""
function solve_joint!(s::FlowSolve, p, x)
    view(s.start, 1:size(x, 1), :) .= x
    return selectdim(solve!(s.joint, p, s.start), 3, 2)
end

function integrals(flow, field, y)
    d, T = dimension(flow.field), eltype(y)
    base = y[1:d, :]
    log_density = y[trace_row(field), :] .- vec(sum(abs2, base; dims = 1)) ./ 2 .- T(d * log(2π) / 2)
    return (; log_density, base, kinetic = field.kinetic ? time_sign(flow) .* y[kinetic_row(field), :] : nothing,
        jacobian = field.jacobian ? time_sign(flow) .* y[jacobian_row(field), :] : nothing)
end

# Densities are computed from the data to the base, usually backward in time.
time_sign(flow) = flow.times[1] > flow.times[2] ? 1 : -1

"""
    pullback!(pbar, xbar, s::FlowSolve; log_density=nothing, base=nothing, kinetic=nothing, jacobian=nothing)

After `solve!`: overwrite pbar (flat, like p) and xbar (like x; or `nothing`) with the products of the derivative and the given
cotangents of the results.
"""
function pullback!(
        pbar, xbar, s::FlowSolve; log_density = nothing, base = nothing, kinetic = nothing, jacobian = nothing)
    d, y = dimension(s.flow.field), selectdim(s.joint.ys, 3, 2)
    bar = fill!(similar(s.start), 0)
    flat(x) = reshape(x, 1, :)
    base === nothing || (view(bar, 1:d, :) .+= base)
    if log_density !== nothing
        view(bar, 1:d, :) .-= flat(log_density) .* view(y, 1:d, :)
        row(bar, trace_row(s.field)) .= flat(log_density)
    end
    for (name, cotangent, kept, place) in (("kinetic", kinetic, s.field.kinetic, kinetic_row(s.field)),
        ("jacobian", jacobian, s.field.jacobian, jacobian_row(s.field)))
        cotangent === nothing && continue
        kept ||
            throw(UserError("$name has a cotangent, but this FlowSolve does not compute this integral: create it with $name=true."))
        row(bar, place) .= time_sign(s.flow) .* flat(cotangent)
    end
    return pullback_joint!(pbar, xbar, s, bar)
end

"Like `pullback!`, but to be called after `solve_joint!`, for a cotangent `bar` of the joint state that it returned."
function pullback_joint!(pbar, xbar, s::FlowSolve, bar)
    bars = fill!(similar(s.joint.ys), 0)
    copyto!(selectdim(bars, 3, 2), bar)
    pullback!(pbar, s.startbar, s.joint, bars)
    xbar === nothing || (xbar .= view(s.startbar, 1:dimension(s.flow.field), :))
    return nothing
end

"""
    loss_gradient!(grad, s::FlowSolve, p, x; kinetic=0.0, jacobian=0.0, seed=0)

Write the gradient with respect to p of the mean over the samples of -log p(x) + kinetic ∫|f|² dt + jacobian ∫|∂f/∂y|² dt, and return
`(; loss, nll, kinetic, jacobian)`: that mean, and the means of its three terms without their weights (0 where not computed).
"""
function loss_gradient!(grad, s::FlowSolve, p, x; kinetic = 0.0, jacobian = 0.0, seed = 0)
    r = solve!(s, p, x; seed)
    n, T = size(x, 2), eltype(x)
    mean(terms) = terms === nothing ? zero(T) : sum(terms) / n
    each(weight) = fill!(similar(x, n), T(weight / n))
    pullback!(grad, nothing, s; log_density = each(-1), kinetic = iszero(kinetic) ? nothing : each(kinetic),
        jacobian = iszero(jacobian) ? nothing : each(jacobian))
    nll, energy, norm = -mean(r.log_density), mean(r.kinetic), mean(r.jacobian)
    return (; loss = nll + T(kinetic) * energy + T(jacobian) * norm, nll, kinetic = energy, jacobian = norm)
end

"""
    log_density(flow, p, x; seed=0)

Return log p(x) (samples,) of samples x (dim, samples).
"""
log_density(flow::Flow, p, x; seed = 0) = integrate_paths(flow, p, x, false, seed).log_density

"""
    penalties(flow, p, x; seed=0)

Return `(; log_density, base, kinetic, jacobian)` like `solve!` for a `FlowSolve`, with both penalties, but keep no data for a gradient.
"""
penalties(flow::Flow, p, x; seed = 0) = integrate_paths(flow, p, x, true, seed)

function integrate_paths(flow, p, x, both, seed)
    check_samples(flow, x)
    field = augmented(flow, x, both, both)
    redraw!(flow, field, seed)
    start = fill!(similar(x, dimension(field), size(x, 2)), 0)
    view(start, 1:size(x, 1), :) .= x
    base, data = flow.times
    ys = solve_batch(field, p, start, [data, base]; flow.solver, flow.control)
    return integrals(flow, field, selectdim(ys, 3, 2))
end
