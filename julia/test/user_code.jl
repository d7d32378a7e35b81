# Fields, solvers and gradient methods that users give as Julia source.

module UserCodeTests

using ForwardDiff: ForwardDiff
using LinearAlgebra: dot
using Lux: Chain, Dense, Lux, NoOpLayer, Scale, SkipConnection, gelu
using PyNeuralODE
using PyNeuralODE: UserError, Unpack, call, find_solver, flatten, slope
using Random: Xoshiro
using SciMLSensitivity: SciMLSensitivity
using Test

"Compare an evaluator's slope and products with `slope` and with ForwardDiff."
function compare_products(field, u, p; t = 0.3)
    e, by_name, λ = evaluator(field, u), Unpack(field), randn(Xoshiro(1), size(u)...)
    of(u, p) = dot(λ, slope(field, u, by_name(p), t))
    @test slope!(similar(u), e, u, p, t) ≈ slope(field, u, by_name(p), t)
    ubar, pbar = similar(u), similar(p)
    pullback!(ubar, pbar, e, λ, u, p, t)
    @test ubar ≈ ForwardDiff.gradient(u -> of(u, p), u)
    @test pbar ≈ ForwardDiff.gradient(p -> of(u, p), p)
    again = similar(u)
    pullback!(again, nothing, e, λ, u, p, t)
    @test again ≈ ubar
end

states(n) = (randn(Xoshiro(2), n), randn(Xoshiro(3), n, 4))
numbers(field) = 0.3 .* randn(Xoshiro(4), PyNeuralODE.parameter_count(field))

@testset "products of Julia functions" begin
    function lotka(du, u, p, t)
        a, b = p
        du[1] = a * u[1] - b[1] * u[1] * u[2] + t
        du[2] = -u[2] + b[2] * u[1] * u[2]
    end
    inplace = JuliaFunction(lotka, 2, (a = 1.5, b = [1.0, 2.0]))
    outside = JuliaFunction((u, p, t) -> [p.a * u[1] - u[1] * u[2], -u[2] + u[1] * u[2]], 2, (a = 1.5,))
    constant = JuliaFunction((du, u, p, t) -> (du .= -u .* t), 3)
    for field in (inplace, outside, constant), u in states(PyNeuralODE.dimension(field))

        compare_products(field, u, numbers(field))
    end
    @test shapes(inplace) == [:a => (), :b => (2,)]
end

@testset "products of Lux models" begin
    dense = LuxModel(Chain(x -> x .^ 3, Dense(2 => 5, tanh), Chain(Dense(5 => 4, gelu; use_bias = false), NoOpLayer()), Dense(4 =>
        2)))
    any = LuxModel(Chain(SkipConnection(Dense(3 => 3, tanh), +), Scale(3)), 3)
    for field in (dense, any), u in states(PyNeuralODE.dimension(field))

        compare_products(field, u, numbers(field))
    end
    @test dense.dim == 2 && first.(shapes(dense))[1:3] == [:layer_2_weight, :layer_2_bias, :layer_3_layer_1_weight]
    ps, st = Lux.setup(Xoshiro(0), dense)
    @test first(dense([1.0f0, 2.0f0], ps, st)) ≈
          first(dense.model([1.0f0, 2.0f0], ps, Lux.testmode(Lux.initialstates(Xoshiro(0), dense.model))))
end

const SPRING = "(du, u, p, t) -> (du[1] = u[2]; du[2] = -p.k * u[1])"

function request(source = SPRING; kind = "JuliaFunction", dim = 2, shapes = [["k", []]], settings...)
    Dict{String, Any}(
        "field" =>
            Dict{String, Any}("kind" => kind, "name" => "mine", "source" => source, "dim" => dim, "shapes" => shapes),
        "parameters" => Dict("k" => fill(4.0)), "seed" => 0, (string(name) => value for (name, value) in settings)...)
end

function solving(; path = "sensitivity", solver = "Tsit5", gradient = "GaussAdjoint")
    request(; path, solver, gradient = Dict("kind" => gradient), vjp = "hand",
        control = Dict("rtol" => 1e-9, "atol" => 1e-9), ts = [0.0, 0.5, 1.0], u0 = [1.0, 0.0], dense = false, differentiable = path !=
                                                                                                                               "no_gradient")
end

"Return u(1) of the spring, and the derivatives of u₁(0.5) + u₁(1) + u₂(0.5) + u₂(1) with respect to u0[1] and k."
function spring(; settings...)
    reply = call("solve", solving(; settings...))
    reply["handle"] === nothing && return reply["ys"][:, end], nothing
    bars = call("pullback", Dict("handle" => reply["handle"], "ysbar" => ones(2, 2 + 1) .* [0 1 1]))
    return reply["ys"][:, end], [bars["u0"][1], bars["parameters"]["k"]]
end

@testset "solves of source" begin
    state(k, t) = [cos(sqrt(k) * t), -sqrt(k) * sin(sqrt(k) * t)]
    total(x) = x[1] * (sum(state(x[2], 0.5)) + sum(state(x[2], 1.0)))
    truth = ForwardDiff.gradient(total, [1.0, 4.0])
    for settings in ((path = "discrete", gradient = "Backprop"), (;), (solver = "Rodas5P",),
        (gradient = "ForwardMode",), (gradient = "InterpolatingAdjoint",),
        (solver = "QNDF(autodiff = false)", path = "no_gradient"), (solver = "KenCarp47()",), (
        solver = "Vern9()", gradient = "QuadratureAdjoint"))
        y, bars = spring(; settings...)
        @test isapprox(y, state(4.0, 1.0); rtol = 1e-5)
        bars === nothing || @test isapprox(bars, truth; rtol = 1e-5)
    end
    @test find_solver("QNDF(autodiff = false)").kind == :implicit && find_solver("Vern9()").kind == :explicit
    @test find_solver("autotsit5(rosenbrock23)").name == "AutoTsit5(Rosenbrock23)"      # of the catalog, not source
end

@testset "adjoints by their source" begin
    net(gradient) = begin
        u0, ps = [1.0, 0.3],
        flatten(MLP([2, 4, 2]), Dict(string(k) => reshape(sin.(1:prod(s)), s) for (k, s) in shapes(MLP([2, 4, 2]))))
        s = PyNeuralODE.make_solve("sensitivity", MLP([2, 4, 2]), u0, [0.0, 1.0]; gradient,
            control = PyNeuralODE.Control(rtol = 1e-9, atol = 1e-9))
        PyNeuralODE.solve!(s, ps, u0)
        ubar, pbar = zeros(2), similar(ps)
        pullback!(pbar, ubar, s, [0.0 1.0; 0.0 1.0])
        [ubar; pbar]
    end
    truth = net("GaussAdjoint")
    for source in ("GaussAdjoint(autojacvec = ReverseDiffVJP(true))",
        "GaussKronrodAdjoint(autojacvec = ZygoteVJP())", "BacksolveAdjoint(autojacvec = ZygoteVJP())")
        @test isapprox(net(source), truth; rtol = 1e-6)
    end
end

message(f) =
    try
        f()
        "no error"
    catch error
        error isa UserError ? error.message : rethrow()
    end

@testset "what source is refused" begin
    examine(source; settings...) = message(() -> call("examine", request(source; settings...)))
    lux(source) = examine(source; kind = "LuxModel", dim = nothing)
    @test examine(SPRING) == "no error"
    @test lux("Chain(Dense(2 => 3), Dense(3 => 2)") ==
          "the Julia source of mine does not parse at line 1, column 35: Expected `)`."
    @test occursin("throws an error at line 2: UndefVarError: `Dnse` not defined", lux("a = 1\nChain(Dnse(2 => 2))"))
    @test occursin("returns an array of size (3,) with elements of type Float32 for a state of size (2,)", lux("Dense(2 => 3)"))
    @test occursin("mine fails for a state of size (2,): DimensionMismatch", lux("Chain(Dense(2 => 3), Dense(2 => 2))"))
    @test occursin("is a value of type Int64: give a Lux model", lux("3"))
    @test occursin("dim is missing", lux("Scale(3)"))
    @test occursin("Nowhere, which the Julia environment does not contain: run `pkg> add Nowhere`", lux("Nowhere:model"))
    @test occursin("LinearAlgebra has no model", lux("LinearAlgebra:model"))
    @test occursin("at line 2 of mine (Julia source): UndefVarError: `q`", examine("(du, u, p, t) -> begin\n du .= q .* u\nend"))
    @test occursin("mine does not set du[2]", examine("(du, u, p, t) -> (du[1] = u[2])"))
    @test occursin("returns an array of size (4,)", examine("(u, p, t) -> [u; u]"))
    @test occursin("with elements of type Complex", examine("(u, p, t) -> complex(u)"))
    @test occursin("UndefVarError: `Nope` not defined.", message(() -> find_solver("Nope()")))
    @test occursin("give a function (du, u, p, t) or (u, p, t)", examine("f(a, b) = a"))
    @test occursin("run `pkg> add Sundials`", message(() -> find_solver("CVODE_BDF()")))
    @test occursin("is a value of type Chain, not a solver", message(() -> find_solver("Chain(Dense(2 => 2))")))
    @test occursin("give one of SciMLSensitivity's adjoints", message(() -> PyNeuralODE.adjoint_from_source("ForwardDiffSensitivity()")))
    @test occursin("needs the package Enzyme", message(() -> PyNeuralODE.adjoint_from_source("GaussAdjoint(autojacvec = EnzymeVJP())")))
end

@testset "errors during a solve name the line" begin
    source = "(du, u, p, t) -> begin\n t > 0.2 && error(\"too late\")\n du .= u\nend"
    solve = merge(solving(; path = "discrete", gradient = "Backprop"), Dict("field" => request(source)["field"]))
    reply = try
        call("solve", solve)
    catch error
        PyNeuralODE.error_reply(error)["error"]
    end
    @test reply["message"] isa String
    @test reply["kind"] == "argument" &&
          occursin("line 2 of mine (Julia source) throws an error: too late", reply["message"])
end

@testset "functions that do not accept dual numbers" begin
    typed(du::Vector{Float64}, u, p, t) = du .= p.k .* u
    field, u, p = JuliaFunction(typed, 2, (k = 1.0,)), [1.0, 2.0], [0.5]
    e = evaluator(field, u)
    @test slope!(similar(u), e, u, p, 0.0) == [0.5, 1.0]
    @test occursin("does not accept the dual numbers", message(() -> pullback!(
        similar(u), similar(p), e, u, u, p, 0.0)))
end

@testset "source survives garbage collections" begin
    sources = ["(du, u, p, t) -> (du .= $k .* u)" for k in 1:10]
    solve(k) = call("solve", merge(solving(; path = "discrete", gradient = "Backprop"), Dict("field" =>
        request(sources[k])["field"])))["ys"][1, end]
    first_time = solve.(1:10)
    for _ in 1:3
        GC.gc()
        @test solve.(1:10) == first_time
    end
    @test isapprox(first_time, exp.(1:10); rtol = 1e-6)
end

@testset "slopes" begin
    reply = call("slope", request(; u = [1.0 2.0; 0.5 1.0], t = 0.0))
    @test reply["du"] == [0.5 1.0; -4.0 -8.0]
end

end
