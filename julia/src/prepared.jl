# Problems that are described once and then solved many times with different values, and the entry points: C functions through
# which Python starts those solves. They receive only addresses: no value is converted and no array is copied in the call.

"""
    PlainSolve(field, u0, ts; solver="Tsit5", control=Control())

A solve by SciML without a derivative: it supports `solve!` and `counts` like any `DifferentiableSolve`, but not `pullback!`.
"""
mutable struct PlainSolve{T, U <: AbstractArray{T}} <: DifferentiableSolve
    const field::VectorField
    const ts::Vector{T}
    const solver::String
    const control::Control
    counts::NTuple{3, Int}
end

function PlainSolve(field, u0::AbstractArray{T}, ts; solver = "Tsit5", control = Control()) where {T}
    PlainSolve{T, typeof(u0)}(field, collect(T, ts), String(solver), control, (0, 0, 0))
end

counts(s::PlainSolve) = s.counts

function solve!(s::PlainSolve{T, <:Array}, p, u0) where {T}
    result = solve(s.field, p, u0, s.ts; s.solver, s.control)
    s.counts = (result.nfev, result.accepted, result.rejected)
    return result.ys
end

function solve!(s::PlainSolve, p, u0)
    ys, s.counts = batch_states(s.field, p, u0, s.ts; s.solver, s.control)
    return ys
end

"Maximum number of solves of one problem that are kept for reuse; a training loop alternates between two."
const MAX_IDLE = 4

"A solve whose records take more bytes than this is not kept for reuse, so that its memory is freed."
const MAX_IDLE_BYTES = 2^24

"Number types by the names of NumPy's dtypes."
const NUMBER_TYPES = Dict("float32" => Float32, "float64" => Float64)

"""
    Prepared

A problem without the values of the initial state and the parameters. Its states have the shape (dim,) or (dim, samples) and number type `T`, and
are arrays of type `place` on device number `device`; `times` is the number of output times. `make` returns a new solve of the problem;
`idle` contains the solves that can be reused.
"""
struct Prepared
    field::VectorField
    place::Any
    device::Int
    T::DataType
    shape::Dims
    times::Int
    differentiable::Bool
    make::Any
    idle::Vector{Any}
end

"""
A solve of a prepared problem with its flat parameters `p` and their cotangents `pbar`; `arrays` and `array_bars` contain one
array for each parameter and share the memory of `p` and `pbar`.
"""
struct PreparedSolve{S <: DifferentiableSolve, P <: AbstractVector}
    prepared::Prepared
    solve::S
    p::P
    pbar::P
    arrays::Vector{Any}
    array_bars::Vector{Any}
end

function PreparedSolve(prepared::Prepared)
    p, pbar = (similar(prepared.place{prepared.T}, parameter_count(prepared.field)) for _ in 1:2)
    return PreparedSolve(
        prepared, prepared.make(), p, pbar, parameter_arrays(prepared.field, p), parameter_arrays(prepared.field, pbar))
end

"Return one array for each parameter, all sharing the memory of the flat parameter vector `flat`."
function parameter_arrays(field, flat)
    offset, found = 0, Any[]
    for (_, shape) in shapes(field)
        push!(found, parameter_array(flat, offset + 1, shape))
        offset += prod(shape; init = 1)
    end
    return found
end

# An Array rather than a view, since Arrays are copied in blocks. `flat` must outlive it.
parameter_array(flat::Vector, start, shape) = unsafe_wrap(Array, pointer(flat, start), shape)
parameter_array(flat, start, shape) = reshape(view(flat, start:(start + prod(shape; init = 1) - 1)), shape)

# Python's arrays are row-major: their last axis is the first axis here.
reverse_axes!(to, from) = ndims(to) < 2 ? copyto!(to, from) : permutedims!(to, from, ndims(to):-1:1)

"Return a solve of the problem: an idle solve if there is one, otherwise a new solve."
acquire!(prepared::Prepared) = isempty(prepared.idle) ? PreparedSolve(prepared) : pop!(prepared.idle)

"Keep a solve for reuse, but drop the data that its derivative needed."
function release!(prepared_solve::PreparedSolve)
    drop_solution!(prepared_solve.solve)
    idle = prepared_solve.prepared.idle
    length(idle) < MAX_IDLE && record_bytes(prepared_solve.solve) <= MAX_IDLE_BYTES && push!(idle, prepared_solve)
    return nothing
end

release!(::Any) = nothing

record_bytes(::DifferentiableSolve) = 0
record_bytes(s::DiscreteSolve) = sizeof(s.field.values)

drop_solution!(::DifferentiableSolve) = nothing
drop_solution!(s::Union{AdjointSolve, BatchSolve}) = (s.solution = nothing)

"""
    prepare(request)

Return the `Prepared` problem for a dictionary with "field", "path", "solver", "gradient" (kind and settings), "vjp", "control", "ts", the
state's "shape", "dtype" and "device" ("cpu" or "cuda"; "index" is the number of the device), and "differentiable" (whether a gradient is needed).
"""
function prepare(request)
    T = get(NUMBER_TYPES, request["dtype"], nothing)
    T === nothing &&
        throw(UserError("y0 has dtype $(request["dtype"]), which the Julia engine does not support: use float32 or float64."))
    at = place(request["device"])
    # The methods for a device or an adjoint may have been loaded during this call, so they are called with `invokelatest`.
    return Base.invokelatest(prepare, request, T, at)
end

function prepare(request, ::Type{T}, at) where {T}
    field, ts, shape = field_from(request["field"]), Vector{Float64}(request["ts"]), Tuple(Int.(request["shape"]))
    control = control_from(Dict(name => value isa AbstractArray ? to_device(at, Array{T}(value)) : value
    for (name, value) in request["control"]))
    at === Array || check_device(request, field)
    example() = fill!(similar(at{T}, shape), 0)
    prepared = Prepared(field, at, get(request, "index", 0), T, shape, length(ts), request["differentiable"],
        () -> solve_from(request, field, example(), ts, control), [])
    # A problem that is not supported raises its error here, not at the first solve.
    push!(prepared.idle, on_device(() -> PreparedSolve(prepared), at, prepared.device))
    return prepared
end

"Throw a `UserError` for a request that is supported only on the CPU."
function check_device(request, field)
    field isa Union{MLP, Linear, SEIR} || throw(UserError(
        "the field is $(nameof(typeof(field))), which Julia computes on the CPU only: use y0.cpu(), or engine='torch'."))
    request["path"] in ("batched_sensitivity", "no_gradient") || throw(UserError(
        "path is $(repr(request["path"])), which Julia supports on the CPU only: use \"batched_sensitivity\" or \"no_gradient\"."))
    require_explicit(request["solver"])
    return nothing
end

# An entry point receives the address of an array of 64-bit words: a handle, the addresses of the initial state (or cotangent) and of
# the result, space for three counts, then the address of each parameter (or of its gradient). All arrays are contiguous and have
# the problem's number type.

"""
    solve_at(words)

Solve the prepared problem with handle `words[1]`. The initial state is at address `words[2]` and the parameters are at the addresses from
`words[7]` on. The states are written to `words[3]`, and the numbers of evaluations, accepted steps and rejected steps to words 4 to 6.
Return the solve's handle for `pullback_at`, or 0 if no gradient is needed. The memory at these addresses is not used after the function
returns, not even by the pullback: the solve has its own copies of the initial state and the parameters.
"""
function solve_at(words)
    prepared = HANDLES[unsafe_load(words)]::Prepared
    return on_device(prepared.place, prepared.device) do
        s = acquire!(prepared)
        memory(address, dims) = wrap(prepared.place, prepared.T, unsafe_load(words, address), dims)
        for (k, array) in enumerate(s.arrays)
            reverse_axes!(array, memory(6 + k, reverse(size(array))))
        end
        ys = solve!(s.solve, s.p, memory(2, prepared.shape))
        copyto!(memory(3, (prepared.shape..., prepared.times)), ys)
        for (k, n) in enumerate(counts(s.solve))
            unsafe_store!(words, n, 3 + k)
        end
        prepared.differentiable && return store_handle!(s)
        release!(s)
        return 0
    end
end

"""
    pullback_at(words)

Differentiate the solve with handle `words[1]`. The cotangent of the states is at address `words[2]`; that of the initial state is
written to `words[3]`, those of the parameters to the addresses from `words[7]` on. The call can be repeated until the handle is freed.
"""
function pullback_at(words)
    s = HANDLES[unsafe_load(words)]::PreparedSolve
    prepared = s.prepared
    return on_device(prepared.place, prepared.device) do
        memory(address, dims) = wrap(prepared.place, prepared.T, unsafe_load(words, address), dims)
        pullback!(s.pbar, memory(3, prepared.shape), s.solve, memory(2, (prepared.shape..., prepared.times)))
        for (k, bar) in enumerate(s.array_bars)
            reverse_axes!(memory(6 + k, reverse(size(bar))), bar)
        end
        return 0
    end
end

"The reply that describes the failure for which an entry point last returned -1."
const LAST_FAILURE = Ref{Dict{String, Any}}()

"Return f(argument), or -1 if it throws; the failure is then stored in `LAST_FAILURE`."
function guarded(f, argument)
    try
        return f(argument)::Int
    catch err
        LAST_FAILURE[] = error_reply(err)
        return -1
    end
end

solve_entry(words::Ptr{Int}) = guarded(solve_at, words)
pullback_entry(words::Ptr{Int}) = guarded(pullback_at, words)
free_entry(handle::Int) = (free_handle!(handle); 0)

"""
    entry_points()

Return the addresses of the C functions that Python calls: `solve_at` and `pullback_at`, which take the address of the words, and
`free_handle!`, which takes a handle. They return -1 if they fail; the call "failure" then returns the reason.
"""
function entry_points()
    (Int(@cfunction(solve_entry, Int, (Ptr{Int},))), Int(@cfunction(pullback_entry, Int, (Ptr{Int},))),
        Int(@cfunction(free_entry, Int, (Int,))))
end

precompile(entry_points, ())
