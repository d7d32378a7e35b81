# The state of a continuous flow: the samples and, below them, the quantities that are integrated along their trajectories.

"""
    Augmented(inner, noise=nothing; kinetic=false, jacobian=false)

The field of a continuous normalizing flow. A state is a matrix (rows, samples): the `d` components of `inner`, then

- the trace of J = ∂f/∂y: exact or, with `noise` (d, samples), Hutchinson's estimate εᵀJε (Grathwohl et al. 2019, FFJORD);
- with `kinetic`, the squared speed |f|²;
- with `jacobian`, |J|² (Frobenius) or, with noise, its estimate |εᵀJ|² (Finlay et al. 2020, How to train your neural ODE).

The noise belongs to the field, not to its evaluation: every evaluation at the same point returns the same value. The noise
may be redrawn between two solves (`draw!`). The parameters are those of `inner`.
"""
struct Augmented{F <: VectorField, N <: Union{Nothing, AbstractMatrix}} <: VectorField
    inner::F
    noise::N
    kinetic::Bool
    jacobian::Bool
end

Augmented(inner, noise = nothing; kinetic = false, jacobian = false) = Augmented(inner, noise, kinetic, jacobian)

dimension(field::Augmented) = dimension(field.inner) + 1 + field.kinetic + field.jacobian
shapes(field::Augmented) = shapes(field.inner)
# The indices of the additional rows of a state.
trace_row(field::Augmented) = dimension(field.inner) + 1
kinetic_row(field::Augmented) = trace_row(field) + 1
jacobian_row(field::Augmented) = dimension(field)

# At a fixed time, the augmentation of a time-dependent field is that of its network.
function evaluator(field::Augmented{<:Timed}, u::AbstractMatrix)
    TimedEvaluator(
        field, field.inner, Augmented(field.inner.network, field.noise, field.kinetic, field.jacobian), u)
end

const NOISES = Dict("rademacher" => (rng, out) -> rand!(rng, out, (-1, 1)), "gaussian" => randn!)

"""
    draw!(noise, kind, seed)

Fill a matrix on any device with "rademacher" (±1) or "gaussian" random numbers, which depend only on `kind` and `seed`.
"""
function draw!(noise::AbstractMatrix{T}, kind, seed) where {T}
    return copyto!(noise, lookup("noise", kind, NOISES)(Xoshiro(seed), Matrix{T}(undef, size(noise))))
end

"Return the vectors whose products with J give the trace: the noise, or the unit vectors as (d, 1) columns."
function directions(field::Augmented, ::Type{T}) where {T}
    field.noise === nothing || return (field.noise,)
    d = dimension(field.inner)
    return [T.(reshape(1:d .== k, d, 1)) for k in 1:d]
end

function slope(field::Augmented, u, p, t)
    y = u[1:dimension(field.inner), :]
    f = slope(field.inner, y, p, t)
    vectors = directions(field, eltype(u))
    products = [transposed_product(field.inner, y, e, p, t) for e in vectors]
    rows = vcat(f, sum(sum(v .* e; dims = 1) for (v, e) in zip(products, vectors)))
    field.kinetic && (rows = vcat(rows, sum(abs2, f; dims = 1)))
    field.jacobian && (rows = vcat(rows, sum(sum(abs2, v; dims = 1) for v in products)))
    return rows
end

"Return ``Jᵀe`` with ``J = ∂f/∂y`` for every sample, without mutation; `e` is (d, samples) or (d, 1)."
transposed_product(field::Linear, y, e, p, t) = (transpose(p.A) * e) .* derivative.(field.input_map, y, y)

function transposed_product(field::MLP, y, e, p, t)
    T = eltype(y)
    x = activate.(field.input_map, y) ./ T(field.input_scale)
    return derivative.(field.input_map, y, y) .* T(field.output_scale / field.input_scale) .*
           from_layer(field, 1, x, e, p)
end

"Return the product of `e` with the transposed derivative of the layers from the k-th on, evaluated at their input x."
function from_layer(field::MLP, k, x, e, p)
    W = getproperty(p, Symbol(:weight_, k))
    k == length(field.sizes) - 1 && return transpose(W) * e
    z = W * x .+ getproperty(p, Symbol(:bias_, k))
    after = activate.(field.activation, z)
    return transpose(W) * (derivative.(field.activation, z, after) .* from_layer(field, k + 1, after, e, p))
end

transposed_product(field::Timed, y, e, p, t) = transposed_product(field.network, y, e, weights_at(field, p, t), t)

"Return ``Jᵀe`` for a network of convolutions, computed like `from_layer`."
function transposed_product(field::Convolutions, y, e, p, t)
    function from_map(l, x, e)
        layer_map, w = field.maps[l], getproperty(p, Symbol(:weight_, l))
        l == length(field.maps) && return convolve_back(layer_map, w, e)
        z = convolve(layer_map, w, x) .+ getproperty(p, Symbol(:bias_, l))
        after = activate.(field.activation, z)
        return convolve_back(layer_map, w, derivative.(field.activation, z, after) .* from_map(l + 1, after, e))
    end
    return eltype(y)(field.output_scale) .* from_map(1, y, e .+ zero(y))
end

function transposed_product(::SEIR, y, e, p, t)
    infected, onset, recovered = e[2:2, :] .- e[1:1, :], e[3:3, :] .- e[2:2, :], e[4:4, :] .- e[3:3, :]
    s, i, contacts = y[1:1, :], y[3:3, :], p.gamma * p.R0
    return vcat(
        contacts .* infected .* i, p.sigma .* onset .+ zero(i), contacts .* infected .* s .+
                                                                p.gamma .* recovered, zero(i))
end
