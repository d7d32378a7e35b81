# The devices on which arrays are stored. The code here works for any array type; the extension for CUDA adds CuArray to `PLACES`.

"Array types by device name; \"cuda\" is included once CUDA.jl has been loaded and has found a GPU."
const PLACES = Dict{String, Any}("cpu" => Array)

"""
    place(name)

Return the array type of the device `name`, "cpu" or "cuda". For "cuda", CUDA.jl is loaded if it is installed.
"""
function place(name)
    name == "cuda" && !haskey(PLACES, name) && load_cuda()
    return lookup("device", name, PLACES)
end

const CUDA_PACKAGE = Base.PkgId(Base.UUID("052768ef-5323-5732-b1bb-66c8b64840ba"), "CUDA")

function load_cuda()
    Base.locate_package(CUDA_PACKAGE) === nothing && throw(UserError(
        "device is \"cuda\", but CUDA.jl is not in Julia's environment: run `import Pkg; Pkg.add(\"CUDA\")` in the environment that " *
        "`pyneuralode doctor` shows, move the arrays to the CPU, or write engine='torch'."))
    Base.require(CUDA_PACKAGE)
    haskey(PLACES, "cuda") || throw(UserError(
        "device is \"cuda\", but CUDA.jl finds no GPU: see `CUDA.versioninfo()`, move the arrays to the CPU, or write engine='torch'."))
end

"""
    to_device(place, x)

Return `x` on a device: an array, a ComponentVector (which keeps its names), or a dictionary of arrays. Each array is moved as a whole,
and numbers keep their precision.
"""
to_device(place, x::AbstractArray) = place(x)
to_device(place, x::ComponentVector) = ComponentVector(place(getdata(x)), getaxes(x))
to_device(place, x::AbstractDict) = Dict(name => to_device(place, array) for (name, array) in x)

to_host(x::AbstractArray) = to_device(Array, x)

"""
    wrap(place, T, address, dims)

Return the memory at `address` (an integer, from another library in this process) as an array of `place`, without a copy. The memory
belongs to that library: the array must not be used after the library may have freed it.
"""
function wrap(::Type{Array}, ::Type{T}, address::Integer, dims) where {T}
    unsafe_wrap(Array, Ptr{T}(UInt(address)), Tuple(dims))
end

"Wait until the device has finished all work of this package and of other libraries; on the CPU, do nothing."
synchronize(place) = nothing

"Call `f` with device number `index`, counted from 0, as the current device; on the CPU, `index` is ignored."
selected(f, place, index) = f()

"""
    on_device(f, place, index)

Call `f` on a device, after waiting for the work that other libraries have started there; then wait for the work that `f` has started.
Therefore `f` may use the memory of those libraries through `wrap`.
"""
function on_device(f, place, index)
    return selected(place, index) do
        synchronize(place)
        try
            return f()
        finally
            synchronize(place)
        end
    end
end
