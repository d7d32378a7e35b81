# Solves on memory by address, as Python starts them: results, reuse, failures, and the same on a device's arrays.
module PreparedTest

using JLArrays: JLArray, JLArrays
using PyNeuralODE
using PyNeuralODE: LAST_FAILURE, HANDLES, MAX_IDLE, PLACES, UserError, call, counts, flatten, make_solve, free_entry,
                   pullback_entry,
                   reverse_axes!, solve!, solve_entry
using Random: Xoshiro
using Test

const GPUArrays = JLArrays.GPUArrays
JLArrays.allowscalar(false)

# The data as the Python process has them: row-major arrays, and the array of words for an entry point.
struct Caller{T}
    prepared::Int
    start::Array{T}
    states::Array{T}
    inputs::Vector{Vector{T}}
    gradients::Vector{Vector{T}}
    words::Vector{Int}
end

address(x) = Int(pointer(x))

function Caller(description, field, start::Array{T}, ts; settings...) where {T}
    request = Dict{String, Any}(
        "field" => description, "shape" => Any[size(start)...], "dtype" => lowercase(string(T)), "device" => "cpu",
        "index" => 0, "ts" => ts, "solver" => "Tsit5", "gradient" => Dict{String, Any}("kind" => "Backprop"),
        "path" => "discrete", "vjp" => "hand", "differentiable" => true,
        "control" => Dict{String, Any}("rtol" => 1e-5, "atol" => 1e-5))
    for (name, value) in settings
        request[string(name)] = value
    end
    # Matrices stored by rows, as Python's (out, in) arrays are in memory.
    inputs = [rand(Xoshiro(k), T, prod(shape; init = 1)) for (k, (_, shape)) in enumerate(shapes(field))]
    prepared = call("prepare", request)["handle"]
    return Caller(
        prepared, start, zeros(T, length(start), length(ts)), inputs, similar.(inputs), zeros(Int, 6 + length(inputs)))
end

function call_entry(entry, c::Caller, handle, given, result, arrays)
    GC.@preserve c given result arrays begin
        c.words[1:3] = [handle, address(given), address(result)]
        c.words[7:end] = address.(arrays)
        return entry(pointer(c.words))
    end
end

solve_in_memory(c) = call_entry(solve_entry, c, c.prepared, c.start, c.states, c.inputs)
function gradient_in_memory(c, handle, cotangent = one.(c.states))
    start = similar(c.start)
    @test call_entry(pullback_entry, c, handle, cotangent, start, c.gradients) == 0
    return start
end

by_rows(rows, shape::Dims{2}) = permutedims(reshape(rows, reverse(shape)))
by_rows(rows, shape) = reshape(rows, shape)
function by_name(field, rows)
    Dict{String, Any}(string(name) => by_rows(x, shape) for ((name, shape), x) in zip(shapes(field), rows))
end

function network(activation = "tanh")
    Dict{String, Any}("kind" => "MLP", "sizes" => Any[3, 5, 3], "activation" => activation, "input_map" => "identity",
        "input_scale" => 1.0, "output_scale" => 1.0)
end
const DESCRIPTIONS = [
    network() => MLP([3, 5, 3]),
    Dict{String, Any}("kind" => "Linear", "matrix" => Any[zeros(3), zeros(3), zeros(3)], "input_map" => "identity") =>
        Linear(3),
    Dict{String, Any}("kind" => "SEIR") => SEIR()
]
const TIMES = [0.0, 0.3, 1.0]

@testset "by address: $(nameof(typeof(field))), $gradient, $T, $(ndims(start))-d" for (description, field) in DESCRIPTIONS,
    (T, gradient, path) in ((Float32, "Backprop", "discrete"), (Float64, "Backprop", "discrete"),
        (Float64, "InterpolatingAdjoint", "sensitivity")),
    start in (fill(T(0.25), dimension(field)), rand(Xoshiro(9), T, dimension(field), 2))

    c = Caller(description, field, start, TIMES; path, gradient = Dict{String, Any}("kind" => gradient))
    handle = solve_in_memory(c)
    @test handle > 0
    s = make_solve(path, field, start, TIMES; gradient, control = Control(rtol = 1e-5, atol = 1e-5))
    p = flatten(field, by_name(field, c.inputs), T)
    @test reshape(c.states, size(start)..., 3) == solve!(s, p, start)
    @test Tuple(c.words[4:6]) == Tuple(counts(s))
    pbar, u0bar, ysbar = similar(p), similar(start), randn(Xoshiro(5), T, size(start)..., 3)
    pullback!(pbar, u0bar, s, ysbar)
    for _ in 1:2    # the pullback can be repeated
        @test gradient_in_memory(c, handle, ysbar) == u0bar
        @test flatten(field, by_name(field, c.gradients), T) == pbar
    end
    foreach(free_entry, (handle, c.prepared))
    @test !haskey(HANDLES, handle) && !haskey(HANDLES, c.prepared)
end

@testset "by address: a solve that waits for its pullback is not reused, one whose handle was freed is reused" begin
    description, field = DESCRIPTIONS[1]
    c = Caller(description, field, [0.1, 0.2, 0.3], TIMES)
    idle = HANDLES[c.prepared].idle
    @test length(idle) == 1
    waiting = Int[]
    for k in 1:(MAX_IDLE + 2)
        c.start[1] = k
        push!(waiting, solve_in_memory(c))
    end
    @test isempty(idle) && allunique(HANDLES[k].solve for k in waiting)
    starts = [gradient_in_memory(c, handle) for handle in waiting]
    @test starts == [begin
               c.start[1] = k
               handle = solve_in_memory(c)
               start = gradient_in_memory(c, handle)
               free_entry(handle)
               start
           end
           for k in eachindex(waiting)]
    @test allunique(starts)
    foreach(free_entry, waiting)
    @test length(idle) == MAX_IDLE
    pair() = free_entry((handle = solve_in_memory(c); gradient_in_memory(c, handle); handle))
    pair()
    @test (@allocated pair()) < 10_000
    @test length(idle) == MAX_IDLE
end

@testset "by address: without a derivative" for (solver, path) in (("Tsit5", "discrete"), ("Rodas5P", "no_gradient"), (
    "Tsit5", "no_gradient"))
    description, field = DESCRIPTIONS[1]
    c = Caller(description, field, [0.1, 0.2, 0.3], TIMES; differentiable = false, solver, path)
    @test solve_in_memory(c) == 0
    p = flatten(field, by_name(field, c.inputs))
    expected = solve(field, p, c.start, TIMES; solver, control = Control(rtol = 1e-9, atol = 1e-9)).ys
    @test c.states ≈ expected rtol = 1e-3
    @test c.words[4] > c.words[5] > 0
    free_entry(c.prepared)
end

@testset "by address: axes" begin
    rows = rand(Xoshiro(1), 2, 3, 4)
    @test reverse_axes!(zeros(4, 3, 2), rows) == permutedims(rows, (3, 2, 1))
    @test reverse_axes!(fill(0.0), fill(2.0)) == fill(2.0)
end

@testset "by address: failures" begin
    explosion = Dict{String, Any}("kind" => "Linear", "matrix" => Any[Any[1.0]], "input_map" => "square")
    c = Caller(explosion, Linear(1; input_map = "square"), [1.0], [0.0, 2.0])
    c.inputs[1] .= 1.0
    @test solve_in_memory(c) == -1
    failure = call("failure", Dict{String, Any}())["error"]
    @test failure["kind"] == "solver" && 0.9 < failure["t"] < 1.1
    c.start[1] = 0.1
    @test solve_in_memory(c) > 0    # the next solve works again
    @test call_entry(pullback_entry, c, 10^9, c.states, c.start, c.gradients) == -1
    @test LAST_FAILURE[]["error"]["kind"] == "julia"
    description, field = DESCRIPTIONS[1]
    @test_throws UserError Caller(description, field, Float16[1, 2, 3], TIMES)
    @test_throws UserError Caller(description, field, [1.0, 2.0, 3.0], TIMES; device = "cuda")
    @test_throws UserError Caller(description, field, [1.0, 2.0, 3.0], TIMES; device = "tpu")
end

@testset "a path that does not fit the request is an error, never another path" begin
    description, field = DESCRIPTIONS[1]
    adjoint = Dict{String, Any}("kind" => "InterpolatingAdjoint")
    request(; settings...) = Caller(description, field, [1.0, 2.0, 3.0], TIMES; settings...)
    @test_throws "path is \"compiled\"" request(path = "compiled")
    @test_throws "solver is \"Rodas5P\"" request(solver = "Rodas5P")
    @test_throws "does not differentiate the steps" request(gradient = adjoint)
    @test_throws "gradient is \"Backprop\"" request(path = "sensitivity")
    @test_throws "gradient is \"Backprop\"" request(path = "batched_sensitivity")
    @test_throws "gives no derivative" request(path = "no_gradient")
    @test_throws "gives no derivative" request(path = "sensitivity", gradient = adjoint, differentiable = false)
    @test_throws "vjp is \"enzyme\"" request(path = "sensitivity", gradient = adjoint, vjp = "enzyme")
end

# The device's memory is CPU memory here, but in arrays that forbid reading single numbers.
function PyNeuralODE.wrap(::Type{JLArray}, ::Type{T}, address::Integer, dims) where {T}
    JLArray{T, length(dims)}(
        GPUArrays.DataRef(Returns(nothing), unsafe_wrap(Vector{UInt8}, Ptr{UInt8}(UInt(address)), sizeof(T) *
                                                                                                  prod(dims; init = 1))), Tuple(Int.(dims)))
end

@testset "by address on a device: $(nameof(typeof(field)))" for (description, field) in DESCRIPTIONS
    PLACES["stand-in"] = JLArray
    start = rand(Xoshiro(9), dimension(field), 2)
    adjoint = (; path = "batched_sensitivity", gradient = Dict{String, Any}("kind" => "InterpolatingAdjoint"),
        control = Dict{String, Any}("rtol" => 1e-9, "atol" => fill(1e-9, size(start))))
    near, far = (Caller(description, field, copy(start), TIMES; adjoint..., device, path)
    for (device, path) in (("cpu", "sensitivity"), ("stand-in", "batched_sensitivity")))
    results = map((near, far)) do c
        handle = solve_in_memory(c)
        @test handle > 0
        u0bar = gradient_in_memory(c, handle)
        free_entry(handle)
        @test HANDLES[c.prepared].idle[1].solve.solution === nothing
        (c.states, u0bar, c.gradients...)
    end
    @test HANDLES[far.prepared].idle[1].p isa JLArray
    for (a, b) in zip(results...)
        @test a ≈ b rtol = 1e-6
    end
    plain = Caller(description, field, copy(start), TIMES; adjoint...,
        device = "stand-in", path = "no_gradient", differentiable = false)
    @test solve_in_memory(plain) == 0
    @test plain.states ≈ near.states rtol = 1e-6
    @test plain.words[4] > plain.words[5] > 0
    @test_throws "on the CPU only" Caller(description, field, copy(start), TIMES; device = "stand-in")
    @test_throws "explicit solver" Caller(
        description, field, copy(start), TIMES; adjoint..., device = "stand-in", solver = "Rodas5P")
    foreach(free_entry, (near.prepared, far.prepared, plain.prepared))
    delete!(PLACES, "stand-in")
end

end
