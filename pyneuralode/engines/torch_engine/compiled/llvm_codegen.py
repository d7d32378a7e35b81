"""LLVM code generation for Numba: arithmetic that emits LLVM instructions, and functions built from it.

For loops over a few dozen numbers, the code of LLVM's automatic vectorizer takes up to twice as long as necessary: it
checks whether arrays overlap and processes the last few numbers one by one. Every line that Numba types and translates
also adds to the time of the first call. So the inner loops are emitted directly, in vectors of 64 bytes; for processors
with shorter vectors LLVM splits each into several.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .constants import VECTOR_BYTES

# The number of vectors that a product sums at once: enough to hide the latency of additions, few enough to stay in
# registers.
IN_REGISTERS = 8 if llvm.get_host_cpu_features().get("avx512f") else 4
INT = ir.IntType(types.intp.bitwidth)
CONTRACT = ("contract",)


def integer(number: int) -> ir.Constant:
    return ir.Constant(INT, number)


def lanes_of(real: ir.Type) -> int:
    """Return the number of SIMD lanes for a floating-point type."""
    return VECTOR_BYTES // (8 if isinstance(real, ir.DoubleType) else 4)


class Number:
    """A float, or a vector of floats, in the code emitted by `builder`: arithmetic on it emits instructions."""

    def __init__(self, builder: ir.IRBuilder, value: ir.Value):
        self.builder, self.value = builder, value

    @property
    def double(self) -> bool:
        return isinstance(getattr(self.value.type, "element", self.value.type), ir.DoubleType)

    def like(self, number: float) -> Number:
        """Return `number` as a constant with the type of this number."""
        return self._new(self._spread(self.value.type, number))

    def _new(self, value: ir.Value) -> Number:
        return Number(self.builder, value)

    def _spread(self, kind: ir.Type, number: float) -> ir.Constant:
        return ir.Constant(kind, [number] * kind.count if isinstance(kind, ir.VectorType) else number)

    def _both(self, other: Number | float) -> tuple[ir.Value, ir.Value]:
        return self.value, (other if isinstance(other, Number) else self.like(other)).value

    def __add__(self, other):
        return self._new(self.builder.fadd(*self._both(other), flags=CONTRACT))

    def __sub__(self, other):
        return self._new(self.builder.fsub(*self._both(other), flags=CONTRACT))

    def __mul__(self, other):
        return self._new(self.builder.fmul(*self._both(other), flags=CONTRACT))

    def __truediv__(self, other):
        return self._new(self.builder.fdiv(*self._both(other)))

    def __rsub__(self, other):
        return self.like(other) - self

    def __rtruediv__(self, other):
        return self.like(other) / self

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self):
        return self._new(self.builder.fneg(self.value))

    def __abs__(self):
        return self.function("fabs")

    def with_sign_of(self, other: Number) -> Number:
        return self.function("copysign", other)

    def function(self, name: str, *others: Number) -> Number:
        """Apply the LLVM intrinsic function `name` to this number and `others`."""
        kind = self.value.type
        suffix = (f"v{kind.count}" if isinstance(kind, ir.VectorType) else "") + ("f64" if self.double else "f32")
        form = ir.FunctionType(kind, [kind] * (1 + len(others)))
        function = cgutils.get_or_insert_function(self.builder.module, form, f"llvm.{name}.{suffix}")
        return self._new(self.builder.call(function, [self.value, *(other.value for other in others)]))

    def pick(self, limit: float, above: Number, otherwise: Number) -> Number:
        """Return `above` where this number is greater than the limit, and `otherwise` where it is not or is NaN."""
        greater = self.builder.fcmp_ordered(">", *self._both(limit))
        return self._new(self.builder.select(greater, above.value, otherwise.value))

    def at_most(self, limit: float) -> Number:
        return self.pick(limit, self.like(limit), self)

    def at_least(self, limit: float) -> Number:
        less = self.builder.fcmp_ordered("<", *self._both(limit))
        return self._new(self.builder.select(less, self.like(limit).value, self.value))

    def bits(self, change: Callable[[Callable, ir.Value], ir.Value]) -> Number:
        """Return the number whose bits are change(constant, bits); `constant` creates integers of the same width."""
        kind, integers = self.value.type, ir.IntType(64 if self.double else 32)
        integers = ir.VectorType(integers, kind.count) if isinstance(kind, ir.VectorType) else integers
        changed = change(lambda number: self._spread(integers, number), self.builder.bitcast(self.value, integers))
        return self._new(self.builder.bitcast(changed, kind))

    def lane_by_lane(self, in_double: str, in_single: str) -> Number:
        """Apply a C function, given by its names for double and for single precision, to each lane."""
        kind = self.value.type
        real = getattr(kind, "element", kind)
        function = cgutils.get_or_insert_function(
            self.builder.module, ir.FunctionType(real, [real]), in_double if self.double else in_single
        )
        if not isinstance(kind, ir.VectorType):
            return self._new(self.builder.call(function, [self.value]))
        values = ir.Constant(kind, ir.Undefined)
        for lane in map(ir.IntType(32), range(kind.count)):
            value = self.builder.call(function, [self.builder.extract_element(self.value, lane)])
            values = self.builder.insert_element(values, value, lane)
        return self._new(values)


def load(builder: ir.IRBuilder, pointer: ir.Value, count: int = 0) -> Number:
    """Load the number at a pointer to floats or, if `count` > 0, the vector of `count` numbers that starts at it."""
    real = pointer.type.pointee
    if count:
        pointer = builder.bitcast(pointer, ir.VectorType(real, count).as_pointer())
    return Number(builder, builder.load(pointer, align=VECTOR_BYTES // lanes_of(real)))


def store(builder: ir.IRBuilder, pointer: ir.Value, number: Number) -> None:
    real = pointer.type.pointee
    pointer = builder.bitcast(pointer, number.value.type.as_pointer())
    builder.store(number.value, pointer, align=VECTOR_BYTES // lanes_of(real))


def broadcast(builder: ir.IRBuilder, pointer: ir.Value) -> Number:
    """Return a vector with the number at a pointer in every lane."""
    number, lane = builder.load(pointer), ir.IntType(32)
    kind = ir.VectorType(number.type, lanes_of(number.type))
    nothing = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(nothing, number, lane(0))
    return Number(builder, builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(lane, kind.count), None)))


def zeros(builder: ir.IRBuilder, real: ir.Type, lanes: int) -> Number:
    """Return a vector of zeros, or the number zero if `lanes` is 0."""
    return Number(builder, ir.Constant(ir.VectorType(real, lanes), None) if lanes else ir.Constant(real, 0.0))


class Variable:
    """A value that a loop changes; LLVM keeps it in a register."""

    def __init__(self, builder: ir.IRBuilder, value: ir.Value):
        self.builder, self.place = builder, cgutils.alloca_once(builder, value.type)
        self.set(value)

    def get(self) -> ir.Value:
        return self.builder.load(self.place)

    def number(self) -> Number:
        return Number(self.builder, self.get())

    def set(self, value: ir.Value) -> None:
        self.builder.store(value, self.place)

    def add(self, number: Number) -> None:
        self.set((number + self.number()).value)

    def advance(self, distance: ir.Value) -> None:
        """Advance the pointer by `distance` numbers."""
        self.set(self.builder.gep(self.get(), [distance]))


def choose(builder: ir.IRBuilder, number: ir.Value, cases: Sequence[Callable[[], None]]) -> None:
    """Emit a switch that runs cases[i] if `number` is i, and the last case for all other numbers."""
    after = builder.append_basic_block()
    blocks = [builder.append_basic_block() for _ in cases]
    switch = builder.switch(number, blocks[-1])
    for value, (block, write) in enumerate(zip(blocks, cases)):
        switch.add_case(integer(value), block)
        builder.position_at_end(block)
        write()
        builder.branch(after)
    builder.position_at_end(after)


def for_each_vector(
    builder: ir.IRBuilder, count: ir.Value, places: Sequence[ir.Value], write: Callable[[list[ir.Value], int], None]
) -> None:
    """Emit loops over the `count` numbers at each of the pointers `places`: first whole vectors, then single numbers.

    write(places, lanes) emits the code for one vector or, if `lanes` is 0, for one number.
    """
    lanes = lanes_of(places[0].type.pointee)
    full = builder.udiv(count, integer(lanes))
    with cgutils.for_range(builder, full) as loop:
        o = builder.mul(loop.index, integer(lanes))
        write([builder.gep(place, [o]) for place in places], lanes)
    with cgutils.for_range(builder, count, start=builder.mul(full, integer(lanes))) as loop:
        write([builder.gep(place, [loop.index]) for place in places], 0)


def emitted_function(write: Callable[..., None], inline: bool = False) -> Callable:
    """Return a function for compiled code; write(builder, *arguments) emits its body, once for each dtype.

    Its arguments are integers and pointers to floats; it returns nothing. Its linker symbol is its qualified name,
    which must be unique. If `inline`, which is meant for short functions, LLVM may inline it.
    """

    def call(typing, *arguments):
        kinds = tuple(x if isinstance(x, types.CPointer) else types.intp for x in arguments)

        def generate(context, builder, _, values):
            real = next(kind.dtype for kind in kinds if isinstance(kind, types.CPointer))
            name = f"{write.__module__}.{write.__qualname__}.{real}"
            function = builder.module.globals.get(name)
            if function is None:
                kind = ir.FunctionType(ir.VoidType(), [value.type for value in values])
                function = ir.Function(builder.module, kind, name)
                function.linkage = "linkonce_odr"
                if not inline:
                    function.attributes.add("noinline")
                function.attributes.add("nounwind")
                body = ir.IRBuilder(function.append_basic_block())
                write(body, *function.args)
                body.ret_void()
            builder.call(function, values)
            return context.get_dummy_value()

        return types.void(*kinds), generate

    call.__name__ = write.__name__
    call.__signature__ = signature(
        write
    )  # Numba counts the arguments in this signature, where `builder` stands for `typing`
    return intrinsic(call)


@intrinsic
def pointer(typing, array):
    """Return the pointer to an array's numbers.

    Numba frees an array after its last use by name, so an array used only through its pointer must be an argument or be
    returned.
    """
    kind = types.CPointer(array.dtype)
    return (
        kind(array),
        lambda context, builder, signature, arguments: (
            context.make_array(signature.args[0])(context, builder, arguments[0]).data
        ),
    )


@intrinsic
def at(typing, place, index):
    """Return the pointer `index` numbers after the pointer `place`."""
    return place(place, types.intp), lambda context, builder, signature, arguments: builder.gep(
        arguments[0], [arguments[1]]
    )
