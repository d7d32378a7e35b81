# Resolve the bounds of julia/Project.toml with the real Pkg, without downloading anything: `resolve_bounds.jl PROJECT oldest|newest`.
# Prints the version of each package; exits with 77 if there is no registry, or only a small one.
using Pkg, TOML

# Offline, Pkg would consider only versions that are installed.
Pkg.offline(false)

registries = Pkg.Registry.reachable_registries()
sum(registry -> length(registry.pkgs), registries; init = 0) > 1000 || exit(77)

given, which_end = TOML.parsefile(ARGS[1]), ARGS[2]
uuids = merge(given["deps"], filter(pair -> first(pair) != "CUDA", given["weakdeps"]))
isstdlib(name) = haskey(Pkg.Types.stdlibs(), Base.UUID(uuids[name]))

"The lowest version that a bound allows, or the lowest series if the bound does not name a patch."
function lowest(bound)
    version = strip(first(split(bound, ',')))
    return (count('.', version) == 2 ? "=" : "~") * version
end

bounds = Dict(name => which_end == "oldest" && !isstdlib(name) ? lowest(bound) : bound
              for (name, bound) in given["compat"] if haskey(uuids, name))

project = joinpath(mktempdir(), "Project.toml")
open(io -> TOML.print(io, Dict("deps" => uuids, "compat" => bounds)), project, "w")
environment = Pkg.Types.EnvCache(project)
packages = Pkg.Operations.load_direct_deps(environment)
Pkg.Operations.resolve_versions!(environment, registries, packages, VERSION, false)
for package in packages
    println(package.name, " ", package.version)
end
