# Where arrays live. Everything here works on any array type; the extension for CUDA adds its own to `PLACES`.

"Array types by the name of their device; \"cuda\" is there once CUDA.jl is loaded and finds a GPU."
const PLACES = Dict{String,Any}("cpu" => Array)

"""
    place(name)

Return the array type of a device: "cpu", or "cuda" after `using CUDA` on a machine with a GPU.
"""
function place(name)
    haskey(PLACES, name) && return PLACES[name]
    name == "cuda" && throw(UserError(
        "device is \"cuda\", but CUDA.jl is not loaded or finds no GPU: load it with `using CUDA`, or take device=\"cpu\"."))
    return known("device", name, PLACES)
end

"""
    to_device(place, x)

Return arrays on a device: an array, a ComponentVector (its names are kept), or a dictionary of arrays, each moved as one piece.
Numbers keep their precision.
"""
to_device(place, x::AbstractArray) = place(x)
to_device(place, x::ComponentVector) = ComponentVector(place(getdata(x)), getaxes(x))
to_device(place, x::AbstractDict) = Dict(name => to_device(place, array) for (name, array) in x)

to_host(x::AbstractArray) = to_device(Array, x)

"""
    wrap(place, T, address, dims)

Return the memory at `address` (an integer, from another library in this process) as an array of `place`, without a copy. Whoever
owns the memory must outlive the array: see `borrow`.
"""
wrap(::Type{Array}, ::Type{T}, address::Integer, dims) where {T} = unsafe_wrap(Array, Ptr{T}(UInt(address)), Tuple(dims))

"Wait until other libraries' work on the device's memory is done, or until ours is; the processor never lags."
synchronize(place) = nothing

"""
    borrow(f, place, T, handles; owner=nothing)

Call `f` with the arrays at `handles`, pairs of address and dims, on a device; `owner` (whatever holds the memory) is kept alive
until `f` and the work it started are done. `f` must not let the arrays escape.
"""
function borrow(f, place, ::Type{T}, handles; owner=nothing) where {T}
    GC.@preserve owner begin
        synchronize(place)
        result = f((wrap(place, T, address, dims) for (address, dims) in handles)...)
        synchronize(place)
        return result
    end
end
