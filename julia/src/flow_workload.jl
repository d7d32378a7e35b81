# The precompilation workload for flows, like workload.jl: the package's fields for flows, with typical settings.

"Return parameters for the field in the form in which Python passes them; every value is 0.1."
function small_parameters(field, ::Type{T}) where {T}
    return Dict{String, Any}(string(name) =>
                                 (array = fill(T(0.1), shape); length(shape) == 2 ? row_major(array) : array)
    for (name, shape) in shapes(field_from(field)))
end

"Carry three samples along a flow, with all penalties if there is noise, and differentiate the result."
function flow_and_differentiate(field, ::Type{T}; noise = nothing) where {T}
    parameters, x = small_parameters(field, T), T[0.1 0.2 0.3; 0.4 0.5 0.6]
    request = request_for(field, parameters, x)
    merge!(request,
        Dict{String, Any}(
            "key" => "", "times" => Any[0.0, 1.0], "x" => x, "noise" => noise, "kinetic" => noise !== nothing,
            "jacobian" => noise !== nothing))
    reply = call("flow_terms", request)
    call("flow_pullback", Dict{String, Any}("handle" => reply["handle"], "bar" => one.(reply["end"])))
    free_handle!(reply["handle"])
    empty!(IDLE_FLOWS)
    solve_in_memory(field, parameters, x)
end

@compile_workload begin
    common = Dict{String, Any}("time_scale" => 1.0, "output_scale" => 1.0, "activation" => "tanh")
    hyper = merge(common, Dict{String, Any}("kind" => "HyperMLP", "dim" => 2, "width" => 3, "hidden" => 2))
    for T in (Float32, Float64), noise in (nothing, ones(T, 2, 3))

        flow_and_differentiate(hyper, T; noise)
    end
    for kind in ("ConcatMLP", "GatedMLP")
        flow_and_differentiate(merge(common, Dict{String, Any}("kind" => kind, "sizes" => Any[2, 3, 2])), Float32)
    end
    flow_and_differentiate(NETWORK, Float32)
    empty!(HANDLES)
end
