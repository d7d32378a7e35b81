# Aqua.jl's checks of the package: ambiguities, unbound type parameters, undefined exports, dependencies and their bounds, type piracy; and
# ExplicitImports.jl's: every name is imported explicitly, from the module that owns it, and is used.

using Aqua: Aqua
using ExplicitImports: check_all_explicit_imports_via_owners, check_all_qualified_accesses_via_owners,
                       check_no_implicit_imports,
                       check_no_self_qualified_accesses, check_no_stale_explicit_imports

# Persistent tasks, which would keep precompilation from ending, are not tested: for this check, Aqua resolves a new environment
# from the registry, and this package starts no tasks.
Aqua.test_all(PyNeuralODE; persistent_tasks = false)

VERSION >= v"1.11" && @testset "every exported name has a docstring" begin
    @test isempty(Base.Docs.undocumented_names(PyNeuralODE))
end

@testset "explicit imports" begin
    @test check_no_implicit_imports(PyNeuralODE) === nothing
    @test check_no_stale_explicit_imports(PyNeuralODE) === nothing
    @test check_no_self_qualified_accesses(PyNeuralODE) === nothing
    # Owned by packages that this one does not depend on directly.
    @test check_all_explicit_imports_via_owners(PyNeuralODE; ignore = (:ODE_DEFAULT_NORM,)) === nothing
    @test check_all_qualified_accesses_via_owners(PyNeuralODE; ignore = (:LineSearches,)) === nothing
end
