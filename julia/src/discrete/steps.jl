# One explicit Runge-Kutta step and its adjoint.

"""
    Tableau

An explicit Runge-Kutta method, like `Tableau` in pyneuralode/tableaus/tableau.py.

- `stages`: the number of stages of a step;
- `rows`: one column for each stage, including those that only the interpolant needs: column i contains the weights of the earlier stages
  in the argument of stage i;
- `ends`: the weights of the solution, and in additional columns those of the error estimates (none, one, or DOP853's two);
- `interpolant`: row i contains the coefficients of theta, theta^2, ... in the weight of stage i; theta is the fraction of the step;
- `end_stage`: index of the stage that is the time derivative at the end of the step (0: none).
"""
struct Tableau
    name::String
    order::Int
    error_order::Int
    stages::Int
    end_stage::Int
    rows::Matrix{Float64}
    ends::Matrix{Float64}
    interpolant::Matrix{Float64}
end

adaptive(tableau::Tableau) = size(tableau.ends, 2) > 1

"A tableau and the workspace for one step of a state of n numbers, padded to `lead`; each column of a workspace array is one stage."
struct Scheme{T}
    tableau::Tableau
    n::Int
    part::Int                       # number of values in one error norm: the whole state or one sample
    lead::Int
    nodes::Vector{Float64}          # times of the stages, as fractions of the step
    ahead::Matrix{Float64}          # the tableau's `rows` and `ends`, side by side
    back::NTuple{2, Matrix{Float64}} # see `weights_back`; for steps without and with the interpolant's stages
    weights::Vector{T}              # `ahead` times the step's size
    weights_back::Vector{T}         # `back` times the step's size
    interpolant_weights::Vector{T}             # weights of the stages in a state inside the step
    k::Vector{T}                    # time derivatives at the stages
    bars::Vector{T}                 # cotangents of `k`
    argument_bars::Vector{T}               # cotangents of the final state and of the stages' arguments, last stage first
    point::Vector{T}
    zeros::Vector{T}
    ones::Vector{T}
end

function Scheme(tableau::Tableau, n, part, lead, ::Type{T}) where {T}
    columns(n_columns) = aligned(T, lead * n_columns)
    total = size(tableau.rows, 2)
    ahead = hcat(tableau.rows, vcat(tableau.ends, zeros(total - tableau.stages, size(tableau.ends, 2))))
    back = weights_back(tableau, tableau.stages), weights_back(tableau, total)
    return Scheme{T}(tableau, n, part, lead, nodes_of(tableau), ahead, back, zeros(T, length(ahead)),
        zeros(T, length(back[1])), zeros(T, total), columns(total),
        columns(total), columns(total + 1), columns(1), columns(1), ones(T, total + 1))
end

"Return the times of the stages as fractions of the step: the sums of the stages' weights, rounded to exactly 1 at the end of the step."
function nodes_of(tableau)
    nodes = vec(sum(tableau.rows; dims = 1))
    return ifelse.(abs.(nodes .- 1) .< 1e-12, 1.0, nodes)
end

"""
    weights_back(tableau, stage_count)

Return a matrix whose column i contains the weights of stage i in the final state of a step of `stage_count` stages, then in the
arguments of the later stages, from the last one down to i + 1. The argument of a stage at the end of the step is the final state, so its
weights are part of the first entry.
"""
function weights_back(tableau, stage_count)
    total = size(tableau.rows, 2)
    table = zeros(total + 1, total)
    table[1, 1:tableau.stages] = tableau.ends[:, 1]
    for i in 1:stage_count, j in (i + 1):stage_count

        table[stage_count - j + 2, i] = j == tableau.end_stage ? 0.0 : tableau.rows[i, j]
    end
    return table
end

all_stages(scheme::Scheme) = size(scheme.tableau.rows, 2)
stage(scheme::Scheme, i) = pointer(scheme.k, (i - 1) * scheme.lead + 1)
bar(scheme::Scheme, i) = pointer(scheme.bars, (i - 1) * scheme.lead + 1)
stage_weights(scheme::Scheme, i) = pointer(scheme.weights, (i - 1) * all_stages(scheme) + 1)
end_weights(scheme::Scheme, i) = stage_weights(scheme, all_stages(scheme) + i)

function scale!(weights::Vector{T}, table, h) where {T}
    @inbounds @simd for i in eachindex(table)
        weights[i] = T(table[i] * h)
    end
    return nothing
end

"Write init + sum over i <= n of weights[i] columns[i] to `out`; the last column, which is the most recent, is added last."
function combine!(scheme::Scheme{T}, out, init, weights, columns, n) where {T}
    lead, a = scheme.lead, pointer(columns)
    newest, epilogue = at(a, (n - 1) * lead), AddScaled(unsafe_load(weights, n))
    lead == lanes(T) &&
        return @inline tile!(
            epilogue, out, 0, newest, 0, init, 0, a, lanes(T), weights, 1, 0, n - 1, Val(1), Val(1), Val(4))
    return product!(epilogue, out, 0, newest, 0, init, 0, a, lead, weights, 1, 0, n - 1, lead ÷ lanes(T), 1)
end

# Rounding must not move a stage beyond the end of the step, where the field may be undefined.
stage_time(scheme, i, t, t_end) = scheme.nodes[i] == 1 ? t_end : t + scheme.nodes[i] * (t_end - t)

"Evaluate the stages after the first, writing their records from `row` on, and compute the state at the end of the step."
function advance!(field, scheme, t, t_end, y, stop, row)
    tableau = scheme.tableau
    scale!(scheme.weights, scheme.ahead, t_end - t)
    for i in 2:tableau.stages
        point = i == tableau.end_stage ? stop : pointer(scheme.point)
        combine!(scheme, point, y, stage_weights(scheme, i), scheme.k, i - 1)
        evaluate!(field, stage(scheme, i), point, stage_time(scheme, i, t, t_end), row + i - 2)
    end
    tableau.end_stage == tableau.stages || combine!(scheme, stop, y, end_weights(scheme, 1), scheme.k, tableau.stages)
    return nothing
end

"Evaluate the additional stages that only the interpolant needs; `row` is the row of the second stage's record."
function extend!(field, scheme, t, t_end, y, stop, row)
    tableau = scheme.tableau
    for i in (tableau.stages + 1):all_stages(scheme)
        point = i == tableau.end_stage ? stop : pointer(scheme.point)
        i == tableau.end_stage || combine!(scheme, point, y, stage_weights(scheme, i), scheme.k, i - 1)
        evaluate!(field, stage(scheme, i), point, stage_time(scheme, i, t, t_end), row + i - 2)
    end
    return nothing
end

"Set the weights of the stages in the interpolated state at the fraction `theta` of the step."
function set_interpolant_weights!(scheme::Scheme{T}, theta, h) where {T}
    interpolant, weights = scheme.tableau.interpolant, scheme.interpolant_weights
    @inbounds @simd for i in axes(interpolant, 1)
        weight = 0.0
        for q in size(interpolant, 2):-1:1
            weight = (weight + interpolant[i, q]) * theta
        end
        weights[i] = T(weight * h)
    end
    return nothing
end

"Return the norm of the estimated error divided by the tolerance; a step is accepted if this norm is at most 1."
function error_size(scheme, y, stop, rtol, atol)
    fifth = estimate(scheme, 2, y, stop, rtol, atol)
    (size(scheme.tableau.ends, 2) == 2 || fifth == 0) && return fifth
    # As in Hairer's code dop853, the fifth-order estimate is corrected by the third-order estimate.
    third = estimate(scheme, 3, y, stop, rtol, atol)
    return fifth^2 / sqrt(fifth^2 + 0.01 * third^2)
end

function estimate(scheme, column, y, stop, rtol, atol)
    point = pointer(scheme.point)
    combine!(scheme, point, pointer(scheme.zeros), end_weights(scheme, column), scheme.k, scheme.tableau.stages)
    largest_sum = 0.0
    for start in 1:scheme.part:scheme.n
        total = 0.0
        @inbounds @simd for i in start:(start + scheme.part - 1)
            largest = max(abs(unsafe_load(y, i)), abs(unsafe_load(stop, i)))
            total += abs2(Float64(unsafe_load(point, i) / (largest * rtol[i] + atol[i])))
        end
        largest_sum = max(largest_sum, total)
    end
    return sqrt(largest_sum / scheme.part)
end

"Return the root mean square of x divided by the tolerance at y; if each sample has its own norm, return the largest."
function scaled_size(scheme, x, y, rtol, atol)
    largest_sum = 0.0
    for start in 1:scheme.part:scheme.n
        total = 0.0
        @inbounds for i in start:(start + scheme.part - 1)
            total += abs2(Float64(unsafe_load(x, i)) / (Float64(abs(unsafe_load(y, i))) * rtol[i] + atol[i]))
        end
        largest_sum = max(largest_sum, total)
    end
    return sqrt(largest_sum / scheme.part)
end

"""
    step_vjp!(field, scheme, h, stage_count, start, row)

Propagate the cotangent of the state at the end of a step back to its start. The step has `stage_count` stages; `row` is the row of the
second stage's record. On entry the first column of `argument_bars` is the cotangent of the final state, and `start` and `bars` contain
the contributions of outputs inside the step to the cotangents of the initial state and of the stages. On return only the first stage's
contribution is missing from `start`; the cotangent of that stage is the first column of `bars`.
"""
function step_vjp!(field, scheme, h, stage_count, start, row)
    tableau, lead, total = scheme.tableau, scheme.lead, all_stages(scheme)
    argument_bar(column) = pointer(scheme.argument_bars, (column - 1) * lead + 1)
    scale!(scheme.weights_back, scheme.back[stage_count == tableau.stages ? 1 : 2], h)
    for i in stage_count:-1:1
        weights = pointer(scheme.weights_back, (i - 1) * (total + 1) + 1)
        combine!(scheme, bar(scheme, i), bar(scheme, i), weights, scheme.argument_bars, stage_count - i + 1)
        i == 1 && break
        own = argument_bar(stage_count - i + 2)
        if i == tableau.end_stage
            vjp!(field, argument_bar(1), argument_bar(1), bar(scheme, i), row + i - 2)
            copy_vectors!(own, pointer(scheme.zeros), lead)
        else
            vjp!(field, own, pointer(scheme.zeros), bar(scheme, i), row + i - 2)
        end
    end
    combine!(scheme, start, start, pointer(scheme.ones), scheme.argument_bars, stage_count)
    return nothing
end
