# SIMD vectors of 64 bytes that are used like numbers: one register with AVX-512, several registers elsewhere. Loops over scalars are left
# to LLVM where little time is spent; in the loops where a solve spends its time, these vectors determine exactly what stays in registers.

"""
    Vec{N,T}

A SIMD vector of N numbers of type T.
"""
struct Vec{N,T}
    data::NTuple{N,VecElement{T}}
    @inline Vec(data::Tuple{VecElement{T},Vararg{VecElement{T},M}}) where {T,M} = new{M + 1,T}(data)
end

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

const LLVM_TYPES = Dict(Float32 => "float", Float64 => "double", Int32 => "i32", Int64 => "i64")
const INTEGERS = Dict(Float32 => Int32, Float64 => Int64)
llvm_vector(N, T) = "<$N x $(LLVM_TYPES[T])>"

for (op, instruction) in ((:+, "fadd contract"), (:-, "fsub contract"), (:*, "fmul contract"), (:/, "fdiv"))
    @eval @generated function Base.$op(a::Vec{N,T}, b::Vec{N,T}) where {N,T<:AbstractFloat}
        ir = "%3 = $($instruction) $(llvm_vector(N, T)) %0, %1\nret $(llvm_vector(N, T)) %3"
        D = NTuple{N,VecElement{T}}
        return :($(Expr(:meta, :inline)); Vec(Base.llvmcall($ir, $D, Tuple{$D,$D}, a.data, b.data)))
    end
    @eval @inline Base.$op(a::Vec{N,T}, b::Real) where {N,T} = $op(a, fill_lanes(Vec{N,T}, b))
    @eval @inline Base.$op(a::Real, b::Vec{N,T}) where {N,T} = $op(fill_lanes(Vec{N,T}, a), b)
end

"Return a vector with `x` in every lane."
@generated function fill_lanes(::Type{Vec{N,T}}, x::Real) where {N,T}
    vector, number = llvm_vector(N, T), LLVM_TYPES[T]
    ir = "%2 = insertelement $vector undef, $number %0, i32 0\n" *
         "%3 = shufflevector $vector %2, $vector undef, <$N x i32> zeroinitializer\nret $vector %3"
    return :($(Expr(:meta, :inline)); Vec(Base.llvmcall($ir, NTuple{$N,VecElement{$T}}, Tuple{$T}, $T(x))))
end

@generated function Base.muladd(a::Vec{N,T}, b::Vec{N,T}, c::Vec{N,T}) where {N,T}
    D = NTuple{N,VecElement{T}}
    name = "llvm.fmuladd.v$(N)f$(8sizeof(T))"
    return :($(Expr(:meta, :inline)); Vec(ccall($name, llvmcall, $D, ($D, $D, $D), a.data, b.data, c.data)))
end
@inline Base.muladd(a::Vec{N,T}, b::Vec{N,T}, c::Real) where {N,T} = muladd(a, b, fill_lanes(Vec{N,T}, c))
@inline Base.muladd(a::Vec{N,T}, b::Real, c::Vec{N,T}) where {N,T} = muladd(a, fill_lanes(Vec{N,T}, b), c)
@inline Base.muladd(a::Vec{N,T}, b::Real, c::Real) where {N,T} = muladd(a, fill_lanes(Vec{N,T}, b), fill_lanes(Vec{N,T}, c))

@generated function Base.abs(a::Vec{N,T}) where {N,T}
    D = NTuple{N,VecElement{T}}
    return :($(Expr(:meta, :inline)); Vec(ccall($("llvm.fabs.v$(N)f$(8sizeof(T))"), llvmcall, $D, ($D,), a.data)))
end

@generated function Base.copysign(a::Vec{N,T}, b::Vec{N,T}) where {N,T}
    D = NTuple{N,VecElement{T}}
    name = "llvm.copysign.v$(N)f$(8sizeof(T))"
    return :($(Expr(:meta, :inline)); Vec(ccall($name, llvmcall, $D, ($D, $D), a.data, b.data)))
end

"Return `x > y ? a : b` lane by lane; a lane in which `x` is NaN takes the value of `b`."
@generated function pick(x::Vec{N,T}, y::Vec{N,T}, a::Vec{N,T}, b::Vec{N,T}) where {N,T}
    D, vector = NTuple{N,VecElement{T}}, llvm_vector(N, T)
    ir = "%5 = fcmp ogt $vector %0, %1\n%6 = select <$N x i1> %5, $vector %2, $vector %3\nret $vector %6"
    return :($(Expr(:meta, :inline)); Vec(Base.llvmcall($ir, $D, Tuple{$D,$D,$D,$D}, x.data, y.data, a.data, b.data)))
end

# Limit x from above and from below; NaN in x stays NaN.
@inline at_most(x::Vec{N,T}, limit) where {N,T} = (y = fill_lanes(Vec{N,T}, limit); pick(x, y, y, x))
@inline at_least(x::Vec{N,T}, limit) where {N,T} = (y = fill_lanes(Vec{N,T}, limit); pick(y, x, y, x))

"Return 2^n from `whole` = n + 1.5 * 2^m, where T's mantissa has m bits: the last bits of `whole` are n, and are shifted to the exponent's position."
@generated function power_of_two(whole::Vec{N,T}) where {N,T}
    I = INTEGERS[T]
    D, vector, integers = NTuple{N,VecElement{T}}, llvm_vector(N, T), llvm_vector(N, I)
    mantissa, unit = Base.significand_bits(T), reinterpret(I, one(T))
    all(number) = "<" * join(fill("$(LLVM_TYPES[I]) $number", N), ", ") * ">"
    ir = "%2 = bitcast $vector %0 to $integers\n%3 = shl $integers %2, $(all(mantissa))\n" *
         "%4 = add $integers %3, $(all(unit))\n%5 = bitcast $integers %4 to $vector\nret $vector %5"
    return :($(Expr(:meta, :inline)); Vec(Base.llvmcall($ir, $D, Tuple{$D}, whole.data)))
end

"""
    lane_sums(vector, vectors...)

Return a vector with the sum of the lanes of each given vector, in order, followed by zeros.

Two vectors are merged by adding half of their lanes to the other half: each merge doubles the number of different sums in a vector.
"""
@generated function lane_sums(first::Vec{N,T}, others::Vec{N,T}...) where {N,T}
    count = 1 + length(others)
    vector, D = llvm_vector(N, T), NTuple{N,VecElement{T}}
    ir, made = "", 0
    function shuffle(a, b, mask)
        made += 1
        ir *= "%v$made = shufflevector $vector $a, $vector $b, <$N x i32> <$(join(("i32 $m" for m in mask), ", "))>\n"
        return "%v$made"
    end
    function add(a, b)
        made += 1
        ir *= "%v$made = fadd contract $vector $a, $b\n"
        return "%v$made"
    end
    names = ["%$(i - 1)" for i in 1:count]
    append!(names, fill("zeroinitializer", nextpow(2, count) - count))
    group = 1
    while length(names) > 1
        # Lane i of the result adds one lane of group 2q and one of group 2q + 1, from the first vector if i ÷ group is even, else from the second.
        from(i, odd) = (q = i ÷ 2group; (2q + odd) * group + i % group + (isodd(i ÷ group) ? N : 0))
        merge(a, b) = add((shuffle(a, b, [from(i, odd) for i in 0:N-1]) for odd in 0:1)...)
        names = [merge(names[i], names[i+1]) for i in 1:2:length(names)]
        group *= 2
    end
    # The remaining parts of a sum are in every `group`-th lane.
    total, distance = names[1], N ÷ 2
    while distance >= group
        total = add(total, shuffle(total, "undef", [(i + distance) % N for i in 0:N-1]))
        distance ÷= 2
    end
    total = shuffle(total, "zeroinitializer", [i < count ? i : N for i in 0:N-1])
    ir *= "ret $vector $total"
    arguments = [:(first.data); [:(others[$i].data) for i in 1:count-1]]
    return :($(Expr(:meta, :inline)); Vec(Base.llvmcall($ir, $D, Tuple{$(fill(D, count)...)}, $(arguments...))))
end

@inline Base.map(f::F, a::Vec{N,T}) where {F,N,T} = Vec(ntuple(i -> VecElement{T}(f(a.data[i].value)), Val(N)))

@inline at(p::Ptr{T}, i) where {T} = p + i * sizeof(T)
@inline load(p::Ptr{T}, i=0) where {T} =
    Vec(unsafe_load(Ptr{NTuple{VECTOR_BYTES ÷ sizeof(T),VecElement{T}}}(at(p, i))))
@inline store!(p::Ptr{T}, a::Vec{N,T}, i=0) where {N,T} = unsafe_store!(Ptr{NTuple{N,VecElement{T}}}(at(p, i)), a.data)
