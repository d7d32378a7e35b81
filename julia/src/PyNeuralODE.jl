"""
The Julia side of pyneuralode: vector fields described in Python, evaluated on Julia arrays.

A state is a vector `(dim,)` or a matrix `(dim, batch)`: the last axis of Python's row-major arrays is the first here.
"""
module PyNeuralODE

export MLP, SEIR, evaluate

include("fields.jl")

end
