# The package as a whole, by Aqua.jl: ambiguities, unbound type parameters, undefined exports, dependencies and their bounds, piracy.

using Aqua: Aqua

# Not tested are tasks that keep a precompilation from ending: Aqua resolves a new environment from the registry for that, and
# this package starts no tasks.
Aqua.test_all(PyNeuralODE; persistent_tasks=false)
