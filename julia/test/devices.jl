# Fields, solves and gradients on JLArrays, which forbid reading single elements because this is slow on a GPU.
module DevicesTest

using ComponentArrays: ComponentVector, getdata
using JLArrays: JLArray, JLArrays
using PyNeuralODE
using PyNeuralODE: BatchSolve, Control, Flow, FlowSolve, UserError, counts, loss_gradient!, on_device, place, sample,
                   solve!, solve_batch, to_device, to_host, wrap
using Random: Xoshiro
using Test

JLArrays.allowscalar(false)

# JLArrays 0.3.1 cannot sum into a view, as CUDA.jl can (fixed in GPUArrays.jl, pull request 754).
if pkgversion(JLArrays) <= v"0.3.1"
    function JLArrays.typed_data(x::SubArray{<:Any, <:Any, <:JLArray})
        view(JLArrays.typed_data(parent(x)), parentindices(x)...)
    end
    JLArrays.typed_data(x::Base.ReshapedArray) = reshape(JLArrays.typed_data(parent(x)), size(x))
end

moved(x) = to_device(JLArray, x)

# Positive numbers, which are also valid as the compartments of the SEIR model.
function example(field, samples)
    p = parameters(field)
    p .= 0.2 .+ 0.3 .* rand(Xoshiro(1), length(p))
    return p, rand(Xoshiro(2), dimension(field), samples)
end

@testset "devices: $(nameof(typeof(field)))" for field in (MLP([3, 6, 3]; input_map = "cube"), Linear(3; input_map = "cube"), SEIR())
    p, u = example(field, 5)
    λ = randn(Xoshiro(3), size(u))
    far_p, far_u = moved(p), moved(u)
    @test getdata(far_p) isa JLArray

    near, far = evaluator(field, u), evaluator(field, far_u)
    du, far_du = similar(u), similar(far_u)
    @test to_host(slope!(far_du, far, far_u, far_p, 0.0)) ≈ slope!(du, near, u, p, 0.0)
    ubar, pbar, far_ubar, far_pbar = similar(u), similar(p), similar(far_u), moved(similar(p))
    pullback!(ubar, pbar, near, λ, u, p, 0.0)
    pullback!(far_ubar, far_pbar, far, moved(λ), far_u, far_p, 0.0)
    @test to_host(far_ubar) ≈ ubar
    @test to_host(far_pbar) ≈ pbar

    ts, control = [0.0, 0.4, 1.0], Control(rtol = 1e-8, atol = 1e-8)
    @test to_host(solve_batch(field, far_p, far_u, ts; control)) ≈ solve_batch(field, p, u, ts; control) rtol = 1e-7

    ysbar = randn(Xoshiro(4), size(u)..., 3)
    s, far_s = BatchSolve(field, u, ts; control), BatchSolve(field, far_u, ts; control)
    @test to_host(solve!(far_s, far_p, far_u)) ≈ solve!(s, p, u) rtol = 1e-7
    @test counts(far_s) == counts(s)
    pullback!(pbar, ubar, s, ysbar)
    pullback!(far_pbar, far_ubar, far_s, moved(ysbar))
    @test far_ubar isa JLArray
    @test to_host(far_ubar) ≈ ubar rtol = 1e-6
    @test to_host(far_pbar) ≈ pbar rtol = 1e-6
end

@testset "devices: one sample" for field in (MLP([3, 6, 3]), Linear(3), SEIR())
    p, u = example(field, 1)
    @test to_host(solve_batch(field, moved(p), moved(u[:, 1]), [0.0, 1.0])) ≈ solve_batch(field, p, u[:, 1], [0.0, 1.0]) rtol = 1e-5
end

@testset "devices: flows" for (trace, penalized) in (("exact", false), ("hutchinson", true))
    field = MLP([2, 6, 2])
    p, x = example(field, 5)
    flow = Flow(field; trace, gradient = "InterpolatingAdjoint", control = Control(rtol = 1e-7, atol = 1e-7))
    run(p, x) = begin
        grad = similar(getdata(p))
        s = FlowSolve(flow, x; path = "batched_sensitivity", kinetic = penalized, jacobian = penalized)
        loss_gradient!(grad, s, p, x; kinetic = 0.1penalized, jacobian = 0.1penalized, seed = 2).loss, grad
    end
    loss, grad = run(p, x)
    far_loss, far_grad = run(moved(p), moved(x))
    @test far_loss ≈ loss rtol = 1e-6
    @test far_grad isa JLArray
    @test to_host(far_grad) ≈ grad rtol = 1e-6
    @test to_host(sample(flow, moved(p), 4; seed = 1)) ≈ sample(flow, p, 4; seed = 1) rtol = 1e-6
end

@testset "devices: array types, and memory of other libraries" begin
    @test place("cpu") === Array
    @test_throws "Pkg.add(\"CUDA\")" place("cuda")
    @test_throws UserError place("tpu")
    pair = moved(Dict("A" => [1.0 2.0], "b" => [3.0f0]))
    @test pair["A"] isa JLArray{Float64} && pair["b"] isa JLArray{Float32}
    owner = [1.0, 2.0, 3.0, 4.0]
    GC.@preserve owner begin
        array = wrap(Array, Float64, UInt(pointer(owner)), (2, 2))
        array[1, 2] = 7.0
        @test owner[3] == 7.0
        @test wrap(Array, Float64, UInt(pointer(owner)), ())[] == 1.0
    end
    @test on_device(() -> 3, Array, 0) == 3
end

# A stand-in for CUDA.jl with the names that the extension uses, for CPU memory: the extension's code runs, but not on a GPU.
module CUDA
struct CuPtr{T}
    address::UInt
end
struct CuArray{T, N}
    data::Array{T, N}
end
CuArray(x::Array{T, N}) where {T, N} = CuArray{T, N}(x)
const waits = Ref(0)
functional() = true
device_synchronize() = (waits[] += 1; nothing)
const chosen = Int[]
device!(f, index) = (push!(chosen, index); f())
function Base.unsafe_wrap(::Type{CuArray}, pointer::CuPtr{T}, dims::NTuple{N, Int}) where {T, N}
    CuArray(unsafe_wrap(Array, Ptr{T}(pointer.address), dims))
end
end

@testset "devices: the CUDA extension on a stand-in" begin
    # The file contains `using CUDA`; here this loads the module above.
    source = read(joinpath(@__DIR__, "..", "ext", "PyNeuralODECUDAExt.jl"), String)
    extension = include_string(@__MODULE__, replace(source, "using CUDA:" => "using ..CUDA:"))
    extension.__init__()
    @test place("cuda") === CUDA.CuArray
    owner = [1.0, 2.0, 3.0]
    GC.@preserve owner @test on_device(place("cuda"), 1) do
        sum(wrap(place("cuda"), Float64, UInt(pointer(owner)), (3,)).data)
    end == 6.0
    @test CUDA.chosen == [1] && CUDA.waits[] == 2
    @test_throws ErrorException on_device(() -> error("mine"), place("cuda"), 0)
    @test CUDA.waits[] == 4     # `on_device` also waits for the work if the function throws
    @test to_device(place("cuda"), [1.0, 2.0]) isa CUDA.CuArray
    delete!(PyNeuralODE.PLACES, "cuda")
end

end
