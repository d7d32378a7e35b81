# CUDA.jl's part of src/devices.jl. These lines have never run on a GPU: they are checked against CUDA.jl 5's source by
# reading, and run in test/devices.jl with a stand-in module of that name.
module PyNeuralODECUDAExt

using CUDA: CUDA, CuArray, CuPtr
using PyNeuralODE: PyNeuralODE

function __init__()
    CUDA.functional() && (PyNeuralODE.PLACES["cuda"] = CuArray)
    return nothing
end

PyNeuralODE.wrap(::Type{CuArray}, ::Type{T}, address::Integer, dims) where {T} =
    unsafe_wrap(CuArray, CuPtr{T}(UInt(address)), Tuple(Int.(dims)))

# The whole device, not our stream alone: torch has streams of its own.
PyNeuralODE.synchronize(::Type{CuArray}) = CUDA.device_synchronize()

PyNeuralODE.selected(f, ::Type{CuArray}, index) = CUDA.device!(f, index)

end
