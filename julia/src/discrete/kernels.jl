# Products of small matrices: the arithmetic of networks and of Runge-Kutta steps, with the sums kept in registers.
#
# A matrix is given by a pointer and the distance between its columns. Matrices whose columns are read as SIMD vectors are padded to
# whole vectors, and the length of their columns is given as a number of SIMD vectors.

const ROWS, COLUMNS = 4, 4   # a tile of sums: 4 vectors of rows, 4 columns

"""
    product!(epilogue, c, ldc, e, lde, init, ldi, a, lda, b, bk, bs, depth, vectors, columns)

Compute c[:, s] = epilogue(init[:, s] + sum over k < depth of a[:, k] b[k, s]) for s < columns. A column is `vectors` SIMD vectors long;
columns of c, e, init and a are ldc, lde, ldi and lda apart; b[k, s] is at b + k bk + s bs. `e` is an additional array that `epilogue` reads or writes:

- `Store()` stores the sums;
- `Scale()` stores the sums times e;
- `AddScaled(x)` stores the sums plus x e;
- `ScaleAndAdd(distance)` stores the sums times e, plus the values `distance` bytes after c;
- `Activate(activation)` stores the activation of the sums in c and its derivative in e.
"""
function product!(epilogue, c::Ptr{T}, ldc, e, lde, init, ldi, a, lda, b, bk, bs, depth, vectors, columns) where {T}
    s = 0
    while s + COLUMNS <= columns
        for v in 0:ROWS:(vectors - 1)
            o = v * lanes(T)
            Base.Cartesian.@nif 4 d -> vectors - v <= d || d == ROWS d -> tile!(
                epilogue, at(c, o), ldc, at(e, o), lde, at(init, o), ldi, at(a, o), lda, b, bk, bs, depth,
                Val(d), Val(COLUMNS), Val(1))
        end
        s += COLUMNS
        c, e, init, b = at(c, COLUMNS * ldc), at(e, COLUMNS * lde), at(init, COLUMNS * ldi), at(b, COLUMNS * bs)
    end
    while s < columns
        column!(epilogue, c, e, init, a, lda, b, bk, depth, vectors)
        s += 1
        c, e, init, b = at(c, ldc), at(e, lde), at(init, ldi), at(b, bs)
    end
    return nothing
end

"Like `product!`, for one column."
function column!(epilogue, c::Ptr{T}, e, init, a, lda, b, bk, depth, vectors) where {T}
    for v in 0:8:(vectors - 1)
        o = v * lanes(T)
        Base.Cartesian.@nif 8 d -> vectors - v <= d || d == 8 d -> tile!(
            epilogue, at(c, o), 0, at(e, o), 0, at(init, o), 0, at(a, o), lda, b, bk, 0, depth,
            Val(d), Val(1), Val(d <= 2 ? 4 : d == 3 ? 3 : d <= 5 ? 2 : 1))
    end
    return nothing
end

struct Store end
struct Scale end
struct AddScaled{T}
    weight::T
end
struct ScaleAndAdd
    distance::Int   # in bytes
end
struct Activate{A}
    activation::A
end

@inline apply_epilogue!(::Store, c, e, total) = store!(c, total)
@inline apply_epilogue!(::Scale, c, e, total) = store!(c, total * load(e))
@inline apply_epilogue!(kind::AddScaled, c, e, total) = store!(c, muladd(load(e), kind.weight, total))
@inline apply_epilogue!(kind::ScaleAndAdd, c, e, total) = store!(c, muladd(total, load(e), load(c + kind.distance)))
@inline function apply_epilogue!(kind::Activate, c, e, total)
    value, slope = value_and_slope(kind.activation, total)
    store!(c, value)
    store!(e, slope)
end

"""
    tile!(epilogue, c, ldc, e, lde, init, ldi, a, lda, b, bk, bs, depth, Val(N), Val(S), Val(U))

Like `product!`, for S columns of N SIMD vectors. The columns of `a` are distributed over U separate sums, which hides the latency of additions.
"""
@generated function tile!(epilogue, c::Ptr{T}, ldc, e, lde, init, ldi, a, lda, b, bk, bs, depth,
        ::Val{N}, ::Val{S}, ::Val{U}) where {T, N, S, U}
    L = lanes(T)
    sums = [Symbol(:sum_, v, :_, s, :_, u) for v in 1:N, s in 1:S, u in 1:U]
    initial(v, s, u) = u == 1 ? :(load(init, $(s - 1) * ldi + $((v - 1) * L))) : :(Vec{$L, T}(0))
    starts = [:($(sums[v, s, u]) = $(initial(v, s, u))) for v in 1:N, s in 1:S, u in 1:U]
    function update(u)
        vectors = [:($(Symbol(:a_, v)) = load(a, $(u - 1) * lda + $((v - 1) * L))) for v in 1:N]
        adds = [quote
                    x = Vec{$L, T}(unsafe_load(at(b, $(u - 1) * bk + $(s - 1) * bs)))
                    $([:($(sums[v, s, u]) = muladd(x, $(Symbol(:a_, v)), $(sums[v, s, u]))) for v in 1:N]...)
                end
                for s in 1:S]
        return [vectors; adds]
    end
    left = [:(k + $(u - 1) < depth && $(Expr(:block, update(u)...))) for u in 1:(U - 1)]
    total(v, s) = foldl((x, y) -> :($x + $y), sums[v, s, :])
    place(p, ld, v, s) = :(at($p, $(s - 1) * $ld + $((v - 1) * L)))
    ends = [:(apply_epilogue!(epilogue, $(place(:c, :ldc, v, s)), $(place(:e, :lde, v, s)), $(total(v, s))))
            for v in 1:N, s in 1:S]
    return quote
        $(Expr(:meta, :noinline))
        $(starts...)
        k = 0
        while k + $U <= depth
            $(reduce(vcat, update.(1:U))...)
            a, b, k = at(a, $U * lda), at(b, $U * bk), k + $U
        end
        $(left...)
        $(ends...)
        return nothing
    end
end

"""
    dots(init, a, lda, x, vectors, Val(M))

Return the SIMD vector `init` plus, in its first M lanes, the dot products of the first M columns of `a` with x.
"""
@generated function dots(init::Ptr{T}, a, lda, x, vectors, ::Val{M}) where {T, M}
    L = lanes(T)
    sums = [Symbol(:sum_, i) for i in 1:M]
    return quote
        $([:($total = Vec{$L, T}(0)) for total in sums]...)
        for v in 0:(vectors - 1)
            part = load(x, v * $L)
            $([:($(sums[i]) = muladd(load(a, $(i - 1) * lda + v * $L), part, $(sums[i]))) for i in 1:M]...)
        end
        return load(init) + lane_sums($(sums...))
    end
end

"""
    dots!(epilogue, c, e, init, a, lda, x, vectors, rows)

Compute c = epilogue(init + d), where d contains the dot products of `rows` columns of `a` with x, each `vectors` SIMD vectors long. The
result is one SIMD vector, for at most MAX_DOT_ROWS rows; `epilogue` and e are as in `product!`.
"""
@inline function dots!(epilogue, c::Ptr{T}, e, init, a, lda, x, vectors, rows) where {T}
    sums = Base.Cartesian.@nif 8 d -> rows == d d -> dots(init, a, lda, x, vectors, Val(d))
    apply_epilogue!(epilogue, c, e, sums)
    return nothing
end

const MAX_DOT_ROWS = 8

# The cost of a matrix-vector product is estimated by the number of SIMD vectors that are loaded; summing the lanes of a dot product costs
# about as much as two loads.

"Return whether multiplying a (rows, columns) matrix by one vector is faster with dot products."
function prefer_dots(rows, columns, ::Type{T}) where {T}
    rows <= MAX_DOT_ROWS && rows * (cld(columns, lanes(T)) + 2) < columns * (cld(rows, lanes(T)) + 1)
end

"Return whether dot products are faster for the last rows, which do not fill a SIMD vector (measured: only if the matrix exceeds the first-level cache)."
function prefer_dots_for_rest(rows, columns, ::Type{T}) where {T}
    rest = rows % lanes(T)
    return rows > lanes(T) && 0 < rest <= MAX_DOT_ROWS && rest * (cld(columns, lanes(T)) + 2) < columns &&
           rows * columns * sizeof(T) > 32_000
end

"Like `product!` for one column, but rows after the last whole SIMD vector are computed by dot products with the columns of `transposed`, the transpose of `a`."
@noinline function split_product!(epilogue, c::Ptr{T}, e, init, a, lda, transposed, ldt, x, depth, rows) where {T}
    o = rows ÷ lanes(T) * lanes(T)
    column!(epilogue, c, e, init, a, lda, x, 1, depth, o ÷ lanes(T))
    dots!(epilogue, at(c, o), at(e, o), at(init, o), at(transposed, o * ldt), ldt, x, cld(depth, lanes(T)), rows - o)
    return nothing
end

"Copy `n` numbers, rounded up to whole SIMD vectors, from `from` to `to`."
function copy_vectors!(to::Ptr{T}, from, n) where {T}
    for i in 0:lanes(T):(n - 1)
        store!(to, load(from, i), i)
    end
    return nothing
end
