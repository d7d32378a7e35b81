# The package as a whole, by Aqua.jl: ambiguities, unbound type parameters, undefined exports, dependencies and their bounds, piracy.

using Aqua: Aqua

# Persistent tasks, which would keep precompilation from ending, are not tested: Aqua resolves a new environment from the registry for
# that, and this package starts no tasks.
Aqua.test_all(PyNeuralODE; persistent_tasks=false)
