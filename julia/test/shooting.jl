# Multiple shooting and smoothing by DiffEqFlux, for a field of this package.
module ShootingTest

using ForwardDiff: ForwardDiff
using PyNeuralODE
using PyNeuralODE: UserError, call, collocate, load_extension, shoot, unflatten
using Test

const FIELD = Linear(2)
const TIMES = collect(range(0, 3; length = 31))
const DATA = [cos.(TIMES)'; -sin.(TIMES)']

"The loss of multiple shooting, written with the exact solution of a linear field."
function by_hand(p, group, weight)
    A = reshape(p, 2, 2)
    total, previous = zero(eltype(p)), nothing
    for first_row in 1:(group - 1):30
        rows = first_row:min(31, first_row + group - 1)
        states = [flow_of(A, TIMES[k] - TIMES[first_row]) * DATA[:, first_row] for k in rows]
        total += sum(sum(abs2, state - DATA[:, k]) for (state, k) in zip(states, rows))
        previous === nothing || (total += weight * sum(abs, previous - DATA[:, first_row]))
        previous = last(states)
    end
    return total
end

"exp(A t), by its series after halving."
function flow_of(A, t)
    B = A * t / 2^10
    E = one(B) + B + B^2 / 2 + B^3 / 6 + B^4 / 24
    for _ in 1:10
        E = E * E
    end
    return E
end

load_extension("DiffEqFlux", "this test needs")

@testset "multiple shooting with $solver" for solver in ("Tsit5", "Rodas5P")
    p = [-0.1, -0.9, 1.1, 0.05]
    total, groups, gradient = shoot(FIELD, p, DATA, TIMES, 8, 10.0; solver, control = Control(rtol = 1e-9, atol = 1e-9))
    @test total ≈ by_hand(p, 8, 10.0) rtol = 1e-7
    @test gradient ≈ ForwardDiff.gradient(p -> by_hand(p, 8, 10.0), p) rtol = 1e-6
    @test size.(groups) == [(2, 8), (2, 8), (2, 8), (2, 8), (2, 3)]
end

@testset "multiple shooting of several samples, in single precision" begin
    data = Float32.(stack([DATA, 2DATA]; dims = 2))
    p = Float32[-0.1, -0.9, 1.1, 0.05]
    control = Control(rtol = 1e-5, atol = 1e-5)
    total, groups, gradient = shoot(FIELD, p, data, TIMES, 8, 0.0; control)
    alone = sum(first(shoot(FIELD, p, data[:, k, :], TIMES, 8, 0.0; control)) for k in 1:2)
    @test total isa Float32
    @test total ≈ alone rtol = 1e-3
    @test size(first(groups)) == (2, 2, 8) && eltype(gradient) == Float32
end

@testset "smoothing" begin
    slopes, states = collocate(DATA, TIMES, "TriangularKernel", 0.2)
    @test maximum(abs, states .- DATA) < 0.05
    @test maximum(abs, (slopes .- [-sin.(TIMES)'; -cos.(TIMES)'])[:, 4:28]) < 0.1
    @test_throws "kernel is \"Gauss\"" collocate(DATA, TIMES, "Gauss", nothing)
    @test_throws r"too few times lie within it: give a larger fraction" collocate(DATA, TIMES, "UniformKernel", 1e-3)
end

end
