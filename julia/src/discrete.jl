# Solves by explicit Runge-Kutta steps, and their exact derivatives: the accepted steps are differentiated from last to first.
# The time stepping follows pyneuralode/engines/torch_engine/march.py, so that both engines take the same steps.

include("discrete/vectors.jl")
include("discrete/elementary.jl")
include("discrete/kernels.jl")
include("discrete/tape.jl")
include("discrete/evaluated.jl")
include("discrete/steps.jl")
include("tableaus.jl")

const SAFETY, SHRINK, GROW = 0.9, 0.2, 10.0
# The smallest step, as a multiple of the spacing of floating-point numbers near t: large enough for the times of its stages to differ.
const SPACINGS = 10
# Maximum size in bytes of the tape of records; a solve that needs more is differentiated by repeating its steps.
const TAPE_BYTES = 256 << 20
# Maximum number of values on the tape of repeated steps, chosen to fit in the cache of a core.
const REPLAY_NUMBERS = 1 << 18

"Gradient methods that differentiate the steps of a solve."
const DISCRETE_GRADIENTS = ("Backprop", "Checkpointed")

"""
    DiscreteSolve(field, u0, ts; solver="Tsit5", gradient="Backprop", every=1, control=Control())

A `DifferentiableSolve` of any field with an evaluator, from states like `u0`, a vector (dim,) or a matrix (dim, samples) of Float32
or Float64, with output at the times `ts` (time units, increasing or decreasing). `solver` is an explicit solver; its steps are differentiated exactly.

With `gradient="Backprop"`, every stage is stored; with "Checkpointed", the state at the start of every `every`-th step is stored and the
steps in between are repeated; with `nothing`, `pullback!` is not available. The same solve can be repeated with any parameters and
initial states; it allocates nothing once its arrays have grown to the size needed.

Throws `UserError` for a problem that it cannot solve. `solve!` throws `SolveFailure` if it cannot reach the last time.
"""
mutable struct DiscreteSolve{T, N, M, F <: TapedField{T}, C <: Control} <: DifferentiableSolve
    const field::F
    const scheme::Scheme{T}
    const ts::Vector{Float64}
    const grid::Vector{Float64}    # times of fixed steps; empty for adaptive steps
    const control::C
    const rtol::Vector{T}
    const atol::Vector{T}
    const every::Int               # 0 if no derivative is needed
    const wants_tape::Bool
    const shape::NTuple{M, Int}
    const ys::Array{T, N}
    const states::NTuple{2, Vector{T}}   # at the start and at the end of a step
    # The accepted steps of the last solve
    const step_times::Vector{Float64}
    const step_records::Vector{NTuple{3, Int}}     # rows of the first, the second and the last stage
    const checkpoints::Vector{T}                  # states at the start of every `every`-th step
    const replayed_records::Vector{NTuple{3, Int}} # like `step_records`, for repeated steps
    nfev::Int
    accepted::Int
    rejected::Int
    tape_complete::Bool
end

function DiscreteSolve(field::VectorField, u0::AbstractArray{T, M}, ts; solver = "Tsit5",
        gradient = "Backprop", every = 1, control = Control()) where {T, M}
    u0 isa Array || throw(UserError(
        "u0 is $(summary(u0)), but differentiating the steps of a solve requires an Array on the CPU: on another device, " *
        "use gradient=\"InterpolatingAdjoint\"."))
    T in (Float32, Float64) && M in (1, 2) && size(u0, 1) == dimension(field) ||
        throw(UserError("u0 is $(summary(u0)): give a vector of $(dimension(field)) Float32 or Float64 numbers, or a matrix whose columns are such vectors."))
    (gradient === nothing || gradient in DISCRETE_GRADIENTS) ||
        throw(UserError("gradient is $(repr(gradient)), which does not differentiate the steps of a solve: write \"Backprop\" or \"Checkpointed\"."))
    every >= 1 || throw(UserError("every is $every: give a number of steps >= 1."))
    check_times(ts)
    tableau = lookup("solver", find_solver(solver).name, TABLEAUS)
    times = collect(Float64, ts)
    grid = something(fixed_grid(find_solver(solver), times, control), Float64[])
    samples = M == 1 ? 1 : size(u0, 2)
    lead = padded_length(dimension(field), samples, T)
    every = gradient === nothing ? 0 : gradient == "Backprop" ? 1 : Int(every)
    part = control.norm == "samples" ? dimension(field) : length(u0)
    return DiscreteSolve(
        taped_field(field, T, samples), Scheme(tableau, length(u0), part, lead, T), times, collect(grid), control,
        spread_out("rtol", control.rtol, u0), spread_out("atol", control.atol, u0), every, gradient == "Backprop",
        size(u0), zeros(T, size(u0)..., length(times)), (aligned(T, lead), aligned(T, lead)),
        zeros(65), fill((0, 0, 0), 64), zeros(T, 64 * length(u0)), fill((0, 0, 0), 64), 0, 0, 0, false)
end

function spread_out(name, tolerance, u0::AbstractArray{T}) where {T}
    tolerance isa Number && return fill(T(tolerance), length(u0))
    size(tolerance) == size(u0) ||
        throw(UserError("$name has shape $(size(tolerance)), but the state has shape $(size(u0)): give one number, or an array of the state's shape."))
    return vec(T.(tolerance))
end

counts(s::DiscreteSolve) = (nfev = s.nfev, accepted = s.accepted, rejected = s.rejected)

function solve!(s::DiscreteSolve, p, u0)
    size(u0) == s.shape ||
        throw(UserError("u0 has shape $(size(u0)), but this solve is for shape $(s.shape): use that shape, or create another solve."))
    load!(s.field, getdata(p))
    copyto!(s.states[1], u0)
    copyto!(s.ys, u0)
    GC.@preserve s march!(s)
    check_states(s)
    return s.ys
end

function check_states(s::DiscreteSolve)
    for j in eachindex(s.ts), i in 1:s.scheme.n

        isfinite(s.ys[(j - 1) * s.scheme.n + i]) && continue
        throw(SolveFailure(
            "the state is non-finite at t = $(format_number(s.ts[j], 6)): take smaller steps, or use an adaptive solver such as Tsit5.",
            s.ts[j], NaN))
    end
end

grow!(v::Vector, n) = (length(v) < n && resize!(v, max(n, 2length(v))); nothing)

"Integrate from the first time to the last; write the states to `s.ys`, and store the data that the derivative needs in other fields of `s`."
function march!(s::DiscreteSolve{T}) where {T}
    field, scheme, ts, control = s.field, s.scheme, s.ts, s.control
    tableau, n, total = scheme.tableau, scheme.n, all_stages(scheme)
    adapts, k = isempty(s.grid), tableau.error_order + 1
    y, stop = pointer(s.states[1]), pointer(s.states[2])
    t, t_last, j = ts[1], ts[end], 2
    direction = copysign(1.0, t_last - t)
    s.nfev = s.accepted = s.rejected = 0
    s.tape_complete = s.wants_tape
    s.step_times[1] = t
    reserve!(field, total + 2)
    has_slope, first_row, row, step_size = false, 0, 0, 0.0
    previous, growth, finite = 0.0, GROW, true   # `previous` is the logarithm of the previous step's error
    if adapts
        evaluate!(field, stage(scheme, 1), y, t, 0)
        s.nfev, has_slope, row = 1, true, 1
        all(i -> isfinite(unsafe_load(stage(scheme, 1), i)), 1:n) || throw(bad_start(t))
        step_size = max(something(control.first_step, 0.0), control.min_step)
        control.first_step === nothing && (step_size = max(first_size(s, y, t, t_last - t), control.min_step))
    end
    while t != t_last
        if adapts
            s.accepted + s.rejected >= control.max_steps && throw(too_many_steps(control, t, step_size))
            step_size = max(min(step_size, control.max_step), smallest_step(control, t))
            remaining = abs(t_last - t)
            t_next = step_size >= remaining ? t_last : t + direction * step_size
        else
            t_next = s.grid[s.accepted + 2]
        end
        h = t_next - t
        s.tape_complete = s.tape_complete && 2 * sizeof(T) * (row + total + 1) * record_length(field) <= TAPE_BYTES
        s.tape_complete ? reserve!(field, row + total + 1) : ((first_row, row) = (0, 1))
        if !has_slope
            s.tape_complete && ((first_row, row) = (row, row + 1))
            evaluate!(field, stage(scheme, 1), y, t, first_row)
            s.nfev, has_slope = s.nfev + 1, true
        end
        advance!(field, scheme, t, t_next, y, stop, row)
        s.nfev += tableau.stages - 1
        error_norm = adapts ? error_size(scheme, y, stop, s.rtol, s.atol) : 0.0
        finite = isfinite(error_norm)
        if !finite || error_norm > 1
            s.rejected += 1
            tried = min(step_size, abs(h))
            step_size = abs(h) * max(SHRINK, finite ? SAFETY * error_norm^(-1 / k) : SHRINK)
            tried <= smallest_step(control, t) && throw(too_small_step(control, t, step_size, finite))
            growth = 1.0   # right after a rejection, the step size must not grow
            continue
        end
        last_row, has_slope = row + tableau.stages - 1, 0 < tableau.end_stage <= tableau.stages
        extended = false
        while j <= length(ts) && direction * ts[j] <= direction * t_next
            to = pointer(s.ys, (j - 1) * n + 1)
            if ts[j] == t_next
                unsafe_copyto!(to, stop, n)
            else
                if !extended
                    extend!(field, scheme, t, t_next, y, stop, row)
                    s.nfev += total - tableau.stages
                    last_row, has_slope, extended = row + total - 1, tableau.end_stage > 0, true
                end
                set_interpolant_weights!(scheme, (ts[j] - t) / h, h)
                combine!(scheme, pointer(scheme.point), y, pointer(scheme.interpolant_weights), scheme.k, total)
                unsafe_copyto!(to, pointer(scheme.point), n)
            end
            j += 1
        end
        s.every > 0 && record_step!(s, y, t_next, (first_row, row, last_row))
        s.accepted += 1
        t = t_next
        y, stop = stop, y
        first_row, row = row + tableau.end_stage - 2, last_row
        has_slope && copy_vectors!(stage(scheme, 1), stage(scheme, tableau.end_stage), scheme.lead)
        if adapts
            # A proportional-integral controller (Gustafsson 1991).
            size_of_error = log(max(error_norm, 1e-10))
            factor = SAFETY * exp((0.4 * previous - 0.7 * size_of_error) / k)
            step_size = max(abs(h) * min(growth, max(SHRINK, factor)), control.min_step)
            previous, growth = max(size_of_error, log(1e-4)), GROW
        end
    end
    return nothing
end

"Store the data needed to differentiate an accepted step."
function record_step!(s::DiscreteSolve, y, t_next, place)
    m, n = s.accepted, s.scheme.n
    grow!(s.step_times, m + 2)
    grow!(s.step_records, m + 1)
    s.step_times[m + 2], s.step_records[m + 1] = t_next, place
    if m % s.every == 0
        offset = m ÷ s.every * n
        grow!(s.checkpoints, offset + n)
        unsafe_copyto!(pointer(s.checkpoints, offset + 1), y, n)
    end
    return nothing
end

"Return the size of the first step (Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, section II.4)."
function first_size(s::DiscreteSolve{T}, y, t, span) where {T}
    scheme, slope, second, point = s.scheme, stage(s.scheme, 1), stage(s.scheme, 2), pointer(s.scheme.point)
    d0, d1 = scaled_size(scheme, y, y, s.rtol, s.atol), scaled_size(scheme, slope, y, s.rtol, s.atol)
    blind = min(1e-6, 1e-4 * abs(span))  # used if the state and its derivative do not determine a time scale
    trial = max(d0 < 1e-5 || d1 < 1e-5 ? blind : 0.01 * d0 / d1, SPACINGS * eps(t))
    trial = min(trial, abs(span))  # the field may not be defined beyond the last time
    move = copysign(trial, span)
    scheme.interpolant_weights[1] = T(move)
    combine!(scheme, point, y, pointer(scheme.interpolant_weights), scheme.k, 1)
    evaluate!(s.field, second, point, t + move, 1)
    s.nfev += 1
    for i in 1:scheme.n
        unsafe_store!(second, unsafe_load(second, i) - unsafe_load(slope, i), i)
    end
    largest = max(d1, scaled_size(scheme, second, y, s.rtol, s.atol) / trial)
    other = largest <= 1e-15 ? max(1e-6, trial * 1e-3) : (0.01 / largest)^(1 / (scheme.tableau.order + 1))
    # With the usual factor of 100, BS3's error estimate for y' = -k y is zero.
    step_size = min((scheme.tableau.order == 3 ? 50 : 100) * trial, other)
    return isfinite(step_size) ? step_size : trial
end

smallest_step(control, t) = max(control.min_step, SPACINGS * eps(t))

function format_number(x, sigdigits)
    rounded = round(x; sigdigits)
    return isinteger(rounded) && abs(rounded) < 1e6 ? string(Int(rounded)) : string(rounded)
end

function bad_start(t)
    SolveFailure(
        "the field returned a non-finite value at the start, t = $(format_number(t, 6)): check the initial state and the parameters.",
        t,
        NaN)
end

function too_many_steps(control, t, step_size)
    SolveFailure(
        "the solve took max_steps = $(control.max_steps) steps and reached t = $(format_number(t, 6)) " *
        "with a step of $(format_number(step_size, 3)): increase max_steps, loosen rtol and atol, or, " *
        "if the problem is stiff, use a stiff solver.",
        t,
        step_size)
end

function too_small_step(control, t, step_size, finite)
    cause = finite ? "the error stays above the tolerance" : "the state becomes non-finite"
    return SolveFailure(
        "the step fell to $(format_number(step_size, 3)) at t = $(format_number(t, 6)), " *
        "below the minimum of $(format_number(smallest_step(control, t), 3)), because $cause: " *
        "look for a singularity there, loosen rtol and atol, or, if the problem is stiff, use a stiff solver.",
        t, step_size)
end

function pullback!(pbar, u0bar, s::DiscreteSolve, ysbar)
    s.every > 0 ||
        throw(UserError("gradient is nothing, so this solve has no derivative: create it with gradient=\"Backprop\" or \"Checkpointed\"."))
    size(ysbar) == size(s.ys) ||
        throw(UserError("ysbar has shape $(size(ysbar)): use the shape of the states, $(size(s.ys))."))
    GC.@preserve s adjoint_sweep!(s, ysbar, pbar !== nothing)
    pbar === nothing || gradient!(getdata(pbar), s.field)
    if u0bar !== nothing
        for i in 1:s.scheme.n
            u0bar[i] = s.scheme.argument_bars[i]
        end
    end
    return nothing
end

"Differentiate the accepted steps from last to first; the cotangent of the initial state is written to the first column of `argument_bars`."
function adjoint_sweep!(s::DiscreteSolve{T}, ysbar, gathers) where {T}
    field, scheme, ts = s.field, s.scheme, s.ts
    tableau, n, lead, total = scheme.tableau, scheme.n, scheme.lead, all_stages(scheme)
    stop_bar, start_bar, zero_vector = pointer(scheme.argument_bars), pointer(scheme.point), pointer(scheme.zeros)
    direction = copysign(1.0, ts[end] - ts[1])
    clear!(field, gathers)
    copy_vectors!(stop_bar, zero_vector, lead)
    fill!(scheme.bars, 0)
    j, stop = length(ts), s.accepted
    block = s.tape_complete ? max(1, stop) :
            s.every * max(1, REPLAY_NUMBERS ÷ (2 * record_length(field) * total * s.every))
    while stop > 0
        start = (stop - 1) ÷ block * block
        s.tape_complete || replay!(s, start, stop)
        places = s.tape_complete ? s.step_records : s.replayed_records
        for m in stop:-1:(start + 1)
            first_row, row, last_row = places[m - start]
            t, t_end = s.step_times[m], s.step_times[m + 1]
            h = t_end - t
            stage_count = last_row - row > tableau.stages - 1 ? total : tableau.stages
            copy_vectors!(start_bar, zero_vector, lead)
            while j > 1 && direction * ts[j] > direction * t
                o = (j - 1) * n
                if ts[j] == t_end
                    add_scaled!(stop_bar, one(T), ysbar, o, n)
                else
                    add_scaled!(start_bar, one(T), ysbar, o, n)
                    set_interpolant_weights!(scheme, (ts[j] - t) / h, h)
                    for i in 1:total
                        add_scaled!(bar(scheme, i), scheme.interpolant_weights[i], ysbar, o, n)
                    end
                end
                j -= 1
            end
            step_vjp!(field, scheme, h, stage_count, start_bar, row)
            # The first stage is either the stage at the end of the previous step or a separate evaluation.
            if m > start + 1 && first_row < places[m - start - 1][3]
                copy_vectors!(bar(scheme, tableau.end_stage), bar(scheme, 1), lead)
            else
                vjp!(field, start_bar, start_bar, bar(scheme, 1), first_row)
                copy_vectors!(bar(scheme, tableau.end_stage > 0 ? tableau.end_stage : 1), zero_vector, lead)
            end
            for i in 1:total
                i == tableau.end_stage || copy_vectors!(bar(scheme, i), zero_vector, lead)
            end
            copy_vectors!(stop_bar, start_bar, lead)
        end
        flush!(field)
        stop = start
    end
    add_scaled!(stop_bar, one(T), ysbar, 0, n)
    return nothing
end

"Add `weight * y[offset+1:offset+n]` to x."
function add_scaled!(x::Ptr{T}, weight, y, offset, n) where {T}
    @inbounds @simd ivdep for i in 1:n
        unsafe_store!(x, muladd(weight, T(y[offset + i]), unsafe_load(x, i)), i)
    end
    return nothing
end

"Repeat the steps `start + 1` to `stop`, and write their records to the tape from row 0 on."
function replay!(s::DiscreteSolve, start, stop)
    field, scheme = s.field, s.scheme
    tableau, n, total = scheme.tableau, scheme.n, all_stages(scheme)
    y, y_next = pointer(s.states[1]), pointer(s.states[2])
    unsafe_copyto!(y, pointer(s.checkpoints, start ÷ s.every * n + 1), n)
    reserve!(field, (stop - start) * total + 1)
    grow!(s.replayed_records, stop - start)
    first_row, row, has_slope = 0, 0, false
    for m in (start + 1):stop
        t, t_end = s.step_times[m], s.step_times[m + 1]
        extended = s.step_records[m][3] - s.step_records[m][2] > tableau.stages - 1
        if !has_slope
            first_row, row = row, row + 1
            evaluate!(field, stage(scheme, 1), y, t, first_row)
        end
        advance!(field, scheme, t, t_end, y, y_next, row)
        extended && extend!(field, scheme, t, t_end, y, y_next, row)
        last_row = row + (extended ? total : tableau.stages) - 1
        s.replayed_records[m - start] = (first_row, row, last_row)
        y, y_next = y_next, y
        has_slope = 0 < tableau.end_stage <= (extended ? total : tableau.stages)
        first_row, row = row + tableau.end_stage - 2, last_row
        has_slope && copy_vectors!(stage(scheme, 1), stage(scheme, tableau.end_stage), scheme.lead)
    end
    return nothing
end
