# The part of src/devices.jl that needs CUDA.jl. This code has never run on a GPU: it was checked against the source of CUDA.jl 5, and
# test/devices.jl runs it with a stand-in for the module CUDA.
module PyNeuralODECUDAExt

using CUDA: CUDA, CuArray, CuPtr
using PyNeuralODE: PyNeuralODE

function __init__()
    CUDA.functional() && (PyNeuralODE.PLACES["cuda"] = CuArray)
    return nothing
end

function PyNeuralODE.wrap(::Type{CuArray}, ::Type{T}, address::Integer, dims) where {T}
    unsafe_wrap(CuArray, CuPtr{T}(UInt(address)), Tuple(Int.(dims)))
end

# Synchronizes the whole device, not only Julia's stream, because torch uses its own streams.
PyNeuralODE.synchronize(::Type{CuArray}) = CUDA.device_synchronize()

PyNeuralODE.selected(f, ::Type{CuArray}, index) = CUDA.device!(f, index)

end
