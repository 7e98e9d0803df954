"""Quantisation, activation and attention of 16 floats at a time, as LLVM IR inlined by numba.

Plain LLVM vector arithmetic, the same on every processor. Arguments are addresses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numba import types

from anybind.core_model.fast.vectors import (
    F32,
    I32,
    I64,
    V16B,
    V16F,
    V16I,
    Code,
    intrinsic,
)

GROUP = 32


def _quantise(c: Code, low: Any, high: Any, q: Any, s: Any, t: Any) -> None:
    """32 floats in two vectors to whole numbers n in -16256..16256, and their scale at s.

    n = 128 a + b: the 32 a go to q, the 32 b behind them. scale * sum goes to t.
    """
    b = c.b
    big = c.call(
        "llvm.maxnum.v16f32", V16F, c.call("llvm.fabs.v16f32", V16F, low),
        c.call("llvm.fabs.v16f32", V16F, high),
    )  # fmt: skip
    top = c.call("llvm.vector.reduce.fmax.v16f32", F32, big)
    scale = b.fmul(top, F32(1.0 / 16256.0))
    some = b.fcmp_ordered(">", top, F32(1e-30))
    inverse = c.splat(b.select(some, b.fdiv(F32(16256.0), top), F32(0.0)), 16)
    ints = []
    for half in (low, high):
        near = c.call("llvm.rint.v16f32", V16F, b.fmul(half, inverse))
        ints.append(b.fptosi(near, V16I))
    total = c.call("llvm.vector.reduce.add.v16i32", I32, b.add(*ints))
    seven, sixty_four = c.all(V16I, 7), c.all(V16I, 64)
    for n, value in enumerate(ints):
        upper = b.ashr(b.add(value, sixty_four), seven)
        lower = b.sub(value, b.shl(upper, seven))
        c.store(b.trunc(upper, V16B), c.at(q, 16 * n))
        c.store(b.trunc(lower, V16B), c.at(q, GROUP + 16 * n))
    c.store(scale, s)
    c.store(b.fmul(scale, b.sitofp(total, F32)), t)


@intrinsic
def quantise32(typingctx, x, q, s, t):
    """int8 of the 32 floats at x; see `_quantise`."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        c = Code(builder)
        _quantise(c, c.load(args[0], V16F), c.load(c.at(args[0], 64), V16F), *args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), codegen


@intrinsic
def silu_quantise32(typingctx, gu, q, s, t):
    """silu(gate) * up as int8; gu is 16 gates, 16 ups, 16 gates, 16 ups."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        c = Code(builder)
        b = builder
        halves = []
        for h in (0, 128):
            gate = c.load(c.at(args[0], h), V16F)
            up = c.load(c.at(args[0], h + 64), V16F)
            down = b.fadd(c.exp(b.fneg(gate)), c.all(V16F, 1.0))
            halves.append(b.fmul(b.fdiv(gate, down), up))
        _quantise(c, *halves, *args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), codegen


# ---------------------------------------------------------------- attention


@intrinsic
def exp_sum16(typingctx, at, top, steps):
    """X -> e^(x - top) in place for `steps` vectors of 16 floats; their sum."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        c = Code(builder)
        at, top, steps = args
        high = c.splat(top, 16)

        def step(i: Any, total: Any) -> Sequence[Any]:
            place = builder.add(at, builder.mul(i, I64(64)))
            value = c.exp(builder.fsub(c.load(place, V16F), high))
            c.store(value, place)
            return [builder.fadd(total, value)]

        return c.sum(c.loop(steps, [c.all(V16F, 0.0)], step)[0])

    return types.float32(types.int64, types.float32, types.int64), codegen


@intrinsic
def dots4(typingctx, q, k, k_step, steps, out):
    """Inner products of q with 4 keys, `steps` vectors of 16 floats long, to 4 floats at out."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        c = Code(builder)
        q, k, k_step, steps, out = args
        keys = [builder.add(k, builder.mul(k_step, I64(n))) for n in range(4)]

        def step(i: Any, *sums: Any) -> Sequence[Any]:
            at = builder.mul(i, I64(64))
            x = c.load(builder.add(q, at), V16F)
            return [
                c.fma(x, c.load(builder.add(key, at), V16F), total)
                for key, total in zip(keys, sums, strict=True)
            ]

        sums = c.loop(steps, [c.all(V16F, 0.0)] * 4, step)
        for n, total in enumerate(sums):
            c.store(c.sum(total), c.at(out, 4 * n))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), codegen


@intrinsic
def weighted16(typingctx, p, v, v_step, fours, out):
    """out[0:16] += sum of p[i] * v[i, 0:16] over 4 * `fours` rows (`fours` > 0)."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        c = Code(builder)
        p, v, v_step, fours, out = args
        four_rows = builder.mul(v_step, I64(4))

        def step(i: Any, *sums: Any) -> Sequence[Any]:
            weights, row = builder.add(p, builder.mul(i, I64(16))), builder.mul(i, four_rows)
            made = []
            for n, total in enumerate(sums):
                at = builder.add(builder.add(v, row), builder.mul(v_step, I64(n)))
                share = c.splat(c.load(c.at(weights, 4 * n), F32), 16)
                made.append(c.fma(share, c.load(at, V16F), total))
            return made

        zero = c.all(V16F, 0.0)
        a, b, d, e = c.loop(fours, [c.load(out, V16F), zero, zero, zero], step)
        c.store(builder.fadd(builder.fadd(a, b), builder.fadd(d, e)), out)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), codegen


@intrinsic
def dot1(typingctx, q, k, steps):
    """Inner product of q with one key, `steps` vectors of 16 floats long."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        c = Code(builder)
        q, k, steps = args

        def step(i: Any, total: Any) -> Sequence[Any]:
            at = builder.mul(i, I64(64))
            x, y = c.load(builder.add(q, at), V16F), c.load(builder.add(k, at), V16F)
            return [c.fma(x, y, total)]

        return c.sum(c.loop(steps, [c.all(V16F, 0.0)], step)[0])

    return types.float32(types.int64, types.int64, types.int64), codegen


@intrinsic
def greatest16(typingctx, at, steps):
    """The greatest of `steps` vectors of 16 floats."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        c = Code(builder)
        at, steps = args

        def step(i: Any, top: Any) -> Sequence[Any]:
            value = c.load(builder.add(at, builder.mul(i, I64(64))), V16F)
            return [c.call("llvm.maxnum.v16f32", V16F, top, value)]

        top = c.loop(steps, [c.all(V16F, -1e30)], step)[0]
        return c.call("llvm.vector.reduce.fmax.v16f32", F32, top)

    return types.float32(types.int64, types.int64), codegen


@intrinsic
def norm16(typingctx, x, weight, eps, steps, out):
    """Root-mean-square norm of `steps` vectors of 16 floats."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        c = Code(builder)
        x, weight, eps, steps, out = args

        def square(i: Any, total: Any) -> Sequence[Any]:
            value = c.load(builder.add(x, builder.mul(i, I64(64))), V16F)
            return [c.fma(value, value, total)]

        total = c.sum(c.loop(steps, [c.all(V16F, 0.0)], square)[0])
        count = builder.sitofp(builder.mul(steps, I64(16)), F32)
        mean = builder.fadd(builder.fdiv(total, count), eps)
        root = c.call("llvm.sqrt.f32", F32, mean)
        scale = c.splat(builder.fdiv(F32(1.0), root), 16)

        def apply(i: Any) -> Sequence[Any]:
            at = builder.mul(i, I64(64))
            value = builder.fmul(c.load(builder.add(x, at), V16F), scale)
            value = builder.fmul(value, c.load(builder.add(weight, at), V16F))
            c.store(value, builder.add(out, at))
            return []

        c.loop(steps, [], apply)
        return context.get_dummy_value()

    kinds = (types.int64, types.int64, types.float32, types.int64, types.int64)
    return types.void(*kinds), codegen
