"""Vector instructions for the decoder kernels, written as LLVM IR and inlined by numba.

Knows a little vector language and no model: multiply-add of packed weight tiles with int8
activations, quantisation of 32 floats, exponentials. Each tile product comes in several
instruction sets that give the same integers; which one runs is an argument, so that tests can
compare them. The portable one is plain LLVM vector arithmetic and runs on any processor.

A **tile** is 16 output rows. Per group of 32 input columns it holds, contiguously,
- 8 bits: 8 vectors of 64 bytes; byte 4 r + i of vector j is row r, column 4 j + i, plus 128;
  then 16 scales (float16);
- 4 bits: 4 such vectors; the low nibbles are columns 0..15, the high ones 16..31, as in GGML;
  then 16 scales and 16 offsets (float16): w = scale * q + offset.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

PORTABLE, AVX2, VNNI256, VNNI512 = 0, 1, 2, 3
ROWS = 16
GROUP = 32
BYTES = {4: 4 * 64 + 64, 8: 8 * 64 + 32}
"""Bytes of a tile per group of columns."""

_I1, _I8, _I16, _I32, _I64 = (ir.IntType(n) for n in (1, 8, 16, 32, 64))
_F32 = ir.FloatType()
_HALF16 = ir.VectorType(ir.HalfType(), 16)
_V16F, _V16I, _V8I = ir.VectorType(_F32, 16), ir.VectorType(_I32, 16), ir.VectorType(_I32, 8)
_V64B, _V32B, _V32S, _V16S = (
    ir.VectorType(_I8, 64),
    ir.VectorType(_I8, 32),
    ir.VectorType(_I16, 32),
    ir.VectorType(_I16, 16),
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


_HOST = host_sets()


# ---------------------------------------------------------------- a little vector language


class _Code:
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
        return self.b.add(address, ir.Constant(_I64, offset)) if offset else address

    def splat(self, scalar: Any, n: int) -> Any:
        kind = ir.VectorType(scalar.type, n)
        one = self.b.insert_element(ir.Constant(kind, ir.Undefined), scalar, _I32(0))
        zeros = ir.Constant(ir.VectorType(_I32, n), [0] * n)
        return self.b.shuffle_vector(one, ir.Constant(kind, ir.Undefined), zeros)

    def all(self, kind: Any, value: float | int) -> Any:
        return ir.Constant(kind, [value] * kind.count)

    def part(self, vector: Any, start: int, count: int) -> Any:
        picks = ir.Constant(ir.VectorType(_I32, count), list(range(start, start + count)))
        return self.b.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), picks)

    def join(self, low: Any, high: Any) -> Any:
        n = low.type.count * 2
        return self.b.shuffle_vector(
            low, high, ir.Constant(ir.VectorType(_I32, n), list(range(n)))
        )

    def call(self, name: str, result: Any, *args: Any) -> Any:
        kind = ir.FunctionType(result, [a.type for a in args])
        return self.b.call(cgutils.get_or_insert_function(self.b.module, kind, name), args)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        return self.call("llvm.fmuladd.v16f32", _V16F, a, b, c)

    def sum(self, vector: Any) -> Any:
        kind = ir.FunctionType(_F32, [_F32, vector.type])
        name = "llvm.vector.reduce.fadd.v16f32"
        function = cgutils.get_or_insert_function(self.b.module, kind, name)
        return self.b.call(function, [_F32(0.0), vector], fastmath=("reassoc",))

    def exp(self, x: Any) -> Any:
        """e^x of 16 floats to about 2e-7; arguments are held within what float32 can hold."""
        b = self.b
        x = self.call("llvm.minnum.v16f32", _V16F, x, self.all(_V16F, 88.0))
        x = self.call("llvm.maxnum.v16f32", _V16F, x, self.all(_V16F, -87.0))
        n = b.fmul(x, self.all(_V16F, 1.4426950408889634))
        n = self.call("llvm.nearbyint.v16f32", _V16F, n)
        r = self.fma(n, self.all(_V16F, -0.693359375), x)
        r = self.fma(n, self.all(_V16F, 2.12194440e-4), r)
        p = self.all(_V16F, 1.9875691500e-4)
        for c in (
            1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1,
        ):  # fmt: skip
            p = self.fma(p, r, self.all(_V16F, c))
        p = b.fadd(self.fma(p, b.fmul(r, r), r), self.all(_V16F, 1.0))
        power = b.add(b.fptosi(n, _V16I), self.all(_V16I, 127))
        return b.fmul(p, b.bitcast(b.shl(power, self.all(_V16I, 23)), _V16F))

    def loop(self, count: Any, carried: Sequence[Any], body: Callable[..., Sequence[Any]]) -> Any:
        """`for i in range(count)` (count > 0), values carried in registers."""
        b = self.b
        before = b.block
        head, after = b.append_basic_block("tile"), b.append_basic_block("tile.end")
        b.branch(head)
        b.position_at_end(head)
        i = b.phi(_I64)
        i.add_incoming(_I64(0), before)
        held = [b.phi(v.type) for v in carried]
        for phi, value in zip(held, carried, strict=True):
            phi.add_incoming(value, before)
        out = body(i, *held)
        following = b.add(i, _I64(1))
        i.add_incoming(following, b.block)
        for phi, value in zip(held, out, strict=True):
            phi.add_incoming(value, b.block)
        b.cbranch(b.icmp_signed("<", following, count), head, after)
        b.position_at_end(after)
        return out


# ---------------------------------------------------------------- integer products


def _dot_portable(c: _Code, acc: Any, weights: Any, x: Any) -> Any:
    b = c.b
    w, v = b.bitcast(weights, _V32S), b.bitcast(c.splat(x, 16), _V32S)
    eight = c.all(_V32S, 8)
    even = b.mul(b.and_(w, c.all(_V32S, 255)), b.ashr(b.shl(v, eight), eight))
    odd = b.mul(b.lshr(w, eight), b.ashr(v, eight))
    for product in (even, odd):
        # |u8 * s8| fits 16 bits; the two halves of each 32-bit lane are added with sign.
        wide = b.bitcast(product, _V16I)
        sixteen = c.all(_V16I, 16)
        acc = b.add(acc, b.ashr(b.shl(wide, sixteen), sixteen))
        acc = b.add(acc, b.ashr(wide, sixteen))
    return acc


def _dot_avx2(bits: int) -> Callable[[_Code, Any, Any, Any], Any]:
    def dot(c: _Code, acc: Any, weights: Any, x: Any) -> Any:
        b = c.b
        halves = []
        for h in (0, 8):
            w, a = c.part(weights, h, 8), c.part(acc, h, 8)
            v = c.splat(x, 8)
            if bits == 4:
                pairs = c.call(
                    "llvm.x86.avx2.pmadd.ub.sw", _V16S, b.bitcast(w, _V32B), b.bitcast(v, _V32B)
                )
                sums = [c.call("llvm.x86.avx2.pmadd.wd", _V8I, pairs, c.all(_V16S, 1))]
            else:
                # pmaddubsw would saturate: multiply bytes as 16-bit words, even and odd apart.
                w, v, eight = b.bitcast(w, _V16S), b.bitcast(v, _V16S), c.all(_V16S, 8)
                even = (b.and_(w, c.all(_V16S, 255)), b.ashr(b.shl(v, eight), eight))
                odd = (b.lshr(w, eight), b.ashr(v, eight))
                sums = [c.call("llvm.x86.avx2.pmadd.wd", _V8I, *pair) for pair in (even, odd)]
            for s in sums:
                a = b.add(a, s)
            halves.append(a)
        return c.join(*halves)

    return dot


def _dot_vnni256(c: _Code, acc: Any, weights: Any, x: Any) -> Any:
    b = c.b
    v = b.bitcast(c.splat(x, 8), _V32B)
    halves = [
        c.call(
            "llvm.x86.avx512.vpdpbusd.256", _V8I, c.part(acc, h, 8),
            b.bitcast(c.part(weights, h, 8), _V32B), v,
        )
        for h in (0, 8)
    ]  # fmt: skip
    return c.join(*halves)


def _dot_vnni512(c: _Code, acc: Any, weights: Any, x: Any) -> Any:
    b = c.b
    v = b.bitcast(c.splat(x, 16), _V64B)
    return c.call("llvm.x86.avx512.vpdpbusd.512", _V16I, acc, b.bitcast(weights, _V64B), v)


def _dots(bits: int) -> dict[int, Any]:
    return {
        PORTABLE: _dot_portable,
        AVX2: _dot_avx2(bits),
        VNNI256: _dot_vnni256,
        VNNI512: _dot_vnni512,
    }


def _tile(c: _Code, dot: Any, bits: int, columns: int, args: Any) -> None:
    """y[column, 0:16] (+)= tile * x[column] for a few columns."""
    b = c.b
    w, xq, xs, xt, xi, x_step, g_step, groups, y, y_step, keep = args
    four = _I64(4)
    x_at = [b.add(xq, b.mul(x_step, _I64(n))) for n in range(columns)]
    side = [b.mul(b.mul(g_step, _I64(n)), four) for n in range(columns)]
    y_at = [b.add(y, b.mul(b.mul(y_step, _I64(n)), four)) for n in range(columns)]

    def group(g: Any, *sums: Any) -> Sequence[Any]:
        base = b.add(w, b.mul(g, _I64(BYTES[bits])))
        xg = b.mul(g, _I64(GROUP))
        planes = [c.load(c.at(base, 64 * j), _V16I) for j in range(bits)]
        if bits == 4:
            low = c.all(_V64B, 15)
            raw = [b.bitcast(p, _V64B) for p in planes]
            halves = [b.and_(p, low) for p in raw]
            halves += [b.and_(b.lshr(p, c.all(_V64B, 4)), low) for p in raw]
            planes = [b.bitcast(p, _V16I) for p in halves]
        scale = b.fpext(c.load(c.at(base, bits * 64), _HALF16), _V16F)
        offset = None
        if bits == 4:
            offset = b.fpext(c.load(c.at(base, bits * 64 + 32), _HALF16), _V16F)
        out = []
        g4 = b.mul(g, four)
        for n in range(columns):
            place = b.add(side[n], g4)
            if bits == 8:
                # The stored bytes are w + 128: begin at -128 * sum(x).
                acc = c.splat(c.load(b.add(xi, place), _I32), 16)
            else:
                acc = c.all(_V16I, 0)
            second = c.all(_V16I, 0)
            at = b.add(x_at[n], xg)
            for j in range(0, 8, 2):
                acc = dot(c, acc, planes[j], c.load(c.at(at, 4 * j), _I32))
                second = dot(c, second, planes[j + 1], c.load(c.at(at, 4 * j + 4), _I32))
            whole = b.sitofp(b.add(acc, second), _V16F)
            one = b.fmul(scale, c.splat(c.load(b.add(xs, place), _F32), 16))
            total = c.fma(one, whole, sums[n])
            if bits == 4:
                total = c.fma(offset, c.splat(c.load(b.add(xt, place), _F32), 16), total)
            out.append(total)
        return out

    sums = c.loop(groups, [c.all(_V16F, 0.0)] * columns, group)
    for n in range(columns):
        old = c.load(y_at[n], _V16F)
        kept = b.select(b.icmp_signed("!=", keep, _I64(0)), old, c.all(_V16F, 0.0))
        c.store(b.fadd(kept, sums[n]), y_at[n])


def _make_tile(bits: int, columns: int) -> Any:
    @intrinsic
    def tile(typingctx, isa, w, xq, xs, xt, xi, x_step, g_step, groups, y, y_step, keep):  # noqa: ANN001, ANN202
        signature = types.void(*[types.int64] * 12)

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            isa, rest = args[0], args[1:]
            c = _Code(builder)
            done = builder.append_basic_block("tile.done")
            for kind in sorted(_HOST, reverse=True):
                if kind == PORTABLE:
                    break
                use = builder.append_basic_block("use")
                other = builder.append_basic_block("other")
                builder.cbranch(builder.icmp_signed("==", isa, _I64(kind)), use, other)
                builder.position_at_end(use)
                _tile(c, _dots(bits)[kind], bits, columns, rest)
                builder.branch(done)
                builder.position_at_end(other)
            _tile(c, _dots(bits)[PORTABLE], bits, columns, rest)
            builder.branch(done)
            builder.position_at_end(done)
            return context.get_dummy_value()

        return signature, codegen

    return tile


tile4_1, tile4_4 = _make_tile(4, 1), _make_tile(4, 4)
tile8_1, tile8_4 = _make_tile(8, 1), _make_tile(8, 4)


# ---------------------------------------------------------------- activations


def _quantise(c: _Code, low: Any, high: Any, q: Any, s: Any, t: Any, i: Any) -> None:
    """32 floats in two vectors -> int8 at q, scale at s, scale * sum at t, -128 * sum at i."""
    b = c.b
    big = c.call(
        "llvm.maxnum.v16f32", _V16F, c.call("llvm.fabs.v16f32", _V16F, low),
        c.call("llvm.fabs.v16f32", _V16F, high),
    )  # fmt: skip
    top = c.call("llvm.vector.reduce.fmax.v16f32", _F32, big)
    scale = b.fmul(top, _F32(1.0 / 127.0))
    some = b.fcmp_ordered(">", top, _F32(1e-30))
    inverse = b.select(some, b.fdiv(_F32(127.0), top), _F32(0.0))
    inverse = c.splat(inverse, 16)
    ints = []
    for half in (low, high):
        near = c.call("llvm.rint.v16f32", _V16F, b.fmul(half, inverse))
        ints.append(b.fptosi(near, _V16I))
    total = c.call("llvm.vector.reduce.add.v16i32", _I32, b.add(*ints))
    for n, value in enumerate(ints):
        c.store(b.trunc(value, ir.VectorType(_I8, 16)), c.at(q, 16 * n))
    c.store(scale, s)
    c.store(b.fmul(scale, b.sitofp(total, _F32)), t)
    c.store(b.mul(total, _I32(-128)), i)


@intrinsic
def quantise32(typingctx, x, q, s, t, i):  # noqa: ANN001, ANN201
    """int8 of the 32 floats at x; see `_quantise`."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        c = _Code(builder)
        _quantise(c, c.load(args[0], _V16F), c.load(c.at(args[0], 64), _V16F), *args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), codegen


@intrinsic
def silu_quantise32(typingctx, gu, q, s, t, i):  # noqa: ANN001, ANN201
    """silu(gate) * up as int8; gu is 16 gates, 16 ups, 16 gates, 16 ups."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        c = _Code(builder)
        b = builder
        halves = []
        for h in (0, 128):
            gate = c.load(c.at(args[0], h), _V16F)
            up = c.load(c.at(args[0], h + 64), _V16F)
            down = b.fadd(c.exp(b.fneg(gate)), c.all(_V16F, 1.0))
            halves.append(b.fmul(b.fdiv(gate, down), up))
        _quantise(c, *halves, *args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), codegen


# ---------------------------------------------------------------- attention


@intrinsic
def exp_sum16(typingctx, at, top, steps):  # noqa: ANN001, ANN201
    """x -> e^(x - top) in place for `steps` vectors of 16 floats; their sum."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        c = _Code(builder)
        at, top, steps = args
        high = c.splat(top, 16)

        def step(i: Any, total: Any) -> Sequence[Any]:
            place = builder.add(at, builder.mul(i, _I64(64)))
            value = c.exp(builder.fsub(c.load(place, _V16F), high))
            c.store(value, place)
            return [builder.fadd(total, value)]

        return c.sum(c.loop(steps, [c.all(_V16F, 0.0)], step)[0])

    return types.float32(types.int64, types.float32, types.int64), codegen


# ---------------------------------------------------------------- threads


@intrinsic
def atomic_add(typingctx, at, amount):  # noqa: ANN001, ANN201
    """Add to the int64 at an address; what was there before."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        at = builder.inttoptr(args[0], _I64.as_pointer())
        return builder.atomic_rmw("add", at, args[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def atomic_load(typingctx, at):  # noqa: ANN001, ANN201
    """The int64 at an address."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        at = builder.inttoptr(args[0], _I64.as_pointer())
        return builder.load_atomic(at, "seq_cst", 8, typ=_I64)

    return types.int64(types.int64), codegen


@intrinsic
def atomic_store(typingctx, at, value):  # noqa: ANN001, ANN201
    """Write the int64 at an address."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        at = builder.inttoptr(args[0], _I64.as_pointer())
        builder.store_atomic(args[1], at, "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def breathe(typingctx):  # noqa: ANN001, ANN201
    """Tell the processor that this is a waiting loop."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if "x86" in llvm.get_process_triple() or "i686" in llvm.get_process_triple():
            kind = ir.FunctionType(ir.VoidType(), [])
            pause = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause")
            builder.call(pause, [])
        return context.get_dummy_value()

    return types.void(), codegen


# ---------------------------------------------------------------- attention, continued


@intrinsic
def dots4(typingctx, q, k, k_step, steps, out):  # noqa: ANN001, ANN201
    """Inner products of q with 4 keys, `steps` vectors of 16 floats long, to 4 floats at out."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        c = _Code(builder)
        q, k, k_step, steps, out = args
        keys = [builder.add(k, builder.mul(k_step, _I64(n))) for n in range(4)]

        def step(i: Any, *sums: Any) -> Sequence[Any]:
            at = builder.mul(i, _I64(64))
            x = c.load(builder.add(q, at), _V16F)
            return [
                c.fma(x, c.load(builder.add(key, at), _V16F), total)
                for key, total in zip(keys, sums, strict=True)
            ]

        sums = c.loop(steps, [c.all(_V16F, 0.0)] * 4, step)
        for n, total in enumerate(sums):
            c.store(c.sum(total), c.at(out, 4 * n))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), codegen


@intrinsic
def weighted16(typingctx, p, v, v_step, fours, out):  # noqa: ANN001, ANN201
    """out[0:16] += sum of p[i] * v[i, 0:16] over 4 * `fours` rows (`fours` > 0)."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        c = _Code(builder)
        p, v, v_step, fours, out = args
        four_rows = builder.mul(v_step, _I64(4))

        def step(i: Any, *sums: Any) -> Sequence[Any]:
            weights, row = builder.add(p, builder.mul(i, _I64(16))), builder.mul(i, four_rows)
            made = []
            for n, total in enumerate(sums):
                at = builder.add(builder.add(v, row), builder.mul(v_step, _I64(n)))
                share = c.splat(c.load(c.at(weights, 4 * n), _F32), 16)
                made.append(c.fma(share, c.load(at, _V16F), total))
            return made

        zero = c.all(_V16F, 0.0)
        a, b, d, e = c.loop(fours, [c.load(out, _V16F), zero, zero, zero], step)
        c.store(builder.fadd(builder.fadd(a, b), builder.fadd(d, e)), out)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), codegen
