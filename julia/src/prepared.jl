# Solves of a problem that is described once and then solved again and again, on whatever numbers; and the doors through
# which Python starts them, with nothing but addresses: no value is converted and no array copied on the way.

"""
    PlainSolve(field, u0, ts; solver="Tsit5", control=Control())

A solve of SciML's that nobody differentiates, with `solve!` and `counts` of a `DifferentiableSolve`.
"""
mutable struct PlainSolve{T,U<:AbstractArray{T}} <: DifferentiableSolve
    const field::VectorField
    const ts::Vector{T}
    const solver::String
    const control::Control
    counts::NTuple{3,Int}
end

PlainSolve(field, u0::AbstractArray{T}, ts; solver="Tsit5", control=Control()) where {T} =
    PlainSolve{T,typeof(u0)}(field, collect(T, ts), String(solver), control, (0, 0, 0))

counts(s::PlainSolve) = s.counts

function solve!(s::PlainSolve{T,<:Array}, p, u0) where {T}
    result = solve_field(s.field, p, u0, s.ts; s.solver, s.control)
    s.counts = (result.nfev, result.accepted, result.rejected)
    return result.ys
end

function solve!(s::PlainSolve, p, u0)
    ys, s.counts = batch_states(s.field, p, u0, s.ts; s.solver, s.control)
    return ys
end

"Most solves of a problem that wait to be used again; a training loop takes two in turn."
const MOST_IDLE = 4

"A solve whose record of its steps has grown beyond this many bytes does not wait, it gives them back."
const MOST_HELD = 2^24

"Types of number by Python's names."
const NUMBERS = Dict("float32" => Float32, "float64" => Float64)

"""
    Prepared

A problem without its numbers: states like (dim,) or (dim, samples) of numbers `T` that lie in arrays of `place`, on the
device numbered `device`, at `times` times. `make` returns a new solve of it; `idle` are those that wait to be used again.
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
A solve of a prepared problem with its parameters `p` and their cotangents, both flat; `slots` and `bars` are the same
numbers by parameter, in their shapes.
"""
struct Work{S<:DifferentiableSolve,P<:AbstractVector}
    prepared::Prepared
    solve::S
    p::P
    pbar::P
    slots::Vector{Any}
    bars::Vector{Any}
end

function Work(prepared::Prepared)
    p, pbar = (similar(prepared.place{prepared.T}, parameter_count(prepared.field)) for _ in 1:2)
    return Work(prepared, prepared.make(), p, pbar, slots(prepared.field, p), slots(prepared.field, pbar))
end

function slots(field, flat)
    last, found = 0, Any[]
    for (_, shape) in shapes(field)
        push!(found, slot(flat, last + 1, shape))
        last += prod(shape; init=1)
    end
    return found
end

# A true Array, which copies in blocks; whoever holds it holds the vector too.
slot(flat::Vector, first, shape) = unsafe_wrap(Array, pointer(flat, first), shape)
slot(flat, first, shape) = reshape(view(flat, first:first+prod(shape; init=1)-1), shape)

# Arrays lie row by row in Python: their last axis is the first here.
reverse_axes!(to, from) = ndims(to) < 2 ? copyto!(to, from) : permutedims!(to, from, ndims(to):-1:1)

"Return a solve of the problem: one that waits, or a new one."
take!(prepared::Prepared) = isempty(prepared.idle) ? Work(prepared) : pop!(prepared.idle)

"Let a solve wait for the next one who wants it; what its derivative needed is forgotten."
function give_back!(work::Work)
    forget_solution!(work.solve)
    idle = work.prepared.idle
    length(idle) < MOST_IDLE && held(work.solve) <= MOST_HELD && push!(idle, work)
    return nothing
end

give_back!(::Any) = nothing

held(::DifferentiableSolve) = 0
held(s::DiscreteSolve) = sizeof(s.field.values)

forget_solution!(::DifferentiableSolve) = nothing
forget_solution!(s::Union{AdjointSolve,BatchSolve}) = (s.solution = nothing)

"""
    prepare(request)

Return the `Prepared` of a dictionary: "field", "solver", "gradient" (kind and settings), "compiled", "control", "ts", the state's "shape",
"dtype" and "device" ("cpu" or "cuda"; "index" counts them), and whether it is "differentiable".
"""
function prepare(request)
    T = get(NUMBERS, request["dtype"], nothing)
    T === nothing && throw(UserError("y0 has dtype $(request["dtype"]), which Julia does not solve in: give float32 or float64."))
    at = place(request["device"])
    # The place's methods, and those of an adjoint, may have been loaded a moment ago.
    return Base.invokelatest(prepare, request, T, at)
end

function prepare(request, ::Type{T}, at) where {T}
    field, ts, shape = field_from(request["field"]), Vector{Float64}(request["ts"]), Tuple(Int.(request["shape"]))
    control = control_from(Dict(name => value isa AbstractArray ? to_device(at, Array{T}(value)) : value for (name, value) in request["control"]))
    differentiates = request["differentiable"]
    make = maker(at, request, field, ts, control, differentiates)
    example() = fill!(similar(at{T}, shape), 0)
    prepared = Prepared(field, at, get(request, "index", 0), T, shape, length(ts), differentiates, () -> make(example()), [])
    # What cannot be made is said now.
    push!(prepared.idle, on_device(() -> Work(prepared), at, prepared.device))
    return prepared
end

"Return what makes a solve for a state like its argument."
function maker(::Type{Array}, request, field, ts, control, differentiates)
    differentiates && return u0 -> differentiable_from(request, field, u0, ts, control)
    # Without a derivative too: the same trajectory, whether it is asked for or not.
    solver = request["solver"]
    stepwise = request["gradient"]["kind"] in STEPWISE && request["compiled"] && has_discrete(field, solver)
    return stepwise ? (u0 -> DiscreteSolve(field, u0, ts; solver, gradient=nothing, control)) : (u0 -> PlainSolve(field, u0, ts; solver, control))
end

function maker(at, request, field, ts, control, differentiates)
    solver, gradient = request["solver"], request["gradient"]
    field isa Union{MLP,Linear,SEIR} || throw(UserError(
        "the field is $(nameof(typeof(field))), which Julia computes on the CPU only: write y0.cpu(), or engine='torch'."))
    explicit(solver)
    differentiates || return u0 -> PlainSolve(field, u0, ts; solver, control)
    haskey(BATCH_ADJOINTS, gradient["kind"]) || throw(UserError(
        "gradient is '$(gradient["kind"])', which Julia has on the CPU only: on a GPU write gradient='InterpolatingAdjoint'."))
    return u0 -> BatchSolve(field, u0, ts; solver, gradient=gradient["kind"], control, gradient_settings(gradient)...)
end

# Python's side of a solve is a row of words: a number of ours, the addresses of start (or cotangent) and result, room for
# three counts, then the address of each parameter (or of its gradient). All arrays are contiguous and of the problem's type.

"""
    solve_at(words)

Solve the prepared problem numbered `words[1]` from the start at `words[2]` and the parameters from `words[7]` on; the states go to
`words[3]`, evaluations, accepted and rejected steps into words 4 to 6. Returns the number under which the solve awaits its
`pullback_at`, or 0. Nothing of the memory at these addresses is used after the return, by the pullback neither: the solve has its own
copies of start and parameters.
"""
function solve_at(words)
    prepared = KEPT[unsafe_load(words)]::Prepared
    return on_device(prepared.place, prepared.device) do
        work = take!(prepared)
        memory(address, dims) = wrap(prepared.place, prepared.T, unsafe_load(words, address), dims)
        for (k, slot) in enumerate(work.slots)
            reverse_axes!(slot, memory(6 + k, reverse(size(slot))))
        end
        ys = solve!(work.solve, work.p, memory(2, prepared.shape))
        copyto!(memory(3, (prepared.shape..., prepared.times)), ys)
        for (k, count) in enumerate(counts(work.solve))
            unsafe_store!(words, count, 3 + k)
        end
        prepared.differentiable && return keep!(work)
        give_back!(work)
        return 0
    end
end

"""
    pullback_at(words)

Differentiate the solve numbered `words[1]`: the cotangent of the states is at `words[2]`; that of the start goes to `words[3]`,
those of the parameters to the addresses from `words[7]` on. It can be repeated until the number is forgotten.
"""
function pullback_at(words)
    work = KEPT[unsafe_load(words)]::Work
    prepared = work.prepared
    return on_device(prepared.place, prepared.device) do
        memory(address, dims) = wrap(prepared.place, prepared.T, unsafe_load(words, address), dims)
        pullback!(work.pbar, memory(3, prepared.shape), work.solve, memory(2, (prepared.shape..., prepared.times)))
        for (k, bar) in enumerate(work.bars)
            reverse_axes!(memory(6 + k, reverse(size(bar))), bar)
        end
        return 0
    end
end

"The failure behind the last -1 of a door, as a reply."
const FAILURE = Ref{Dict{String,Any}}()

function guarded(f, argument)
    try
        return f(argument)::Int
    catch error
        FAILURE[] = reply_of(error)
        return -1
    end
end

solve_door(words::Ptr{Int}) = guarded(solve_at, words)
pullback_door(words::Ptr{Int}) = guarded(pullback_at, words)
forget_door(number::Int) = (forget!(number); 0)

"""
    doors()

Return the addresses of C functions that Python calls: `solve_at` and `pullback_at` (of the words' address) and `forget!` (of a number). They return
-1 where they fail; the call "failure" then says how.
"""
doors() = (Int(@cfunction(solve_door, Int, (Ptr{Int},))), Int(@cfunction(pullback_door, Int, (Ptr{Int},))),
           Int(@cfunction(forget_door, Int, (Int,))))

precompile(doors, ())
