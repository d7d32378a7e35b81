# Aqua.jl's checks of the package: ambiguities, unbound type parameters, undefined exports, dependencies and their bounds, type piracy.

using Aqua: Aqua

# Persistent tasks, which would keep precompilation from ending, are not tested: for this check, Aqua resolves a new environment
# from the registry, and this package starts no tasks.
Aqua.test_all(PyNeuralODE; persistent_tasks=false)
