# The precompilation workload: solves, gradients and fits of the package's fields, as Python requests them, which are compiled when the
# package is installed. Without it, the first gradient of a session takes a minute. The extension for SciMLSensitivity has its own workload.

using PrecompileTools: @compile_workload

# Python's row-major matrices arrive as permuted arrays.
row_major(x) = PermutedDimsArray(permutedims(x), (2, 1))

const NETWORK = Dict{String, Any}(
    "kind" => "MLP", "sizes" => Any[2, 4, 2], "activation" => "tanh", "input_map" => "identity",
    "input_scale" => 1.0, "output_scale" => 1.0)

function weights_of(::Type{T}) where {T}
    Dict{String, Any}(
        "weight_1" => row_major(T[0.1 0.2; 0.3 -0.4; 0.5 0.1; -0.2 0.3]), "bias_1" => T[0.1, 0.0, -0.1, 0.2],
        "weight_2" => row_major(T[0.2 -0.1 0.4 0.3; -0.3 0.2 0.1 0.5]), "bias_2" => T[0.1, -0.1])
end

function request_for(field, parameters, u0; solver = "Tsit5", gradient = "Backprop",
        differentiable = true, dense = false, path = "discrete", tolerance = 1e-4)
    control = Dict{String, Any}(
        "rtol" => tolerance, "atol" => tolerance, "step_size" => nothing, "first_step" => nothing, "min_step" => 0.0,
        "max_step" => Inf, "max_steps" => 100_000)
    return Dict{String, Any}(
        "field" => field, "parameters" => parameters, "u0" => u0, "ts" => [0.0, 0.5, 1.0], "solver" => solver,
        "gradient" => Dict{String, Any}("kind" => gradient), "control" => control, "path" => path, "vjp" => "hand",
        "differentiable" => differentiable, "dense" => dense)
end

function solve_and_differentiate(arguments...; settings...)
    reply = call("solve", request_for(arguments...; settings...))
    reply["handle"] === nothing && return
    call("pullback", Dict{String, Any}("handle" => reply["handle"], "ysbar" => one.(reply["ys"])))
    free_handle!(reply["handle"])
end

# Solves and differentiates as Python does if Julia runs inside its process: memory is passed by address.
function solve_in_memory(field, parameters, u0::AbstractArray{T}) where {T}
    array = Dict{String, Any}("shape" => Any[size(u0)...], "dtype" => lowercase(string(T)), "device" => "cpu", "index" =>
        0)
    prepared = call("prepare", merge(request_for(field, parameters, u0), array))["handle"]
    inputs = [vec(collect(T, transpose(parameters[string(name)]))) for (name, shape) in shapes(field_from(field))]
    states, start, gradients = zeros(T, length(u0), 3), similar(u0), similar.(inputs)
    row(handle, given, result, arrays) = [handle; Int(pointer(given)); Int(pointer(result)); 0; 0; 0;
                                          Int.(pointer.(arrays))]
    GC.@preserve u0 inputs states start gradients begin
        words = row(prepared, u0, states, inputs)
        handle = GC.@preserve words solve_entry(pointer(words))
        words = row(handle, states, start, gradients)
        GC.@preserve words pullback_entry(pointer(words))
    end
    foreach(free_entry, (handle, prepared))
end

function fit_request(field, parameters, optimizer)
    request = request_for(field, parameters, [1.0, 0.5])
    settings = Dict{String, Any}(
        "kind" => optimizer, "lr" => 1e-2, "schedule" => "cosine", "final" => 0.1, "clip" => 1.0)
    merge!(settings,
        optimizer == "LBFGS" ? Dict{String, Any}("history" => 5, "tolerance" => 1e-12, "patience" => 5) :
        Dict{String, Any}("betas" => Any[0.9, 0.999], "eps" => 1e-8))
    stage = Dict{String, Any}("optimizer" => settings, "iterations" => 3, "rows" => 3, "goal" => nothing)
    return merge!(request,
        Dict{String, Any}(
            "extra" => Dict{String, Any}(), "t0" => 0.0, "data" => ones(1, 3), "weights" => ones(1, 3), "observed" =>
                Any[0],
            "reduction" => "sum", "bounds" => Dict{String, Any}(), "fixed" => Any[], "stages" => Any[stage], "every" =>
                1,
            "penalty" =>
                Dict{String, Any}("kind" => "TotalVariation", "weight" => 1e-3, "component" => 0, "smooth" => 1e-10)))
end

const EQUATIONS = Dict{String, Any}(
    "kind" => "Equations", "equations" => Any[Any["x", "a*x - x*y"], Any["y", "x*y - y + sin(t)"]], "parameters" =>
        Any[Any["a", 1.5]],
    "let" => Any[], "outputs" => Any["#3", "#6"],
    "steps" => Any["* a x", "* x y", "- #1 #2", "- #2 y", "sin t", "+ #4 #5"]),
Dict{String, Any}("a" => 1.5)

@compile_workload begin
    vector, batch = [1.0, 0.5], [1.0 0.5; 0.3 0.2]
    seir = Dict{String, Any}("kind" => "SEIR"), Dict{String, Any}("gamma" => 0.2, "R0" => 3.0, "sigma" => 0.4)
    net = NETWORK, weights_of(Float64)
    for u0 in (vector, batch),
        (gradient, path) in (("Backprop", "discrete"), ("Checkpointed", "discrete"), ("ForwardMode", "sensitivity"))

        solve_and_differentiate(net..., u0; gradient, path)
    end
    solve_and_differentiate(NETWORK, weights_of(Float32), Float32.(vector))
    solve_and_differentiate(NETWORK, weights_of(Float32), Float32.(batch))
    solve_and_differentiate(seir..., [0.9, 0.06, 0.04, 0.0])
    solve_and_differentiate(EQUATIONS..., vector)
    for T in (Float32, Float64), u0 in (vector, batch)

        solve_in_memory(NETWORK, weights_of(T), T.(u0))
    end
    for solver in ("Tsit5", "Vern7", "Vern9", "DP5", "Rodas5P", "Rosenbrock23",
        "KenCarp4", "Kvaerno5", "FBDF", "TRBDF2", "AutoTsit5(Rosenbrock23)")
        solve_and_differentiate(
            net..., vector; solver, gradient = "InterpolatingAdjoint", path = "no_gradient", differentiable = false)
    end
    for optimizer in ("Adam", "LBFGS")
        call("fit", fit_request(net..., optimizer), (args...) -> true)
    end
    call("solve", request_for(net..., vector; dense = true, path = "no_gradient"))
    empty!(HANDLES)
end
