"""
The Julia side of pyneuralode: vector fields described in Python, solved and differentiated by SciML and by this package's own code.

A state is a vector `(dim,)` or a matrix `(dim, samples)`: the last axis of Python's row-major arrays is the first axis here.
"""
module PyNeuralODE

import CommonSolve: solve, solve!
using ComponentArrays: ComponentVector, getaxes, getdata
using LinearAlgebra: I, LinearAlgebra, SingularException, dot, mul!, norm

export ConcatConv, ConcatMLP, Equations, GatedMLP, HyperMLP, Initialization, Linear, MLP, SEIR
export dimension, evaluator, field_from, parameters, pullback!, shapes, slope, slope!, solve, solve!

include("errors.jl")
include("activations.jl")
include("fields.jl")
include("layers.jl")
include("evaluators.jl")
include("control.jl")
include("solvers.jl")
include("networks.jl")
include("timed.jl")
include("convolutions.jl")
include("solving.jl")
include("equations.jl")
include("lux.jl")
include("discrete.jl")
include("adjoints.jl")
include("batches.jl")
include("devices.jl")
include("user_code.jl")
include("sources.jl")
include("paths.jl")
include("flows.jl")
include("fitting/variables.jl")
include("fitting/specs.jl")
include("seir.jl")
include("fitting/objective.jl")
include("fitting/optimizers.jl")
include("fitting/lbfgs.jl")
include("fitting/plan.jl")
include("bridge.jl")
include("ensembles.jl")
include("shooting.jl")
include("flow_calls.jl")
include("workload.jl")
include("flow_workload.jl")

end
