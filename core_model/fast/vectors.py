"""A little vector language over LLVM IR, and what this processor has of it.

Knows no model. `Code` wraps an IR builder with loads, stores, loops and the functions of 16
floats that the kernels are made of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import extending
from numba.core import cgutils

intrinsic: Any = extending.intrinsic
"""Numba's decorator as it acts, not as its source looks to a type checker: the typing context, first
of a function's arguments, is not given by the callers."""

PORTABLE, AVX2, VNNI256, VNNI512 = 0, 1, 2, 3
"""Instruction sets of the integer products."""

I8, I16, I32, I64 = (ir.IntType(n) for n in (8, 16, 32, 64))
F32 = ir.FloatType()
HALF16 = ir.VectorType(ir.HalfType(), 16)
V16F, V16I, V8I = ir.VectorType(F32, 16), ir.VectorType(I32, 16), ir.VectorType(I32, 8)
V16B, V64B, V32B, V32S, V16S = (
    ir.VectorType(I8, 16),
    ir.VectorType(I8, 64),
    ir.VectorType(I8, 32),
    ir.VectorType(I16, 32),
    ir.VectorType(I16, 16),
)


def host_sets() -> tuple[int, ...]:
    """The instruction sets of this processor, the fastest last."""
    features = llvm.get_host_cpu_features()
    have = {name for name, on in features.items() if on}
    sets = [PORTABLE]
    if "avx2" in have and "f16c" in have:
        sets.append(AVX2)
    if "avx2" in have and ("avxvnni" in have or {"avx512vnni", "avx512vl"} <= have):
        sets.append(VNNI256)
    if {"avx512vnni", "avx512bw", "avx512vl"} <= have:
        sets.append(VNNI512)
    return tuple(sets)


HOST = host_sets()


class Code:
    """Shorthands over an IR builder."""

    def __init__(self, builder: Any) -> None:
        self.b = builder

    def pointer(self, address: Any) -> Any:
        return self.b.inttoptr(address, ir.PointerType())

    def load(self, address: Any, kind: Any) -> Any:
        return self.b.load(self.pointer(address), typ=kind, align=1)

    def store(self, value: Any, address: Any) -> None:
        self.b.store(value, self.pointer(address), align=1)

    def at(self, address: Any, offset: int) -> Any:
        return self.b.add(address, ir.Constant(I64, offset)) if offset else address

    def splat(self, scalar: Any, n: int) -> Any:
        kind = ir.VectorType(scalar.type, n)
        one = self.b.insert_element(ir.Constant(kind, ir.Undefined), scalar, I32(0))
        zeros = ir.Constant(ir.VectorType(I32, n), [0] * n)
        return self.b.shuffle_vector(one, ir.Constant(kind, ir.Undefined), zeros)

    def all(self, kind: Any, value: float | int) -> Any:
        return ir.Constant(kind, [value] * kind.count)

    def part(self, vector: Any, start: int, count: int) -> Any:
        picks = ir.Constant(ir.VectorType(I32, count), list(range(start, start + count)))
        return self.b.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), picks)

    def join(self, low: Any, high: Any) -> Any:
        n = low.type.count * 2
        return self.b.shuffle_vector(low, high, ir.Constant(ir.VectorType(I32, n), list(range(n))))

    def call(self, name: str, result: Any, *args: Any) -> Any:
        kind = ir.FunctionType(result, [a.type for a in args])
        return self.b.call(cgutils.get_or_insert_function(self.b.module, kind, name), args)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        return self.call("llvm.fmuladd.v16f32", V16F, a, b, c)

    def sum(self, vector: Any) -> Any:
        kind = ir.FunctionType(F32, [F32, vector.type])
        name = "llvm.vector.reduce.fadd.v16f32"
        function = cgutils.get_or_insert_function(self.b.module, kind, name)
        return self.b.call(function, [F32(0.0), vector], fastmath=("reassoc",))

    def exp(self, x: Any) -> Any:
        """e^x of 16 floats to about 2e-7; arguments are held within what float32 can hold."""
        b = self.b
        x = self.call("llvm.minnum.v16f32", V16F, x, self.all(V16F, 88.0))
        x = self.call("llvm.maxnum.v16f32", V16F, x, self.all(V16F, -87.0))
        n = b.fmul(x, self.all(V16F, 1.4426950408889634))
        n = self.call("llvm.nearbyint.v16f32", V16F, n)
        r = self.fma(n, self.all(V16F, -0.693359375), x)
        r = self.fma(n, self.all(V16F, 2.12194440e-4), r)
        p = self.all(V16F, 1.9875691500e-4)
        for c in (
            1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1,
        ):  # fmt: skip
            p = self.fma(p, r, self.all(V16F, c))
        p = b.fadd(self.fma(p, b.fmul(r, r), r), self.all(V16F, 1.0))
        power = b.add(b.fptosi(n, V16I), self.all(V16I, 127))
        return b.fmul(p, b.bitcast(b.shl(power, self.all(V16I, 23)), V16F))

    def loop(self, count: Any, carried: Sequence[Any], body: Callable[..., Sequence[Any]]) -> Any:
        """`for i in range(count)` (count > 0), values carried in registers."""
        b = self.b
        before = b.block
        head, after = b.append_basic_block("tile"), b.append_basic_block("tile.end")
        b.branch(head)
        b.position_at_end(head)
        i = b.phi(I64)
        i.add_incoming(I64(0), before)
        held = [b.phi(v.type) for v in carried]
        for phi, value in zip(held, carried, strict=True):
            phi.add_incoming(value, before)
        out = body(i, *held)
        following = b.add(i, I64(1))
        i.add_incoming(following, b.block)
        for phi, value in zip(held, out, strict=True):
            phi.add_incoming(value, b.block)
        b.cbranch(b.icmp_signed("<", following, count), head, after)
        b.position_at_end(after)
        return out
