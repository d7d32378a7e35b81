"""
The Julia side of pyneuralode: vector fields described in Python, solved and differentiated by SciML and by hand.

A state is a vector `(dim,)` or a matrix `(dim, samples)`: the last axis of Python's row-major arrays is the first here.
"""
module PyNeuralODE

using ComponentArrays: ComponentVector, getaxes, getdata
using LinearAlgebra

export Linear, MLP, SEIR, dimension, evaluator, field_from, parameters, pullback!, shapes, slope, slope!

include("errors.jl")
include("activations.jl")
include("fields.jl")
include("evaluators.jl")

end
