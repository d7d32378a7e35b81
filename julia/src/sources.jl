# Evaluation of the Julia source that users give for fields, solvers and gradient methods.

using OrdinaryDiffEqCore: OrdinaryDiffEqAlgorithm, isimplicit
using Random: Xoshiro

"Values of evaluated sources, by name and source, so that a source is evaluated and compiled once."
const EVALUATED = Dict{Tuple{String, String}, Any}()

"The modules in which sources were evaluated. Nothing else keeps them, and Julia would free the types of their functions with them."
const SPACES = Module[]

"The name under which errors report a line of a source."
source_file(name) = "$name (Julia source)"

"Packages whose exports a source can use without an import."
const OFFERED = Dict{String, Module}(
    "Lux" => Lux, "NNlib" => NNlib, "LinearAlgebra" => LinearAlgebra, "Random" => parentmodule(Xoshiro),
    "ADTypes" => parentmodule(AutoForwardDiff))

"Packages of solvers and adjoints that are loaded if a source uses a name that they export and the Julia environment contains them."
const PROVIDERS = ["OrdinaryDiffEqTsit5", "OrdinaryDiffEqVerner", "OrdinaryDiffEqBDF",
    "OrdinaryDiffEqRosenbrock", "OrdinaryDiffEqSDIRK",
    "OrdinaryDiffEqFIRK", "OrdinaryDiffEqLowOrderRK", "OrdinaryDiffEqHighOrderRK",
    "OrdinaryDiffEqStabilizedRK", "OrdinaryDiffEqStabilizedIRK",
    "OrdinaryDiffEqExtrapolation", "OrdinaryDiffEqExponentialRK", "OrdinaryDiffEqAdamsBashforthMoulton", "OrdinaryDiffEqSSPRK",
    "OrdinaryDiffEqLowStorageRK", "OrdinaryDiffEqSymplecticRK", "OrdinaryDiffEqDefault", "SciMLSensitivity", "OrdinaryDiffEq",
    "StochasticDiffEq", "DelayDiffEq", "Sundials", "LSODA", "ODEInterfaceDiffEq", "DifferentialEquations"]

"Packages of solvers that are named in an error, if the environment does not contain them, by the names that users know."
const HOMES = Dict("CVODE_BDF" => "Sundials", "CVODE_Adams" => "Sundials",
    "IDA" => "Sundials", "lsoda" => "LSODA", "radau" => "ODEInterfaceDiffEq",
    "RadauIIA3" => "OrdinaryDiffEqFIRK", "RadauIIA5" => "OrdinaryDiffEqFIRK", "RadauIIA9" => "OrdinaryDiffEqFIRK", "AdaptiveRadau" => "OrdinaryDiffEqFIRK",
    "VCABM" => "OrdinaryDiffEqAdamsBashforthMoulton", "VCAB3" => "OrdinaryDiffEqAdamsBashforthMoulton", "ROCK2" => "OrdinaryDiffEqStabilizedRK",
    "SSPRK43" => "OrdinaryDiffEqSSPRK", "ImplicitEulerExtrapolation" => "OrdinaryDiffEqExtrapolation")

"""
    evaluate_source(name, source)

Return the value of a source; throw a `UserError` that gives Julia's message and the line if it does not parse or throws. A source can be
the name `Module:name` of an object in a package.
"""
function evaluate_source(name::AbstractString, source::AbstractString)
    return get!(EVALUATED, (String(name), String(source))) do
        object = match(r"^\s*([A-Za-z_][\w.]*):([\w!]+)\s*$", source)
        object === nothing || return object_of_package(name, object[1], object[2])
        space = Module(Symbol(name))
        push!(SPACES, space)
        for package in keys(OFFERED)
            offer!(space, package)
        end
        while true
            try
                return Base.include_string(space, source, source_file(name))
            catch error
                unknown = undefined_name(error)
                unknown !== nothing && provide!(space, unknown) && continue
                throw(UserError(source_failure(name, error)))
            end
        end
    end
end

function offer!(space, package)
    Core.eval(space, :(const $(Symbol(package)) = $(OFFERED[package])))
    Core.eval(space, Expr(:using, Expr(:., :., Symbol(package))))
    return nothing
end

function undefined_name(error)
    error isa LoadError ? undefined_name(error.error) : error isa UndefVarError ? error.var : nothing
end

"Offer the first package that exports a name, after loading it if the environment contains it; return whether there is one."
function provide!(space, name::Symbol)
    for package in PROVIDERS
        isdefined(space, Symbol(package)) && continue
        id = something(Base.identify_package(package), Base.identify_package(PyNeuralODE, package), Some(nothing))
        id === nothing && continue
        haskey(OFFERED, package) || (OFFERED[package] = Base.require(id))
        name in names(OFFERED[package]) || continue
        offer!(space, package)
        return true
    end
    return false
end

function source_failure(name, error)
    cause = error isa LoadError ? error.error : error
    message = sprint(showerror, cause)
    if cause isa Meta.ParseError
        place, expected = match(r":(\d+):(\d+)", message), match(r"── (.*)", message)
        at = place === nothing ? "" : " at line $(place[1]), column $(place[2])"
        return "the Julia source of $name does not parse$at: $(one_line(expected === nothing ? message : expected[1]))."
    end
    home = cause isa UndefVarError ? get(HOMES, string(cause.var), nothing) : nothing
    home === nothing ||
        return "$(cause.var) is part of the package $home, which the Julia environment does not contain: run `pkg> add $home` there."
    at = error isa LoadError ? " at line $(error.line)" : ""
    return "the Julia source of $name throws an error$at: $(one_line(message))."
end

"Return an error message as one line: SciML's and the parser's messages fill pages, and the first lines say what happened."
function one_line(message)
    lines = filter(!isempty, strip.(first(split(message, '\n'), 6)))
    # Names of the modules in which sources are evaluated mean nothing to users.
    return String(rstrip(
        replace(first(join(lines, " "), 500), r" (in|not defined in) `Main\.[^`]*`" =>
            s" not defined"), '.'))
end

function object_of_package(name, package, object)
    space = try
        Base.require(Main, Symbol(first(split(package, '.'))))
    catch error
        absent = Base.find_package(String(first(split(package, '.')))) === nothing
        throw(UserError(absent ?
                        "the Julia source of $name names the package $package, which the Julia environment does not contain: run `pkg> add $package` there." :
                        "the package $package, named by the Julia source of $name, does not load: $(one_line(sprint(showerror, error)))."))
    end
    for inner in split(package, '.')[2:end]
        space = getproperty(space, Symbol(inner))
    end
    isdefined(space, Symbol(object)) ||
        throw(UserError("$package has no $object: use a name that this module defines."))
    return getproperty(space, Symbol(object))
end

"Return the line of a user's source at which the current exception was thrown, as text for a message, or `nothing`."
function failing_line(trace)
    isempty(trace) && return nothing
    for frame in stacktrace(trace)
        file = string(frame.file)
        endswith(file, source_file("")) && return "line $(frame.line) of $(basename(file))"
    end
    return nothing
end

"""
Evaluate all Julia source in a request: that of its field, solver and gradient method. The values, and the packages that they need, are
newer than the caller, which continues by `invokelatest`.
"""
function evaluate_sources(request)
    field, solver, gradient = (get(request, key, nothing) for key in ("field", "solver", "gradient"))
    field isa AbstractDict && haskey(field, "source") && evaluate_source(field["name"], field["source"])
    solver isa AbstractString && find_solver(solver)
    gradient isa AbstractDict && is_source(string(gradient["kind"])) && adjoint_from_source(string(gradient["kind"]))
    return nothing
end

"Return the `Solver` for the source of an algorithm, which keeps its own setting of automatic differentiation."
function solver_from_source(source)
    algorithm = evaluate_source("the solver", source)
    algorithm isa SciMLBase.AbstractODEAlgorithm || throw(UserError(
        "solver is $(repr(source)), which is $(describe_value(algorithm)), not a solver of ordinary differential equations: give one, such as \"QNDF()\"."))
    ours = algorithm isa OrdinaryDiffEqAlgorithm
    explicit, order = ours && !isimplicit(algorithm), ours ? SciMLBase.alg_order(algorithm) : 1
    return Solver(source, order, explicit ? :explicit : :implicit, SciMLBase.isadaptive(algorithm), _ -> algorithm)
end

"Names of the adjoints that work on a solution which is already there."
const ADJOINT_TYPES = (
    "InterpolatingAdjoint", "GaussAdjoint", "GaussKronrodAdjoint", "QuadratureAdjoint", "BacksolveAdjoint")

function adjoint_from_source(source)
    load_extension("SciMLSensitivity", "gradient is $(repr(source)), which needs")
    for (product, package) in ("EnzymeVJP" => "Enzyme", "MooncakeVJP" => "Mooncake", "TrackerVJP" => "Tracker")
        occursin(product, source) && Base.identify_package(package) === nothing &&
            throw(UserError(
                "gradient uses $product, which needs the package $package, and the Julia environment does not contain it: run `pkg> add $package` there."))
    end
    method = evaluate_source("the gradient method", source)
    string(nameof(typeof(method))) in ADJOINT_TYPES || throw(UserError(
        "gradient is $(repr(source)), which is $(describe_value(method)): give one of SciMLSensitivity's adjoints, $(join(ADJOINT_TYPES, ", "))."))
    return method
end

FIELDS["LuxModel"] = d -> LuxModel(evaluate_source(d["name"], d["source"]), d["dim"]; name = d["name"])
FIELDS["JuliaFunction"] = function (d)
    initial = NamedTuple(Symbol(name) => fill_shape(shape) for (name, shape) in d["shapes"])
    return JuliaFunction(evaluate_source(d["name"], d["source"]), d["dim"], initial; name = d["name"])
end

fill_shape(shape) = isempty(shape) ? 0.0 : zeros(Tuple(Int.(shape)))

"""
Evaluate a field's source and try it once. The reply holds its "dim" and, for a Lux model, the names, shapes and initial values of its
parameters, drawn with "seed".
"""
function call_examine(request, _)
    field = field_from(request["field"])
    try_field(field, request)
    field isa LuxModel || return Dict{String, Any}("dim" => dimension(field))
    arrays = named_arrays(Lux.initialparameters(Xoshiro(request["seed"]), field.model))
    return Dict{String, Any}("dim" => dimension(field),
        "parameters" => Dict{String, Any}(string(name) => Float64.(array) for (name, array) in arrays),
        "order" => string.(first.(arrays)))
end

try_field(::LuxModel, request) = nothing

"The bits of a NaN that no computation returns."
const UNSET = 0x7ff8dead00000000

# A function that leaves a component of du unset would return whatever the memory contains.
function try_field(field::JuliaFunction, request)
    p = Unpack(field)(flatten(field, request["parameters"]))
    u = ones(field.dim)
    field.inplace || return checked_slope(field, try_function(field, () -> field.f(u, p, 0.0)))
    du = fill(reinterpret(Float64, UNSET), field.dim)
    try_function(field, () -> field.f(du, u, p, 0.0))
    k = findfirst(==(UNSET), reinterpret(UInt64, du))
    k === nothing || throw(UserError("$(field.name) does not set du[$k]: set every component of du."))
    return nothing
end

function try_function(field, f)
    try
        return f()
    catch error
        error isa DomainError && return zeros(field.dim)      # not every function is defined for a state of ones
        where = failing_line(catch_backtrace())
        throw(UserError("$(field.name) fails for a state of ones$(where === nothing ? "" : ", at $where"): $(one_line(sprint(showerror, error)))."))
    end
end

"Return the right-hand side at one state u (dim,) or (dim, samples) and time t."
function call_slope(request, _)
    field, u = field_from(request["field"]), Array(request["u"])
    e = evaluator(field, u)
    return Dict{String, Any}("du" =>
        slope!(similar(u), e, u, flatten(field, request["parameters"], eltype(u)), eltype(u)(request["t"])))
end
