"""Products of small matrices, with sums kept in registers: the arithmetic of networks and of Runge-Kutta steps.

Arguments are strides, counts, and pointers into flat arrays. Arrays that are read vector by vector are padded to whole
vectors.
"""

import operator
from functools import partial, reduce

from llvmlite import ir
from numba.core.cgutils import for_range

from .constants import MAX_DOT_ROWS
from .llvm_codegen import (
    IN_REGISTERS,
    Number,
    Variable,
    broadcast,
    choose,
    emitted_function,
    for_each_vector,
    integer,
    lanes_of,
    load,
    store,
    zeros,
)  # fmt: skip

# The size of a tile of a sum of outer products: its height in vectors and its width in numbers.
TALL, WIDE = max(1, IN_REGISTERS // 2), 4


def tile(builder, c, dc, init, di, a, da, b, db, across, count, tall, wide, apart):
    """Emit code that computes the sums of a tile of `tall` vectors and `wide` columns; see `column` and `outer`.

    Each of `apart` consecutive terms is added to a separate sum, to hide the latency of additions.
    """
    lanes = lanes_of(c.type.pointee)

    def place(start, distance, v, s):
        start = builder.gep(start, [builder.mul(distance, integer(s))]) if s else start
        return builder.gep(start, [integer(v * lanes)]) if v else start

    spots = [(v, s) for v in range(tall) for s in range(wide)]
    nothing = zeros(builder, c.type.pointee, lanes).value
    sums = [[Variable(builder, load(builder, place(init, di, *spot), lanes).value) for spot in spots]]
    sums += [[Variable(builder, nothing) for _ in spots] for _ in range(1, apart)]
    vectors, factors = Variable(builder, a), Variable(builder, b)

    def add(totals):
        column = [load(builder, place(vectors.get(), da, v, 0), lanes) for v in range(tall)]
        row = [broadcast(builder, place(factors.get(), across, 0, s)) for s in range(wide)]
        for (v, s), total in zip(spots, totals):
            total.add(column[v] * row[s])
        vectors.advance(da)
        factors.advance(db)

    with for_range(builder, builder.udiv(count, integer(apart))):
        for totals in sums:
            add(totals)
    if apart > 1:
        with for_range(builder, builder.urem(count, integer(apart))):
            add(sums[0])
    for spot, *parts in zip(spots, *sums):
        store(builder, place(c, dc, *spot), reduce(operator.add, (part.number() for part in parts)))


def groups(builder, vectors, size, write):
    """Emit a loop over groups of at most `size` vectors; write(number, offset) emits the code for `number` vectors."""
    count = builder.udiv(builder.add(vectors, integer(size - 1)), integer(size))
    with for_range(builder, count) as loop:
        done = builder.mul(loop.index, integer(size))
        left = builder.sub(vectors, done)
        choose(builder, builder.sub(left, integer(1)), [partial(write, number, done) for number in range(1, size + 1)])


@emitted_function
def column(builder, c, init, a, da, b, db, count, vectors):
    """Set c = init + the sum over i < count of b[i db] a[i da:]; c and each a[i da:] are `vectors` vectors long."""
    none, lanes = integer(0), integer(lanes_of(c.type.pointee))

    def write(number, done):
        o = [builder.mul(done, lanes)]
        places = builder.gep(c, o), none, builder.gep(init, o), none, builder.gep(a, o), da
        tile(builder, *places, b, db, none, count, number, 1, max(1, min(4, IN_REGISTERS // number)))

    groups(builder, vectors, IN_REGISTERS, write)


@emitted_function
def outer(builder, c, dc, a, da, b, db, count, vectors, columns):
    """Add the sum over i < count of b[i db + s] a[i da:], `vectors` vectors long, to c[s dc:], for s < columns."""
    lanes = integer(lanes_of(c.type.pointee))

    def strip(wide, first):
        def write(number, done):
            o = builder.mul(done, lanes)
            to = builder.gep(c, [builder.add(builder.mul(first, dc), o)])
            places = to, dc, to, dc, builder.gep(a, [o]), da, builder.gep(b, [first]), db, integer(1)
            tile(builder, *places, count, number, wide, 1)

        groups(builder, vectors, TALL, write)

    whole = builder.udiv(columns, integer(WIDE))
    with for_range(builder, whole) as loop:
        strip(WIDE, builder.mul(loop.index, integer(WIDE)))
    with for_range(builder, columns, start=builder.mul(whole, integer(WIDE))) as loop:
        strip(1, loop.index)


@emitted_function
def dots(builder, c, init, a, da, x, vectors, rows):
    """Set c = init + the dot products of x with at most MAX_DOT_ROWS rows a[i da:], each `vectors` vectors long."""
    real = c.type.pointee
    lanes = lanes_of(real)

    def write(number):
        sums = [Variable(builder, zeros(builder, real, lanes).value) for _ in range(number)]
        with for_range(builder, vectors) as loop:
            o = builder.mul(loop.index, integer(lanes))
            part = load(builder, builder.gep(x, [o]), lanes)
            for i, total in enumerate(sums):
                row = load(builder, builder.gep(a, [builder.add(o, builder.mul(da, integer(i)))]), lanes)
                total.add(row * part)
        total = lane_sums([total.number() for total in sums])
        store(builder, c, load(builder, init, lanes) + total)

    choose(builder, builder.sub(rows, integer(1)), [partial(write, number) for number in range(1, MAX_DOT_ROWS + 1)])


@partial(emitted_function, inline=True)
def accumulate(builder, sums, a, b, vectors):
    """Add the products of `vectors` vectors a and b to the vector `sums`, lane by lane."""
    lanes = lanes_of(sums.type.pointee)
    total = Variable(builder, load(builder, sums, lanes).value)
    with for_range(builder, vectors) as loop:
        o = [builder.mul(loop.index, integer(lanes))]
        total.add(load(builder, builder.gep(a, o), lanes) * load(builder, builder.gep(b, o), lanes))
    store(builder, sums, total.number())


@emitted_function
def times_plus(builder, out, a, b, init, count):
    """Set out = a b + init elementwise, for `count` numbers."""

    def write(places, lanes):
        out, a, b, init = places
        a, b, init = (load(builder, place, lanes) for place in (a, b, init))
        store(builder, out, a * b + init)

    for_each_vector(builder, count, (out, a, b, init), write)


@emitted_function
def copy_numbers(builder, out, x, count):
    """Copy `count` numbers from x to `out`."""

    def write(places, lanes):
        store(builder, places[0], load(builder, places[1], lanes))

    for_each_vector(builder, count, (out, x), write)


@emitted_function
def zero(builder, out, count):
    """Set `count` numbers of `out` to zero."""

    def write(places, lanes):
        store(builder, places[0], zeros(builder, out.type.pointee, lanes))

    for_each_vector(builder, count, (out,), write)


def lane_sums(vectors):
    """Return one vector whose i-th lane is the sum of all lanes of the i-th vector; the remaining lanes are zero.

    Vectors are merged in pairs by adding half of their lanes to the other half. Each round of merges doubles `group`,
    the number of adjacent lanes with partial sums of different vectors; this pattern repeats along the vector.
    """
    builder, count, lanes = vectors[0].builder, len(vectors), vectors[0].value.type.count
    nothing = zeros(builder, vectors[0].value.type.element, lanes)

    def shuffle(a, b, lanes_taken):
        mask = ir.Constant(ir.VectorType(ir.IntType(32), lanes), lanes_taken)
        return Number(builder, builder.shuffle_vector(a.value, b.value, mask))

    group = 1
    while len(vectors) > 1:
        # Lane i of a merged vector adds one lane from each of the groups 2 q and 2 q + 1, q = i // (2 group): groups of
        # the first vector if i // group is even, else of the second.
        even, odd = (
            [(i // (2 * group) * 2 + half) * group + i % group + i // group % 2 * lanes for i in range(lanes)]
            for half in (0, 1)
        )
        pairs = zip(vectors[::2], [*vectors[1::2], nothing])
        vectors = [shuffle(a, b, even) + shuffle(a, b, odd) for a, b in pairs]
        group *= 2
    total, distance = vectors[0], lanes // 2
    while distance >= group:  # the remaining parts of a sum are in every `group`-th lane
        total = total + shuffle(total, nothing, [(i + distance) % lanes for i in range(lanes)])
        distance //= 2
    return shuffle(total, nothing, [i if i < count else lanes for i in range(lanes)])
