# Activations of whole arrays with their derivatives: a flow spends most of its time here.

"Write the activation of x to `values` and its derivative to `derivatives`."
function activate!(values, derivatives, kind, x)
    values .= activate.(kind, x)
    derivatives .= derivative.(kind, x, values)
    return nothing
end

function activate!(values::Array{T}, derivatives::Array{T}, kind, x::Array{T}) where {T<:Union{Float32,Float64}}
    count = length(x)
    whole = count - count % lanes(T)
    GC.@preserve values derivatives x for i in 0:lanes(T):whole-1
        value, slope = value_and_slope(kind, load(pointer(x), i))
        store!(pointer(values), value, i)
        store!(pointer(derivatives), slope, i)
    end
    for i in whole+1:count
        values[i] = activate(kind, x[i])
        derivatives[i] = derivative(kind, x[i], values[i])
    end
    return nothing
end
