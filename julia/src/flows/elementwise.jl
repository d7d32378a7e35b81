# Activations of whole arrays with their derivatives: a flow spends most of its time here.

"Write the activation of x to `activations` and its derivative to `derivatives`."
function activate!(activations, derivatives, kind, x)
    activations .= activate.(kind, x)
    derivatives .= derivative.(kind, x, activations)
    return nothing
end

function activate!(activations::Array{T}, derivatives::Array{T}, kind, x::Array{T}) where {T <: Union{Float32, Float64}}
    n = length(x)
    whole = n - n % lanes(T)
    GC.@preserve activations derivatives x for i in 0:lanes(T):(whole - 1)
        value, slope = value_and_slope(kind, load(pointer(x), i))
        store!(pointer(activations), value, i)
        store!(pointer(derivatives), slope, i)
    end
    for i in (whole + 1):n
        activations[i] = activate(kind, x[i])
        derivatives[i] = derivative(kind, x[i], activations[i])
    end
    return nothing
end
