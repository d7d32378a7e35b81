"""
    Control(; rtol=1e-6, atol=1e-6, norm="joint", step_size=nothing, first_step=nothing, min_step=0.0, max_step=Inf, max_steps=100_000)

Settings of the time stepping, with the same meaning as in pyneuralode/problem/control.py.

- `rtol`, `atol`: numbers, or arrays like the state; a step is accepted if the root mean square of
  error / (atol + rtol |u|) is at most 1.
- `norm`: "joint" computes this mean over the whole state; "samples" computes it for each column separately and uses the largest.
- `step_size`: size of fixed steps (time units); `nothing` selects adaptive steps.
- `first_step`, `min_step`, `max_step`: sizes of the first (`nothing`: estimated), smallest and largest adaptive steps.
- `max_steps`: maximum number of steps, accepted and rejected, in one solve.
"""
struct Control{R, A}
    rtol::R
    atol::A
    norm::String
    step_size::Union{Nothing, Float64}
    first_step::Union{Nothing, Float64}
    min_step::Float64
    max_step::Float64
    max_steps::Int
end

function Control(; rtol = 1e-6, atol = 1e-6, norm = "joint", step_size = nothing,
        first_step = nothing, min_step = 0.0, max_step = Inf,
        max_steps = 100_000)
    for (name, value) in (("rtol", rtol), ("atol", atol))
        all(x -> isfinite(x) && x >= 0, value) ||
            throw(UserError("$name is $value: give finite, nonnegative numbers, such as 1e-6."))
    end
    all(iszero, rtol) && all(iszero, atol) &&
        throw(UserError("rtol and atol are both 0: give at least one a positive value, such as 1e-6."))
    norm in ("joint", "samples") || throw(UserError("norm is $(repr(norm)): write \"joint\" or \"samples\"."))
    for (name, value) in (("step_size", step_size), ("first_step", first_step), ("max_step", max_step))
        value === nothing || (value > 0 && (name == "max_step" || isfinite(value))) ||
            throw(UserError("$name is $value: give a positive number; the direction follows from the times."))
    end
    min_step >= 0 || throw(UserError("min_step is $min_step: give a nonnegative number."))
    min_step <= max_step ||
        throw(UserError("min_step is $min_step, but max_step is $max_step: give a min_step <= max_step."))
    max_steps >= 1 || throw(UserError("max_steps is $max_steps: give an integer >= 1."))
    return Control(rtol, atol, String(norm), step_size === nothing ? nothing : Float64(step_size),
        first_step === nothing ? nothing : Float64(first_step), Float64(min_step), Float64(max_step), Int(max_steps))
end
