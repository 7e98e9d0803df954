"""The whole decoder as one function, run side by side by the threads of a team.

Knows arrays only. `forward` takes M rows (batch x new positions) from token ids to logits; the
members divide rows, heads or weight tiles among themselves and meet at a barrier between the
phases. Python is entered once a call instead of once an operation, which is what makes a small
decoder fast. Sizes are checked by the caller: nothing here looks at bounds.

Numerics: weights times activations in integers, with one scale for each 32 activations; sums,
norms, rotary positions, softmax and the stream between the layers in float32. A row's result does
not depend on the rows beside it nor on the number of threads.
"""

from __future__ import annotations

import math
import os

from numba import njit, types

from anybind.core_model.fast.atomics import atomic_add, atomic_load, atomic_store, breathe
from anybind.core_model.fast.products import tile4_1, tile4_4, tile8_1, tile8_4
from anybind.core_model.fast.simd import (
    dot1,
    dots4,
    exp_sum16,
    greatest16,
    norm16,
    quantise32,
    silu_quantise32,
    weighted16,
)
from anybind.core_model.fast.vectors import host_sets

if hasattr(os, "sched_yield"):
    _yield = types.ExternalFunction("sched_yield", types.int32())
else:
    _yield = types.ExternalFunction("SwitchToThread", types.int32())

__all__ = ["forward", "host_sets"]

# No fast maths: the compiler makes several copies of a loop, and all of them must agree to the bit.
# Where the order of a sum is free, `simd.py` fixes one that is fast.
_OPTIONS = {
    "cache": True,
    "nogil": True,
    "error_model": "numpy",
}
_SPINS = 3000
"""Looks at the barrier before the processor is offered to others."""


@njit(**_OPTIONS)
def meet(sync, threads):
    """Wait until all threads are here. Returns at once when the team gives up."""
    if threads == 1:
        return
    count = sync.ctypes.data
    turn = count + 64
    now = atomic_load(turn)
    if atomic_add(count, 1) == threads - 1:
        atomic_store(count, 0)
        atomic_store(turn, now + 1)
        return
    spins = 0
    while atomic_load(turn) == now:
        if atomic_load(count + 128) != 0:
            return
        breathe()
        spins += 1
        if spins > _SPINS:
            _yield()


@njit(**_OPTIONS)
def product(me, threads, isa, bits, rows, weights, tiles, groups, x, y, y_step, keep):
    """y[rows, tiles * 16] (+)= x * weights; x is (int8 twice, scale, scale * sum)."""
    xq, xs, xt = x
    x_step, g_step = xq.strides[0], xs.strides[0] // 4
    q_at, s_at, t_at = xq.ctypes.data, xs.ctypes.data, xt.ctypes.data
    size = groups * (320 if bits == 4 else 576)
    for tile in range(tiles * me // threads, tiles * (me + 1) // threads):
        w, at = weights + tile * size, y + tile * 64
        m = 0
        while m < rows:
            q, g, out = q_at + m * x_step, m * g_step * 4, at + m * y_step * 4
            s, t = s_at + g, t_at + g
            if m + 4 <= rows:
                if bits == 4:
                    tile4_4(isa, w, q, s, t, x_step, g_step, groups, out, y_step, keep)
                else:
                    tile8_4(isa, w, q, s, t, x_step, g_step, groups, out, y_step, keep)
                m += 4
            else:
                if bits == 4:
                    tile4_1(isa, w, q, s, t, x_step, g_step, groups, out, y_step, keep)
                else:
                    tile8_1(isa, w, q, s, t, x_step, g_step, groups, out, y_step, keep)
                m += 1


@njit(**_OPTIONS)
def quantise_row(source, groups, x, m):
    """int8 of the floats at `source` as row m of x."""
    xq, xs, xt = x
    q, g = xq.ctypes.data + m * xq.strides[0], m * xs.strides[0]
    for k in range(groups):
        s = g + 4 * k
        quantise32(source + k * 128, q + k * 64, xs.ctypes.data + s, xt.ctypes.data + s)


@njit(**_OPTIONS)
def norm_row(row, weight, eps, out):
    """Root-mean-square norm of one row."""
    norm16(row.ctypes.data, weight.ctypes.data, types.float32(eps), row.size // 16, out.ctypes.data)


@njit(**_OPTIONS)
def embed_row(weights, groups, token, row):
    """The embedding of a token, dequantised out of its tile (8 bits)."""
    tile, r = token // 16, token % 16
    for g in range(groups):
        at = (tile * groups + g) * 576
        scale = half_to_float(weights[at + 512 + 2 * r], weights[at + 513 + 2 * r])
        offset = half_to_float(weights[at + 544 + 2 * r], weights[at + 545 + 2 * r])
        for k in range(32):
            byte = types.float32(weights[at + (k // 4) * 64 + r * 4 + k % 4])
            row[g * 32 + k] = byte * scale + offset


@njit(**_OPTIONS)
def half_to_float(low, high):
    """float16, given as two bytes."""
    word = types.int32(low) | (types.int32(high) << 8)
    exponent, fraction = (word >> 10) & 31, word & 1023
    if exponent == 0:
        value = fraction * 2.0**-24
    else:
        value = (1.0 + fraction / 1024.0) * 2.0 ** (exponent - 15)
    return types.float32(-value if word & 0x8000 else value)


@njit(**_OPTIONS)
def rotate_row(x, cos, sin, half):
    """Rotary positions in place; `half`: pairs (j, j + D/2), else (2 j, 2 j + 1)."""
    for j in range(cos.size):
        a_at = j if half else 2 * j
        b_at = j + cos.size if half else 2 * j + 1
        a, b = x[a_at], x[b_at]
        x[a_at] = a * cos[j] - b * sin[j]
        x[b_at] = a * sin[j] + b * cos[j]


@njit(**_OPTIONS)
def attend(q, keys, values, low, high, scale, seen, scores, out):
    """Softmax attention of one query over positions low..high-1; (greatest score, sum of weights).

    `out` gets the weighted sum of the values, not divided. `seen` is the mask over positions, or
    empty for all.
    """
    width = q.size
    step, steps = keys.strides[0], width // 16
    count = high - low
    fast = width % 16 == 0
    whole = count - count % 4 if fast else 0
    q_at, k_at, s_at = q.ctypes.data, keys.ctypes.data + low * step, scores.ctypes.data
    for s in range(0, whole, 4):
        dots4(q_at, k_at + s * step, step, steps, s_at + 4 * s)
    for s in range(whole, count):
        if fast:
            scores[s] = dot1(q_at, k_at + s * step, steps)
        else:
            total = types.float32(0.0)
            for d in range(width):
                total += q[d] * keys[low + s, d]
            scores[s] = total
    for s in range(count):
        scores[s] *= scale
    if seen.size:
        for s in range(count):
            if not seen[low + s]:
                scores[s] = -1e30
    padded = (count + 15) // 16
    for s in range(count, padded * 16):
        scores[s] = -1e30
    out[:] = 0
    if count == 0:
        return types.float32(-1e30), types.float32(0.0)
    top = greatest16(s_at, padded)
    if top <= -1e29:
        return types.float32(-1e30), types.float32(0.0)
    total = exp_sum16(s_at, top, padded)
    if whole:
        for d in range(0, width, 16):
            weighted16(
                s_at, values.ctypes.data + low * step + 4 * d, step, whole // 4,
                out.ctypes.data + 4 * d,
            )  # fmt: skip
    for s in range(whole, count):
        for d in range(width):
            out[d] += scores[s] * values[low + s, d]
    return top, total


@njit(**_OPTIONS)
def merge(parts, chunks, width, out):
    """Join the shares of one head's attention."""
    top = parts[0, width]
    for c in range(1, chunks):
        top = max(top, parts[c, width])
    total = types.float32(0.0)
    out[:] = 0
    for c in range(chunks):
        weight = types.float32(math.exp(parts[c, width] - top))
        total += weight * parts[c, width + 1]
        for d in range(width):
            out[d] += weight * parts[c, d]
    for d in range(width):
        out[d] /= total


@njit(**_OPTIONS)
def enter(me, threads, sizes, rows, x, normed, a, weight, eps, inject, layer, given, bias):
    """Condition and bias onto the stream, its norm, and that as integers: rows."""
    dim, time = sizes[1], sizes[10]
    for m in range(me, rows, threads):
        row = x[m]
        if given:
            vector = inject[(m // time) % inject.shape[0], layer]
            for d in range(dim):
                row[d] += vector[d]
        if bias.size:
            for d in range(dim):
                row[d] += bias[d]
        norm_row(row, weight, eps, normed[m])
        quantise_row(normed[m].ctypes.data, dim // 32, a, m)


@njit(**_OPTIONS)
def place(me, threads, sizes, rows, positions, tables, bias, qkv, keys, values):
    """Biases and rotary positions; keys and values of a layer into the cache: heads."""
    _, _, heads, kv_heads, width, _, half, _, _, past, time, _ = sizes
    cos, sin = tables
    for unit in range(me, rows * (heads + kv_heads), threads):
        m, head = unit // (heads + kv_heads), unit % (heads + kv_heads)
        at = positions[m]
        part = qkv[m, head * width : (head + 1) * width]
        if bias.size:
            for d in range(width):
                part[d] += bias[head * width + d]
        rotate_row(part, cos[at], sin[at], half)
        if head >= heads:
            kv, slot, row = head - heads, past + m % time, m // time
            key, value = keys[row, kv, slot], values[row, kv, slot]
            source = (heads + kv_heads + kv) * width
            for d in range(width):
                key[d] = part[d]
                value[d] = qkv[m, source + d]
            if bias.size:
                for d in range(width):
                    value[d] += bias[source + d]


@njit(**_OPTIONS)
def look(me, threads, sizes, rows, starts, mask, qkv, keys, values, scores, parts):
    """Attention of a layer: heads, and shares of the positions when there are few rows."""
    _, _, heads, kv_heads, width, _, _, _, _, past, time, chunks = sizes
    share = heads // kv_heads
    scale = types.float32(1.0 / math.sqrt(width))
    for unit in range(me, rows * kv_heads * chunks, threads):
        m, rest = unit // (kv_heads * chunks), unit % (kv_heads * chunks)
        kv, chunk = rest // chunks, rest % chunks
        row, slot = m // time, past + m % time
        # A padding query sees itself, or its softmax would be over nothing.
        first, last = min(starts[row], slot), slot + 1
        seen = mask[0, 0]
        if mask.size:
            first, last = 0, past + time
            seen = mask[row % mask.shape[0], m % time]
        count = last - first
        low, high = first + count * chunk // chunks, first + count * (chunk + 1) // chunks
        for head in range(kv * share, (kv + 1) * share):
            out = parts[m, head, chunk]
            out[width], out[width + 1] = attend(
                qkv[m, head * width : (head + 1) * width], keys[row, kv], values[row, kv],
                low, high, scale, seen, scores[me], out[:width],
            )  # fmt: skip


@njit(**_OPTIONS)
def join(me, threads, sizes, rows, parts, attended, a):
    """The shares of each head as one, and that as integers: rows."""
    heads, width, chunks = sizes[2], sizes[4], sizes[11]
    for m in range(me, rows, threads):
        for head in range(heads):
            merge(parts[m, head], chunks, width, attended[m, head * width : (head + 1) * width])
        quantise_row(attended[m].ctypes.data, heads * width // 32, a, m)


@njit(**_OPTIONS)
def feed(me, threads, isa, bits, sizes, rows, weights, bias, a, mine, h):
    """Gate and up, 32 columns (4 tiles) at a time, and at once their product as integers."""
    dim_groups, ffn = sizes[1] // 32, sizes[5]
    units, size = ffn // 32, 4 * (sizes[1] // 32) * (320 if bits == 4 else 576)
    hq, hs, ht = h
    no, yes = types.int64(0), types.int64(1)
    for unit in range(units * me // threads, units * (me + 1) // threads):
        product(
            no, yes, isa, bits, rows, weights + unit * size, types.int64(4), dim_groups, a,
            mine.ctypes.data, types.int64(64), no,
        )  # fmt: skip
        for m in range(rows):
            if bias.size:
                for d in range(64):
                    # 16 gates, 16 ups, 16 gates, 16 ups
                    mine[m, d] += bias[(d // 16 % 2) * ffn + unit * 32 + (d // 32) * 16 + d % 16]
            g = m * hs.strides[0] + 4 * unit
            silu_quantise32(
                mine.ctypes.data + m * 256, hq.ctypes.data + m * hq.strides[0] + unit * 64,
                hs.ctypes.data + g, ht.ctypes.data + g,
            )  # fmt: skip


@njit(**_OPTIONS)
def forward(
    me, threads, sync, isa, bits, sizes, eps, weights, places, norms, biases, tables,
    tokens, rows, positions, starts, inject, mask, keys, values, scratch, outputs, logits,
):  # fmt: skip
    """Token ids to logits; see `decoder.py` for the arguments."""
    layers, dim, heads, kv_heads, width, ffn, half, has_bias, site, past, time, chunks = sizes
    x, normed, qkv, attended, parts, scores, gates, a, h = scratch
    base = weights.ctypes.data
    # Typed, or numba would compile `product` once for each constant.
    no, yes = types.int64(0), types.int64(1)
    dim_groups, q_width, kv_width = dim // 32, heads * width, kv_heads * width
    qkv_tiles = (q_width + 2 * kv_width + 15) // 16
    for m in range(me, rows, threads):
        embed_row(weights[places[layers, 1] :], dim_groups, tokens[m], x[m])
    # Where the biases of wo, of w1 and w3, and of w2 begin.
    wo_at = q_width + 2 * kv_width if has_bias else 0
    w1_at = wo_at + dim if has_bias else 0
    w2_at = w1_at + 2 * ffn if has_bias else 0
    for layer in range(layers):
        bias = biases[layer] if has_bias else biases[0]
        # The bias of w2 belongs to the layer before.
        late = biases[max(layer - 1, 0), w2_at : w2_at + dim * has_bias * min(layer, 1)]
        enter(
            me, threads, sizes, rows, x, normed, a, norms[2 * layer], eps, inject, layer,
            site == 1, late,
        )  # fmt: skip
        meet(sync, threads)
        product(
            me, threads, isa, bits, rows, base + places[layer, 0], qkv_tiles, dim_groups, a,
            qkv.ctypes.data, qkv.shape[1], no,
        )  # fmt: skip
        meet(sync, threads)
        place(
            me, threads, sizes, rows, positions, tables, bias[:wo_at], qkv, keys[layer],
            values[layer],
        )  # fmt: skip
        meet(sync, threads)
        look(me, threads, sizes, rows, starts, mask, qkv, keys[layer], values[layer], scores, parts)
        meet(sync, threads)
        join(me, threads, sizes, rows, parts, attended, a)
        meet(sync, threads)
        product(
            me, threads, isa, bits, rows, base + places[layer, 1], dim // 16, q_width // 32, a,
            x.ctypes.data, dim, yes,
        )  # fmt: skip
        meet(sync, threads)
        enter(
            me, threads, sizes, rows, x, normed, a, norms[2 * layer + 1], eps, inject, layer,
            site == 2, bias[wo_at:w1_at],
        )  # fmt: skip
        meet(sync, threads)
        feed(
            me, threads, isa, bits, sizes, rows, base + places[layer, 2], bias[w1_at:w2_at], a,
            gates[me], h,
        )  # fmt: skip
        meet(sync, threads)
        product(
            me, threads, isa, bits, rows, base + places[layer, 3], dim // 16, ffn // 32, h,
            x.ctypes.data, dim, yes,
        )  # fmt: skip
        meet(sync, threads)
    for i in range(me, outputs.size, threads):
        m = outputs[i]
        if has_bias:
            for d in range(dim):
                x[m, d] += biases[layers - 1, w2_at + d]
        norm_row(x[m], norms[2 * layers], eps, normed[m])
        quantise_row(normed[m].ctypes.data, dim_groups, a, i)
    meet(sync, threads)
    if outputs.size:
        product(
            me, threads, isa, types.int64(8), outputs.size, base + places[layers, 0], logits.shape[1] // 16,
            dim_groups, a, logits.ctypes.data, logits.shape[1], no,
        )  # fmt: skip
    meet(sync, threads)
