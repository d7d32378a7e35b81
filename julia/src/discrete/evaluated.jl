# Discrete adjoints of any field with an evaluator: a record consists of the state and the time, at which the vector-Jacobian product
# evaluates the field again.

mutable struct Evaluated{T, E <: Evaluator{T}} <: TapedField{T}
    const evaluator::E
    const p::Vector{T}
    const state::Matrix{T}          # (dim, samples), like the next three fields
    const slope::Matrix{T}
    const slope_bar::Matrix{T}
    const state_bar::Matrix{T}
    const part::Vector{T}           # contribution of one product to the parameters' gradient
    const gradient::Vector{Float64}
    values::Vector{T}
    gathers::Bool
end

function taped_field(field::VectorField, ::Type{T}, samples) where {T}
    states, n = ntuple(_ -> zeros(T, dimension(field), samples), 4), parameter_count(field)
    e = evaluator(field, states[1])
    # For these fields, looking up the method at run time costs less than an evaluation, so one compiled solve serves all of them.
    kind = field isa Union{Timed, Augmented} ? Evaluator{T} : typeof(e)
    return Evaluated{T, kind}(e, zeros(T, n), states..., zeros(T, n), zeros(n), T[], false)
end

record_length(f::Evaluated) = length(f.state) + 1
load!(f::Evaluated, p::AbstractVector) = (copyto!(f.p, p); nothing)
clear!(f::Evaluated, gathers) = (f.gathers = gathers; fill!(f.gradient, 0); nothing)
flush!(::Evaluated) = nothing
gradient!(pbar, f::Evaluated) = (pbar .= f.gradient; nothing)

function reserve!(f::Evaluated, rows)
    rows * record_length(f) > length(f.values) && resize!(f.values, max(rows * record_length(f), 2length(f.values)))
    return nothing
end

function evaluate!(f::Evaluated{T}, k::Ptr{T}, y::Ptr{T}, t, row) where {T}
    n, record = length(f.state), pointer(f.values, row * record_length(f) + 1)
    unsafe_copyto!(record, y, n)
    unsafe_store!(record, T(t), n + 1)
    unsafe_copyto!(pointer(f.state), y, n)
    slope!(f.slope, f.evaluator, f.state, f.p, T(t))
    unsafe_copyto!(k, pointer(f.slope), n)
    return nothing
end

function vjp!(f::Evaluated{T}, out::Ptr{T}, init::Ptr{T}, kbar::Ptr{T}, row) where {T}
    n, record = length(f.state), pointer(f.values, row * record_length(f) + 1)
    unsafe_copyto!(pointer(f.state), record, n)
    unsafe_copyto!(pointer(f.slope_bar), kbar, n)
    t = unsafe_load(record, n + 1)
    if f.gathers
        pullback!(f.state_bar, f.part, f.evaluator, f.slope_bar, f.state, f.p, t)
        f.gradient .+= f.part
    else
        pullback!(f.state_bar, nothing, f.evaluator, f.slope_bar, f.state, f.p, t)
    end
    for i in 1:n
        unsafe_store!(out, unsafe_load(init, i) + f.state_bar[i], i)
    end
    return nothing
end
