"""Packed weight tiles times quantised activations, as LLVM IR inlined by numba.

The products come in several instruction sets that give the same integers; which one runs is an
argument, so that tests can compare them. The portable one is plain LLVM vector arithmetic and
runs on any processor.

A **tile** is 16 output rows. Per group of 32 input columns it holds, contiguously,
- 8 bits: 8 vectors of 64 bytes; byte 4 r + i of vector j is q of row r, column 4 j + i;
- 4 bits: 4 such vectors; the low nibbles are columns 0..15, the high ones 16..31, as in GGML;
then 16 scales and 16 offsets (float16): w = scale * q + offset with q from 0 up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types

from anybind.core_model.fast.vectors import (
    AVX2,
    F32,
    HALF16,
    HOST,
    I32,
    I64,
    PORTABLE,
    V8I,
    V16F,
    V16I,
    V16S,
    V32B,
    V32S,
    V64B,
    VNNI256,
    VNNI512,
    Code,
    intrinsic,
)

ROWS = 16
GROUP = 32
BYTES = {4: 4 * 64 + 64, 8: 8 * 64 + 64}
"""Bytes of a tile per group of columns."""


def _dot_portable(c: Code, acc: Any, weights: Any, x: Any) -> Any:
    b = c.b
    w, v = b.bitcast(weights, V32S), b.bitcast(c.splat(x, 16), V32S)
    eight = c.all(V32S, 8)
    even = b.mul(b.and_(w, c.all(V32S, 255)), b.ashr(b.shl(v, eight), eight))
    odd = b.mul(b.lshr(w, eight), b.ashr(v, eight))
    for product in (even, odd):
        # |u8 * s8| fits 16 bits; the two halves of each 32-bit lane are added with sign.
        wide = b.bitcast(product, V16I)
        sixteen = c.all(V16I, 16)
        acc = b.add(acc, b.ashr(b.shl(wide, sixteen), sixteen))
        acc = b.add(acc, b.ashr(wide, sixteen))
    return acc


def _dot_avx2(bits: int) -> Callable[[Code, Any, Any, Any], Any]:
    def dot(c: Code, acc: Any, weights: Any, x: Any) -> Any:
        b = c.b
        halves = []
        for h in (0, 8):
            w, a = c.part(weights, h, 8), c.part(acc, h, 8)
            v = c.splat(x, 8)
            if bits == 4:
                pairs = c.call(
                    "llvm.x86.avx2.pmadd.ub.sw", V16S, b.bitcast(w, V32B), b.bitcast(v, V32B)
                )
                sums = [c.call("llvm.x86.avx2.pmadd.wd", V8I, pairs, c.all(V16S, 1))]
            else:
                # pmaddubsw would saturate: multiply bytes as 16-bit words, even and odd apart.
                w, v, eight = b.bitcast(w, V16S), b.bitcast(v, V16S), c.all(V16S, 8)
                even = (b.and_(w, c.all(V16S, 255)), b.ashr(b.shl(v, eight), eight))
                odd = (b.lshr(w, eight), b.ashr(v, eight))
                sums = [c.call("llvm.x86.avx2.pmadd.wd", V8I, *pair) for pair in (even, odd)]
            for s in sums:
                a = b.add(a, s)
            halves.append(a)
        return c.join(*halves)

    return dot


def _dot_vnni256(c: Code, acc: Any, weights: Any, x: Any) -> Any:
    b = c.b
    v = b.bitcast(c.splat(x, 8), V32B)
    halves = [
        c.call(
            "llvm.x86.avx512.vpdpbusd.256", V8I, c.part(acc, h, 8),
            b.bitcast(c.part(weights, h, 8), V32B), v,
        )
        for h in (0, 8)
    ]  # fmt: skip
    return c.join(*halves)


def _dot_vnni512(c: Code, acc: Any, weights: Any, x: Any) -> Any:
    b = c.b
    v = b.bitcast(c.splat(x, 16), V64B)
    return c.call("llvm.x86.avx512.vpdpbusd.512", V16I, acc, b.bitcast(weights, V64B), v)


def _dots(bits: int) -> dict[int, Any]:
    return {
        PORTABLE: _dot_portable,
        AVX2: _dot_avx2(bits),
        VNNI256: _dot_vnni256,
        VNNI512: _dot_vnni512,
    }


def _tile(c: Code, dot: Any, bits: int, columns: int, args: Any) -> None:
    """y[column, 0:16] (+)= tile * x[column] for a few columns."""
    b = c.b
    w, xq, xs, xt, x_step, g_step, groups, y, y_step, keep = args
    four = I64(4)
    x_at = [b.add(xq, b.mul(x_step, I64(n))) for n in range(columns)]
    side = [b.mul(b.mul(g_step, I64(n)), four) for n in range(columns)]
    y_at = [b.add(y, b.mul(b.mul(y_step, I64(n)), four)) for n in range(columns)]

    def group(g: Any, *sums: Any) -> Sequence[Any]:
        base = b.add(w, b.mul(g, I64(BYTES[bits])))
        xg = b.mul(g, I64(2 * GROUP))
        planes = [c.load(c.at(base, 64 * j), V16I) for j in range(bits)]
        if bits == 4:
            nibble = c.all(V64B, 15)
            raw = [b.bitcast(p, V64B) for p in planes]
            halves = [b.and_(p, nibble) for p in raw]
            halves += [b.and_(b.lshr(p, c.all(V64B, 4)), nibble) for p in raw]
            planes = [b.bitcast(p, V16I) for p in halves]
        scale = b.fpext(c.load(c.at(base, bits * 64), HALF16), V16F)
        offset = b.fpext(c.load(c.at(base, bits * 64 + 32), HALF16), V16F)
        out = []
        g4 = b.mul(g, four)
        for n in range(columns):
            place = b.add(side[n], g4)
            low = high = c.all(V16I, 0)
            at = b.add(x_at[n], xg)
            for j in range(8):
                high = dot(c, high, planes[j], c.load(c.at(at, 4 * j), I32))
                low = dot(c, low, planes[j], c.load(c.at(at, GROUP + 4 * j), I32))
            whole = b.sitofp(b.add(b.shl(high, c.all(V16I, 7)), low), V16F)
            one = b.fmul(scale, c.splat(c.load(b.add(xs, place), F32), 16))
            total = c.fma(one, whole, sums[n])
            shift = c.splat(c.load(b.add(xt, place), F32), 16)
            out.append(c.fma(offset, shift, total))
        return out

    sums = c.loop(groups, [c.all(V16F, 0.0)] * columns, group)
    for n in range(columns):
        old = c.load(y_at[n], V16F)
        kept = b.select(b.icmp_signed("!=", keep, I64(0)), old, c.all(V16F, 0.0))
        c.store(b.fadd(kept, sums[n]), y_at[n])


def _function(module: Any, bits: int, columns: int, kind: int) -> Any:
    """The product for one instruction set as a function of its own, made once a module."""
    name = f"anybind_tile_{bits}_{columns}_{kind}"
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * 10), name)
    function.linkage = "linkonce_odr"
    # Called from several places; copies in each would take long to compile and run no faster.
    function.attributes.add("noinline")
    function.attributes.add("nounwind")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    _tile(Code(builder), _dots(bits)[kind], bits, columns, function.args)
    builder.ret_void()
    return function


def _make_tile(bits: int, columns: int) -> Any:
    @intrinsic
    def tile(typingctx, isa, w, xq, xs, xt, x_step, g_step, groups, y, y_step, keep):
        signature = types.void(*[types.int64] * 11)

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            isa, rest = args[0], (*args[1:],)
            done = builder.append_basic_block("tile.done")
            other = builder.append_basic_block("tile.portable")
            switch = builder.switch(isa, other)
            for kind in HOST:
                if kind != PORTABLE:
                    block = builder.append_basic_block("tile.use")
                    switch.add_case(I64(kind), block)
                    builder.position_at_end(block)
                    builder.call(_function(builder.module, bits, columns, kind), rest)
                    builder.branch(done)
            builder.position_at_end(other)
            builder.call(_function(builder.module, bits, columns, PORTABLE), rest)
            builder.branch(done)
            builder.position_at_end(done)
            return context.get_dummy_value()

        return signature, codegen

    return tile


tile4_1, tile4_4 = _make_tile(4, 1), _make_tile(4, 4)
tile8_1, tile8_4 = _make_tile(8, 1), _make_tile(8, 4)
