# Fields in the form that a discrete adjoint needs: every evaluation writes a record to a tape. The vector-Jacobian product is computed from
# the record, and the parameters' gradient is computed for many records at once.

"""
    TapedField{T}

A field for states of a given size with numbers of type T. Its methods are

1. `load!(f, p)` sets the parameters (flat), `reserve!(f, rows)` allocates `rows` records, each of length `record_length(f)`;
2. `evaluate!(f, k, y, t, row)` writes the time derivative at state y and time t to k (k and y are pointers), and its record to `row`
   (counted from 0);
3. `vjp!(f, out, init, kbar, row)` writes init + the product of the cotangent kbar with the Jacobian at record `row` to `out`. It is called
   for rows in decreasing order, after `clear!(f, gathers)`; `flush!(f)` is called before the records change;
4. `gradient!(pbar, f)` writes the parameters' gradient, summed over the calls of `vjp!`, to pbar.

A pointer to a state points to `padded_length(dim, samples, T)` numbers: the state, followed by zeros.
"""
abstract type TapedField{T} end

"Return the number of values allocated for a state: whole SIMD vectors, so that a whole vector fits at the start of the last sample."
padded_length(dim, samples, ::Type{T}) where {T} = padded(dim * (samples - 1) + max(dim, lanes(T)), T)

"A layer: its width, its width padded to whole SIMD vectors, and the offsets of its data in a record, a record's cotangents, p and packed arrays."
struct Layer
    width::Int
    padded::Int
    record::Int           # offset of its activations and their derivatives in a record
    bar::Int              # offset of the cotangents of the activation's argument
    weight::Int           # offset in p of the weights that lead to this layer
    bias::Int             # offset in p of the biases (-1: none)
    biases::Int           # offset in packed arrays of the biases
    ahead::Int            # offset in packed arrays of the weights, with a column of `padded` numbers for every input
    back::Int             # offset in packed arrays of the weights, with a column of the lower layer's padded width for every output
    by_dots::Bool         # whether the layer is computed from `back`, by dot products
    back_by_dots::Bool    # whether the lower layer's cotangent is computed from `ahead`, by dot products
    split::Bool           # whether the last outputs of the layer are computed by dot products
    back_split::Bool      # whether the end of the lower layer's cotangent is computed by dot products
    scale::Float64        # factor of the weights, including the field's scales
    bias_scale::Float64   # factor of the biases, including the field's scales
end

mutable struct Network{T, A, M} <: TapedField{T}
    const activation::A
    const input_map::M
    const layers::Vector{Layer}
    const samples::Int
    const record::Int           # number of values per evaluation and sample in `values`, and in `slopes`
    const bar_record::Int
    const block::Int            # number of rows whose cotangents are kept until their part of the gradient is computed
    const packed::Vector{T}
    const nothings::Vector{T}   # zeros
    const unit::Vector{T}
    const scratch::Vector{T}
    const bars::Vector{T}
    const gradient::Vector{T}   # gradients of each layer's weights, from offset `ahead` or `back` on (see `across`), and of its biases
    values::Vector{T}
    slopes::Vector{T}
    low::Int                    # first row of the block
    first::Int                  # first filled row of the block
    high::Int                   # the row after the last row of the block
    gathers::Bool               # whether the parameters' gradient is needed
end

const COLUMNS_AT_ONCE = 64

function taped_field(field::MLP, ::Type{T}, samples) where {T}
    Network{T}(
        field.sizes, field.activation, field.input_map, inv(field.input_scale), field.output_scale, true, samples)
end
function taped_field(field::Linear, ::Type{T}, samples) where {T}
    Network{T}([field.dim, field.dim], Val(:identity), field.input_map, 1.0, 1.0, false, samples)
end

function Network{T}(sizes, activation::A, input_map::M, scale_in, scale_out, biased, samples) where {T, A, M}
    layers = Layer[]
    record = bar = used = packed = 0
    for (l, width) in enumerate(sizes)
        long = padded(width, T)
        below, below_long = l == 1 ? (0, 0) : (sizes[l - 1], layers[l - 1].padded)
        is_last = l == length(sizes)
        bias_scale = is_last ? scale_out : 1.0
        dots = prefer_dots(width, below, T) && (is_last || samples < COLUMNS)   # with many samples, a product loads its matrix only once
        back_dots = l == 2 && prefer_dots(below, width, T)
        ahead = packed + long
        back = ahead + below * long
        push!(layers,
            Layer(width, long, record, bar, used, biased ? used + width * below : -1,
                packed, ahead, back, dots, back_dots,
                !is_last && !dots && samples < COLUMNS && prefer_dots_for_rest(width, below, T),
                l > 2 && samples < COLUMNS && prefer_dots_for_rest(below, width, T),
                (l == 2 ? scale_in : 1.0) * bias_scale, bias_scale))
        record += long
        if l > 1
            bar += long
            used += width * below + (biased ? width : 0)
            packed = back + width * below_long
        end
    end
    record -= layers[end].padded
    block = max(1, COLUMNS_AT_ONCE ÷ samples)
    widest = maximum(layer.padded for layer in layers)
    unit = aligned(T, 1)
    unit[1] = 1
    return Network{T, A, M}(
        activation, input_map, layers, samples, record, bar, block, aligned(T, packed), aligned(T, widest),
        unit, aligned(T, widest * samples), aligned(T, bar * block * samples), aligned(T, packed),
        aligned(T, 0), aligned(T, 0), 0, 0, 0, false)
end

record_length(net::Network) = net.samples * net.record

"Return whether the weight gradient from `below` to `layer` is laid out like `ahead`, not `back`: the layout with fewer SIMD vectors is used."
across(below::Layer, layer::Layer) = layer.padded * below.width <= below.padded * layer.width

function load!(net::Network{T}, p::AbstractVector) where {T}
    packed = net.packed
    for l in 2:length(net.layers)
        below, layer = net.layers[l - 1], net.layers[l]
        scale, bias_scale = T(layer.scale), T(layer.bias_scale)
        if !layer.by_dots || layer.back_by_dots || layer.back_split
            @inbounds for i in 0:(below.width - 1)
                @simd ivdep for j in 1:layer.width
                    packed[layer.ahead + i * layer.padded + j] = scale * T(p[layer.weight + i * layer.width + j])
                end
            end
        end
        if layer.by_dots || layer.split || !layer.back_by_dots
            @inbounds for j in 0:(layer.width - 1)
                @simd ivdep for i in 0:(below.width - 1)
                    packed[layer.back + j * below.padded + i + 1] = scale * T(p[layer.weight + i * layer.width + j + 1])
                end
            end
        end
        layer.bias < 0 && continue
        @inbounds @simd ivdep for j in 1:layer.width
            packed[layer.biases + j] = bias_scale * T(p[layer.bias + j])
        end
    end
    return nothing
end

function reserve!(net::Network, rows)
    needed, old = rows * record_length(net), length(net.values)
    needed <= old && return nothing
    for tape in (net.values, net.slopes)
        resize!(tape, max(needed, 2old))
        tape[(old + 1):end] .= 0   # the padding between the layers must be finite
    end
    return nothing
end

function evaluate!(net::Network{T}, k::Ptr{T}, y::Ptr{T}, _, row) where {T}
    at_row = row * record_length(net)
    activations, slopes = pointer(net.values, at_row + 1), pointer(net.slopes, at_row + 1)
    enter!(net, activations, slopes, y)
    layer_count = length(net.layers)
    @inbounds for l in 2:(layer_count - 1)
        layer = net.layers[l]
        layer!(net, Activate(net.activation), at(activations, layer.record),
            net.record, at(slopes, layer.record), net.record,
            at(activations, net.layers[l - 1].record), net.layers[l - 1], layer)
    end
    @inbounds leave!(net, k, activations, net.layers[layer_count - 1], net.layers[layer_count])
    return nothing
end

"Compute the outputs of a layer from its inputs, for all samples; see `product!`."
@inline function layer!(net::Network{T}, epilogue, c, ldc, e, lde, inputs, below, layer) where {T}
    biases, ahead, back = pointer(net.packed, layer.biases + 1), pointer(net.packed, layer.ahead + 1),
    pointer(net.packed, layer.back + 1)
    layer.by_dots && return dotted_layer!(net, epilogue, c, ldc, e, lde, inputs, below, layer)
    if layer.split
        for s in 0:(net.samples - 1)
            split_product!(epilogue, at(c, s * ldc), at(e, s * lde), biases, ahead, layer.padded, back, below.padded,
                at(inputs, s * net.record), below.width, layer.width)
        end
        return nothing
    end
    vectors = layer.padded ÷ lanes(T)
    net.samples == 1 && return column!(epilogue, c, e, biases, ahead, layer.padded, inputs, 1, below.width, vectors)
    return product!(epilogue, c, ldc, e, lde, biases, 0, ahead, layer.padded,
        inputs, 1, net.record, below.width, vectors, net.samples)
end

# A separate function, so that its use of registers does not slow down the other branches.
@noinline function dotted_layer!(net::Network{T}, epilogue, c, ldc, e, lde, inputs, below, layer) where {T}
    biases, back = pointer(net.packed, layer.biases + 1), pointer(net.packed, layer.back + 1)
    for s in 0:(net.samples - 1)
        dots!(epilogue, at(c, s * ldc), at(e, s * lde), biases, back, below.padded,
            at(inputs, s * net.record), below.padded ÷ lanes(T), layer.width)
    end
    return nothing
end

@inline function enter!(net::Network{T}, activations, slopes, y) where {T}
    dim = net.layers[1].width
    for s in 0:(net.samples - 1), i in 0:(dim - 1)

        x, o = unsafe_load(at(y, s * dim + i)), s * net.record + i
        value = activate(net.input_map, x)
        unsafe_store!(at(activations, o), value)
        unsafe_store!(at(slopes, o), derivative(net.input_map, x, value))
    end
    return nothing
end

"Compute the last layer, whose output is the time derivative."
function leave!(net::Network{T}, k, activations, below, layer) where {T}
    inputs = at(activations, below.record)
    # With dot products, numbers written past the end of a sample are overwritten by the next sample.
    direct = layer.by_dots || net.samples == 1
    out = direct ? k : pointer(net.scratch)
    layer!(net, Store(), out, direct ? layer.width : layer.padded, out, 0, inputs, below, layer)
    direct && return nothing
    for s in 0:(net.samples - 1)
        unsafe_copyto!(at(k, s * layer.width), at(out, s * layer.padded), layer.width)
    end
    return nothing
end

function clear!(net::Network, gathers)
    net.gathers = gathers
    gathers && fill!(net.gradient, 0)
    net.low = net.first = net.high = 0
    return nothing
end

function vjp!(net::Network{T}, out::Ptr{T}, init::Ptr{T}, kbar::Ptr{T}, row) where {T}
    if net.first == net.low
        flush!(net)
        net.high = row + 1
        net.low = max(0, net.high - net.block)
    end
    net.first = row
    samples, top = net.samples, net.layers[end]
    bars = pointer(net.bars, (row - net.low) * samples * net.bar_record + 1)
    slopes = pointer(net.slopes, row * record_length(net) + 1)
    for s in 0:(samples - 1), i in 1:top.width

        unsafe_store!(at(bars, s * net.bar_record + top.bar), unsafe_load(kbar, s * top.width + i), i)
    end
    @inbounds for l in length(net.layers):-1:3
        vjp_layer!(net, bars, slopes, net.layers[l - 1], net.layers[l])
    end
    @inbounds vjp_input!(net, out, init, bars, slopes, net.layers[1], net.layers[2])
    return nothing
end

"Compute the cotangents of the layer `below` from those of `layer`, the layer after it."
@inline function vjp_layer!(net::Network{T}, bars, slopes, below, layer) where {T}
    zero_vector, ahead, back = pointer(net.nothings), pointer(net.packed, layer.ahead + 1),
    pointer(net.packed, layer.back + 1)
    to, from, by = at(bars, below.bar), at(bars, layer.bar), at(slopes, below.record)
    if layer.back_split
        for s in 0:(net.samples - 1)
            o = s * net.bar_record
            split_product!(
                Scale(), at(to, o), at(by, s * net.record), zero_vector, back, below.padded, ahead, layer.padded,
                at(from, o), layer.width, below.width)
        end
        return nothing
    end
    vectors = below.padded ÷ lanes(T)
    net.samples == 1 && return column!(Scale(), to, by, zero_vector, back, below.padded, from, 1, layer.width, vectors)
    return product!(
        Scale(), to, net.bar_record, by, net.record, zero_vector, 0, back, below.padded, from, 1, net.bar_record,
        layer.width, vectors, net.samples)
end

function vjp_input!(net::Network{T}, out, init, bars, slopes, below, layer) where {T}
    zero_vector, samples = pointer(net.nothings), net.samples
    if layer.back_by_dots
        columns = pointer(net.packed, layer.ahead + 1)
        for s in 0:(samples - 1)
            place = at(out, s * below.width)
            dots!(
                ScaleAndAdd((init - out) % Int), place, at(slopes, s * net.record), zero_vector, columns, layer.padded,
                at(bars, s * net.bar_record + layer.bar), layer.padded ÷ lanes(T), below.width)
        end
        return nothing
    end
    scratch = pointer(net.scratch)
    product!(
        Store(), scratch, below.padded, scratch, 0, zero_vector, 0, pointer(net.packed, layer.back + 1), below.padded,
        at(bars, layer.bar), 1, net.bar_record, layer.width, below.padded ÷ lanes(T), samples)
    for s in 0:(samples - 1)
        o, from, by = s * below.width, at(scratch, s * below.padded), at(slopes, s * net.record)
        @simd ivdep for i in 1:below.width
            unsafe_store!(out, muladd(unsafe_load(from, i), unsafe_load(by, i), unsafe_load(init, o + i)), o + i)
        end
    end
    return nothing
end

"Add the block's contribution to the gradient: for each layer, one product of cotangents and inputs."
function flush!(net::Network{T}) where {T}
    columns = (net.high - net.first) * net.samples
    (net.gathers && columns > 0) || (net.low =  net.first = net.high ; return nothing)
    bars = pointer(net.bars, (net.first - net.low) * net.samples * net.bar_record + 1)
    activations = pointer(net.values, net.first * record_length(net) + 1)
    for l in 2:length(net.layers)
        below, layer = net.layers[l - 1], net.layers[l]
        a, b = at(bars, layer.bar), at(activations, below.record)
        if across(below, layer)
            sums = pointer(net.gradient, layer.ahead + 1)
            product!(Store(), sums, layer.padded, sums, 0, sums, layer.padded, a, net.bar_record,
                b, net.record, 1, columns, layer.padded ÷ lanes(T), below.width)
        else
            sums = pointer(net.gradient, layer.back + 1)
            product!(Store(), sums, below.padded, sums, 0, sums, below.padded, b, net.record,
                a, net.bar_record, 1, columns, below.padded ÷ lanes(T), layer.width)
        end
        layer.bias < 0 && continue
        sums = pointer(net.gradient, layer.biases + 1)
        product!(Store(), sums, 0, sums, 0, sums, 0, a, net.bar_record,
            pointer(net.unit), 0, 0, columns, layer.padded ÷ lanes(T), 1)
    end
    net.low = net.first = net.high
    return nothing
end

function gradient!(pbar, net::Network)
    flush!(net)
    for (below, layer) in zip(net.layers, Iterators.drop(net.layers, 1))
        inner, outer, start = across(below, layer) ? (1, layer.padded, layer.ahead) : (below.padded, 1, layer.back)
        @inbounds for i in 0:(below.width - 1), j in 0:(layer.width - 1)

            pbar[layer.weight + i * layer.width + j + 1] = layer.scale * net.gradient[start + i * outer + j * inner + 1]
        end
        layer.bias < 0 && continue
        @inbounds for j in 1:layer.width
            pbar[layer.bias + j] = layer.bias_scale * net.gradient[layer.biases + j]
        end
    end
    return nothing
end

"The SEIR model as a `TapedField`; a record is the state."
mutable struct Compartments{T} <: TapedField{T}
    const samples::Int
    rates::NTuple{3, T}          # gamma, R0, sigma
    bars::NTuple{3, Float64}     # cotangents of the rates
    values::Vector{T}
end

function taped_field(::SEIR, ::Type{T}, samples) where {T}
    Compartments{T}(samples, (zero(T), zero(T), zero(T)), (0.0, 0.0, 0.0), T[])
end

record_length(f::Compartments) = 4f.samples
load!(f::Compartments{T}, p::AbstractVector) where {T} = (f.rates = (T(p[1]), T(p[2]), T(p[3])); nothing)
clear!(f::Compartments, gathers) = (f.bars = (0.0, 0.0, 0.0); nothing)
flush!(::Compartments) = nothing
gradient!(pbar, f::Compartments) = (pbar .= f.bars; nothing)

function reserve!(f::Compartments, rows)
    rows * record_length(f) > length(f.values) && resize!(f.values, max(rows * record_length(f), 2length(f.values)))
    return nothing
end

function evaluate!(f::Compartments, k::Ptr, y::Ptr, _, row)
    gamma, R0, sigma = f.rates
    unsafe_copyto!(pointer(f.values, row * record_length(f) + 1), y, 4f.samples)
    for o in 0:4:(4f.samples - 1)
        s, e, i = unsafe_load(y, o + 1), unsafe_load(y, o + 2), unsafe_load(y, o + 3)
        infected, onset, recovered = gamma * R0 * s * i, sigma * e, gamma * i
        unsafe_store!(k, -infected, o + 1)
        unsafe_store!(k, infected - onset, o + 2)
        unsafe_store!(k, onset - recovered, o + 3)
        unsafe_store!(k, recovered, o + 4)
    end
    return nothing
end

function vjp!(f::Compartments{T}, out::Ptr{T}, init::Ptr{T}, kbar::Ptr{T}, row) where {T}
    gamma, R0, sigma = f.rates
    add!(x, i) = unsafe_store!(out, unsafe_load(init, i) + x, i)
    for o in 0:4:(4f.samples - 1)
        state = pointer(f.values, row * record_length(f) + o + 1)
        s, e, i = unsafe_load(state, 1), unsafe_load(state, 2), unsafe_load(state, 3)
        bars = unsafe_load(kbar, o + 1), unsafe_load(kbar, o + 2), unsafe_load(kbar, o + 3), unsafe_load(kbar, o + 4)
        infected, onset, recovered = bars[2] - bars[1], bars[3] - bars[2], bars[4] - bars[3]
        f.bars = f.bars .+ (infected * R0 * s * i + recovered * i, infected * gamma * s * i, onset * e)
        add!(infected * gamma * R0 * i, o + 1)
        add!(onset * sigma, o + 2)
        add!(infected * gamma * R0 * s + recovered * gamma, o + 3)
        add!(zero(T), o + 4)
    end
    return nothing
end
