# Exchange of values between Python and Julia: dictionaries, lists, numbers and strings are converted, arrays are shared.
module PyNeuralODEPythonCallExt

using PyNeuralODE: PyNeuralODE, call, error_reply
using PythonCall

"Return the Python function entry(name, request, progress), which accepts and returns Python values."
PyNeuralODE.python_entry() = pyfunc(entry; name = "pyneuralode")

function entry(name::Py, request::Py, progress::Py)
    reply = try
        # Arrays are read in place, so the request must stay alive during the call.
        GC.@preserve request call(pyconvert(String, name), from_python(request), listener(progress))
    catch error
        error isa PyException && rethrow()  # raised by a Python callback: pass it on to Python
        error_reply(error)
    end
    return to_python(reply)
end

"Return a function that reports progress to Python and returns whether to continue; after Ctrl-C in Python it returns false."
function listener(progress::Py)
    pyis(progress, pybuiltins.None) && return nothing
    return function (args...)
        try
            return pyconvert(Bool, progress(args...))
        catch error
            error isa PyException && pyissubclass(error.t, pybuiltins.KeyboardInterrupt) && return false
            rethrow()
        end
    end
end

function from_python(x::Py)
    pyis(x, pybuiltins.None) && return nothing
    pyisinstance(x, pybuiltins.str) && return pyconvert(String, x)
    pyisinstance(x, pybuiltins.bool) && return pyconvert(Bool, x)
    pyisinstance(x, pybuiltins.int) && return pyconvert(Int, x)
    pyisinstance(x, pybuiltins.float) && return pyconvert(Float64, x)
    pyisinstance(x, pybuiltins.dict) && return Dict{String, Any}(pyconvert(String, k) => from_python(x[k]) for k in x)
    (pyisinstance(x, pybuiltins.list) || pyisinstance(x, pybuiltins.tuple)) &&
        return Any[from_python(item) for item in x]
    return from_array(PyArray(x; copy = false))
end

from_array(x::AbstractArray{T, 0}) where {T} = x[]

# For contiguous memory, return an Array that shares the memory: SciML's code is compiled for this type.
function from_array(x::AbstractArray{T, N}) where {T, N}
    dims = size(x)
    strides(x) == Base.size_to_strides(1, dims...) && return unsafe_wrap(Array, pointer(x), dims)
    backwards = reverse(strides(x)) == Base.size_to_strides(1, reverse(dims)...)
    return backwards ? PermutedDimsArray(unsafe_wrap(Array, pointer(x), reverse(dims)), N:-1:1) : x
end

to_python(x::Union{Nothing, Bool, Int, Float64, String}) = Py(x)
to_python(x::Real) = to_python(Float64(x))
to_python(x::AbstractDict) = pydict(pytuple((Py(string(name)), to_python(value))) for (name, value) in x)
to_python(x::Tuple) = pylist(to_python(item) for item in x)
to_python(x::AbstractArray) = eltype(x) <: Real ? shared(x) : pylist(to_python(item) for item in x)

# Return a NumPy view of a Julia array; the view keeps the array alive.
shared(x) = pyimport("numpy").asarray(Py(x isa StridedArray ? x : collect(x)))

# Precompiled from their signatures: no Python is running while the package is precompiled, so these functions cannot be called then.
precompile(entry, (Py, Py, Py))
precompile(from_python, (Py,))
precompile(to_python, (Dict{String, Any},))
for T in (Float32, Float64)
    precompile(shared, (Array{T, 0},))
    for N in 1:3
        precompile(from_array, (PyArray{T, N, true, true, T},))
        precompile(from_array, (PyArray{T, N, false, true, T},))
        precompile(shared, (Array{T, N},))
    end
end

end
