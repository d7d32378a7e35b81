# DiffEqFlux's methods for data: smoothing for collocation, and multiple shooting. They are in the extension for DiffEqFlux, which is loaded
# when one of them is first used.

"""
    collocate(data, ts, kernel, bandwidth)

Return the derivatives and the states of data (dim, T) at the times `ts`, smoothed by DiffEqFlux's `collocate_data` with the kernel of that name
and a bandwidth, or its own choice if it is `nothing`.
"""
function collocate end

"""
    shoot(field, p, data, ts, group_size, continuity_term; solver="Tsit5", control=Control())

Return the loss of DiffEqFlux's `multiple_shoot`, the predictions of each group, and the gradient of the loss with respect to the flat parameters p.
The loss is the sum of the squared differences from the data (dim, [samples,] T), plus `continuity_term` times the sum of the absolute gaps
between groups. The field is differentiated by its hand-written products.
"""
function shoot end

function call_collocate(request, _)
    load_extension("DiffEqFlux", "collocate_data needs")
    slopes, states = Base.invokelatest(
        collocate, Array(request["data"]), Vector{Float64}(request["ts"]), request["kernel"], request["bandwidth"])
    return Dict{String, Any}("slopes" => slopes, "states" => states)
end

function call_shoot(request, _)
    load_extension("DiffEqFlux", "multiple_shoot needs")
    data, field = Array(request["data"]), field_from(request["field"])
    p = flatten(field, request["parameters"], eltype(data))
    total, groups, gradient = Base.invokelatest(
        shoot, field, p, data, Vector{Float64}(request["ts"]), request["group_size"], request["continuity_term"];
        solver = request["solver"], control = control_from(request["control"]))
    return Dict{String, Any}("loss" => Float64(total), "predictions" => groups, "parameters" =>
        unflatten(field, gradient))
end

CALLS["collocate"] = call_collocate
CALLS["multiple_shoot"] = call_shoot
