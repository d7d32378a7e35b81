# SIMD vectors of 64 bytes that are used like numbers: one register with AVX-512, several registers elsewhere. Loops over scalars are left
# to LLVM where little time is spent; in the loops where a solve spends its time, these vectors determine exactly what stays in registers.

using SIMD: Vec, shufflevector, vifelse, vload, vstore

const VECTOR_BYTES = 64

"Return the number of SIMD lanes of a vector of type T."
lanes(::Type{T}) where {T} = VECTOR_BYTES ÷ sizeof(T)

"Return `n` rounded up to whole SIMD vectors of numbers of type T."
padded(n, ::Type{T}) where {T} = cld(n, lanes(T)) * lanes(T)

"""
    aligned(T, n)

Return a vector of at least `n` zeros whose memory starts at the beginning of a cache line, like that of Julia's arrays of 2 kB or more.
"""
aligned(::Type{T}, n) where {T} = zeros(T, max(n, 4096 ÷ sizeof(T)))

"Return `x > y ? a : b` lane by lane; a lane in which `x` is NaN takes the value of `b`."
@inline pick(x::Vec, y::Vec, a::Vec, b::Vec) = vifelse(x > y, a, b)

# Limit x from above and from below; NaN in x stays NaN.
@inline at_most(x::Vec{N, T}, limit) where {N, T} = (y = Vec{N, T}(limit); pick(x, y, y, x))
@inline at_least(x::Vec{N, T}, limit) where {N, T} = (y = Vec{N, T}(limit); pick(y, x, y, x))

integer_type(::Type{Float64}) = Int64
integer_type(::Type{Float32}) = Int32

"Return 2^n from `whole` = n + 1.5 * 2^m, where T's mantissa has m bits: the last bits of `whole` are n, and are shifted to the exponent's position."
@inline function power_of_two(whole::Vec{N, T}) where {N, T}
    I = integer_type(T)
    bits = (reinterpret(Vec{N, I}, whole) << unsigned(I(Base.significand_bits(T)))) + reinterpret(I, one(T))
    return reinterpret(Vec{N, T}, bits)
end

"""
    lane_sums(vector, vectors...)

Return a vector with the sum of the lanes of each given vector, in order, followed by zeros.

Two vectors are merged by adding half of their lanes to the other half: each merge doubles the number of different sums in a vector.
"""
@generated function lane_sums(vector::Vec{N, T}, vectors::Vec{N, T}...) where {N, T}
    n = 1 + length(vectors)
    shuffle(a, b, mask) = :(shufflevector($a, $b, Val($(Tuple(mask)))))
    terms = Any[:vector; [:(vectors[$i]) for i in 1:(n - 1)]]
    append!(terms, fill(:(zero(Vec{N, T})), nextpow(2, n) - n))
    code, group = Expr[], 1
    function keep(term)
        name = gensym()
        push!(code, :($name = $term))
        return name
    end
    terms = Any[keep(term) for term in terms]
    while length(terms) > 1
        # Lane i of the result adds one lane of group 2q and one of group 2q + 1, from the first vector if i ÷ group is even, else from the second.
        from(i, odd) = (q = i ÷ 2group; (2q + odd) * group + i % group + (isodd(i ÷ group) ? N : 0))
        join_pair(a, b) = keep(:($(shuffle(a, b, [from(i, 0) for i in 0:(N - 1)])) +
                                 $(shuffle(a, b, [from(i, 1) for i in 0:(N - 1)]))))
        terms = Any[join_pair(terms[i], terms[i + 1]) for i in 1:2:length(terms)]
        group *= 2
    end
    # The remaining parts of a sum are in every `group`-th lane.
    total, distance = only(terms), N ÷ 2
    while distance >= group
        total = keep(:($total + shufflevector($total, Val($(Tuple((i + distance) % N for i in 0:(N - 1)))))))
        distance ÷= 2
    end
    total = shuffle(total, :(zero(Vec{N, T})), [i < n ? i : N for i in 0:(N - 1)])
    return Expr(:block, Expr(:meta, :inline), code..., total)
end

"Return the vector of f(x) for each lane x."
@inline map_lanes(f::F, a::Vec{N, T}) where {F, N, T} = Vec(ntuple(i -> T(f(a[i])), Val(N)))

@inline at(p::Ptr{T}, i) where {T} = p + i * sizeof(T)
@inline load(p::Ptr{T}, i = 0) where {T} = vload(Vec{VECTOR_BYTES ÷ sizeof(T), T}, at(p, i))
@inline store!(p::Ptr, a::Vec, i = 0) = vstore(a, at(p, i))
