# Measures the time of a loss with its gradient for two fitted neural ODEs, on one core:
#
#     julia --project=julia julia/bench/gradients.jl
#
# spiral.f32 and covid.f32 contain the parameters of two networks, in order, as little-endian Float32; both were fitted with pyneuralode.
# The spiral network (2-50-2, tanh, applied to the cubes of the state) was fitted to u' = A u^3 by Adam and L-BFGS (mean square 7e-5),
# the covid network (4-100-50-4, swish) to the 56 data points for Sweden with the recipe of the report `covid` (sum of squares 7.4e-5).

using PyNeuralODE
using PyNeuralODE: Control, DiscreteSolve, counts, solve!
using Printf

const DAYS = [0.0, 1, 2, 3, 4, 7, 10, 12, 13, 16, 18, 23, 24, 25, 30, 31, 39, 42,
    44, 47, 48, 51, 52, 53, 54, 60, 65, 66, 68, 72, 74, 79, 80, 81,
    82, 86, 88, 91, 93, 94, 95, 96, 100, 103, 108, 110, 121, 127, 130, 134, 139, 145, 149, 157, 164, 170]
const CASES = (
    (name = "spiral", field = MLP([2, 50, 2]; activation = "tanh", input_map = "cube"),
        start = [2.0, 0.0], times = collect(range(0, 1.5; length = 30))),
    (name = "covid", field = MLP([4, 100, 50, 4]; activation = "swish", input_scale = 0.2, output_scale = 0.01),
        start = zeros(4), times = DAYS)
)
const SOLVERS = ("Tsit5", "DP5", "Vern7", "DP8", "BS3")

trained(name) = Float64.(ltoh.(reinterpret(Float32, read(joinpath(@__DIR__, name * ".f32")))))

"Return the sum of the squared differences between the solution and `target`; write its gradient to pbar and u0bar."
function loss!(pbar, u0bar, ysbar, s, p, u0, target)
    ys = solve!(s, p, u0)
    loss = zero(eltype(ys))
    @inbounds @simd for i in eachindex(ys)
        gap = ys[i] - target[i]
        loss += gap * gap
        ysbar[i] = 2gap
    end
    pullback!(pbar, u0bar, s, ysbar)
    return loss
end

"Return the minimum and the median run time of f(), in microseconds."
function timed(f::F; runs = 2000) where {F}
    f()
    times = [(@elapsed f()) * 1e6 for _ in 1:runs]
    return minimum(times), sort!(times)[runs ÷ 2]
end

function measure(case, solver, ::Type{T}; tolerance = 1e-6) where {T}
    p64 = trained(case.name)
    tight = DiscreteSolve(
        case.field, case.start, case.times; solver = "Vern7", control = Control(rtol = 1e-12, atol = 1e-12))
    exact = copy(solve!(tight, p64, case.start))
    p, u0 = T.(p64), T.(case.start)
    s = DiscreteSolve(case.field, u0, case.times; solver, control = Control(rtol = tolerance, atol = tolerance))
    target, pbar, u0bar, ysbar = T.(exact .+ 0.01), similar(p), similar(u0), zeros(T, size(exact))
    error = maximum(abs, solve!(s, p, u0) .- exact)
    (alone, _), (least, median) = timed(() -> solve!(s, p, u0)),
    timed(() -> loss!(pbar, u0bar, ysbar, s, p, u0, target))
    work = counts(s)
    @printf("%-7s %-8s %-6s %6.1f us (median %6.1f; solve only %6.1f)  %4d accepted %2d rejected %5d evaluations  error %.1e\n",
        case.name, T, solver, least, median, alone, work.accepted, work.rejected, work.nfev, error)
end

for case in CASES, T in (Float32, Float64), solver in SOLVERS
    measure(case, solver, T)
end
