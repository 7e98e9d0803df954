"""Weights in 4 and 8 bits: quantised, packed into the tiles that the kernels read, and back.

Knows matrices and nothing of a decoder. A group is 32 input columns of one row; in it
w = scale * q + offset, with q in 0..15 or 0..255 and scale and offset in float16. GGML's types
Q4_1, Q4_0 (offset = -8 scale) and Q8_0 (q + 128, offset = -128 scale) are of this form and taken
over as they are. The layout of a tile is described in `products.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anybind.errors import ModelError

ROWS, GROUP = 16, 32
TILE_BYTES = {4: 4 * 64 + 64, 8: 8 * 64 + 64}
"""Bytes of a tile for each group of columns."""
_CHUNK = 1 << 22
"""Weights quantised at a time, so that the float copies stay small."""


@dataclass(frozen=True)
class Blocks:
    """A quantised matrix before packing."""

    bits: int
    q: NDArray[np.uint8]
    """[rows, cols]: 0..15 or 0..255."""
    scale: NDArray[np.float16]
    """[rows, cols / 32]."""
    offset: NDArray[np.float16]
    """As `scale`."""

    def dequantise(self) -> NDArray[np.float32]:
        """The weights that the matrix stands for, [rows, cols]."""
        rows, cols = self.q.shape
        groups = self.q.reshape(rows, cols // GROUP, GROUP).astype(np.float32)
        groups *= self.scale.astype(np.float32)[..., None]
        groups += self.offset.astype(np.float32)[..., None]
        return groups.reshape(rows, cols)


@dataclass(frozen=True)
class Packed:
    """A quantised matrix in tiles."""

    bits: int
    rows: int
    """Real rows; tiles are filled up with rows of zeros."""
    cols: int
    data: NDArray[np.uint8]
    """[tiles, groups, TILE_BYTES]."""

    def blocks(self) -> Blocks:
        """The quantised matrix again."""
        tiles, groups, _ = self.data.shape
        body, side = self.data[..., : self.bits * 64], self.data[..., self.bits * 64 :]
        body = body.reshape(tiles, groups, self.bits, ROWS, 4)
        if self.bits == 4:
            body = np.concatenate((body & np.uint8(15), body >> np.uint8(4)), 2)
        q = body.transpose(0, 3, 1, 2, 4).reshape(tiles * ROWS, groups * GROUP)[: self.rows]
        halves = np.ascontiguousarray(side).view(np.float16)
        halves = halves.reshape(tiles, groups, -1, ROWS).transpose(2, 0, 3, 1)
        halves = halves.reshape(len(halves), tiles * ROWS, groups)[:, : self.rows]
        return Blocks(self.bits, q, halves[0], halves[1])

    def dequantise(self) -> NDArray[np.float32]:
        """The weights, [rows, cols]."""
        return self.blocks().dequantise()


def quantise(weight: Tensor, bits: int) -> Blocks:
    """The nearest 4- or 8-bit matrix of a float matrix [rows, cols].

    Raises:
        ModelError: the columns are no multiple of 32, or a weight is not finite.
    """
    rows, cols = weight.shape
    if cols % GROUP:
        raise ModelError(f"Quantisation needs widths that are multiples of {GROUP}, not {cols}.")
    step = max(1, _CHUNK // cols)
    parts = [_quantise(weight[i : i + step], bits) for i in range(0, rows, step)]
    return parts[0] if len(parts) == 1 else stack(parts)


@torch.no_grad()
def _quantise(weight: Tensor, bits: int) -> Blocks:
    groups = weight.detach().to("cpu", torch.float32).unflatten(1, (-1, GROUP))
    if not torch.isfinite(groups).all():
        raise ModelError("A weight is not a finite number; the checkpoint may be damaged.")
    most, low = 2**bits - 1, groups.amin(-1)
    scale, offset = ((groups.amax(-1) - low) / most).half(), low.half()
    codes = _codes(groups, scale, offset, most)
    # Least squares for scale and offset under these codes, then the codes once more: a little
    # nearer, and exact where the weights were such a matrix before.
    mean_q, mean_w = codes.mean(-1), groups.mean(-1)
    spread = (codes - mean_q[..., None]).square().mean(-1)
    both = ((codes - mean_q[..., None]) * (groups - mean_w[..., None])).mean(-1)
    fitted = torch.where(spread > 0, both / spread.clamp(min=1e-12), scale.float())
    scale2, offset2 = fitted.half(), (mean_w - fitted * mean_q).half()
    codes2 = _codes(groups, scale2, offset2, most)
    better = _error(groups, codes2, scale2, offset2) < _error(groups, codes, scale, offset)
    q = torch.where(better[..., None], codes2, codes).to(torch.uint8)
    scale, offset = torch.where(better, scale2, scale), torch.where(better, offset2, offset)
    if not (torch.isfinite(scale).all() and torch.isfinite(offset).all()):
        raise ModelError("A weight is too large for float16 scales.")
    return Blocks(bits, q.flatten(1).numpy(), scale.numpy(), offset.numpy())


def _codes(groups: Tensor, scale: Tensor, offset: Tensor, most: int) -> Tensor:
    step = scale.float()[..., None]
    whole = (groups - offset.float()[..., None]) / torch.where(step == 0, 1.0, step)
    return whole.round().clamp(0, most)


def _error(groups: Tensor, codes: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    back = codes * scale.float()[..., None] + offset.float()[..., None]
    return (back - groups).square().sum(-1)


def from_ggml(raw: NDArray[np.uint8], kind: str, rows: int, cols: int) -> Blocks | None:
    """The blocks of a GGML matrix that is in our form already (Q4_1, Q4_0, Q8_0), else None.

    Args:
        raw: The bytes of the matrix.
        kind: GGML's name of the type.
        rows: Output rows.
        cols: Input columns.
    """
    sizes = {"Q4_1": 20, "Q4_0": 18, "Q8_0": 34}
    if kind not in sizes:
        return None
    blocks = raw.reshape(rows, cols // GROUP, sizes[kind])

    def half(at: int) -> NDArray[np.float16]:
        return np.ascontiguousarray(blocks[..., at : at + 2]).view(np.float16)[..., 0]

    scale = half(0)
    if kind == "Q8_0":
        q8 = np.ascontiguousarray(blocks[..., 2:]) ^ np.uint8(128)
        return Blocks(8, q8.reshape(rows, cols), scale, scale * np.float16(-128))
    offset = half(2) if kind == "Q4_1" else scale * np.float16(-8)
    nibbles = blocks[..., 4 if kind == "Q4_1" else 2 :]
    q4 = np.concatenate((nibbles & np.uint8(15), nibbles >> np.uint8(4)), -1)
    return Blocks(4, q4.reshape(rows, cols), scale, offset)


def stack(parts: Sequence[Blocks]) -> Blocks:
    """Matrices of one input, one below the other."""
    return Blocks(
        parts[0].bits,
        np.concatenate([p.q for p in parts]),
        np.concatenate([p.scale for p in parts]),
        np.concatenate([p.offset for p in parts]),
    )


def interleave(a: Blocks, b: Blocks) -> Blocks:
    """Two matrices of one shape, tile by tile in turn."""

    def mixed(x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
        both = np.stack((x.reshape(-1, ROWS, x.shape[1]), y.reshape(-1, ROWS, y.shape[1])), 1)
        return both.reshape(-1, x.shape[1])

    return Blocks(a.bits, mixed(a.q, b.q), mixed(a.scale, b.scale), mixed(a.offset, b.offset))


def pack(blocks: Blocks) -> Packed:
    """Tiles of a quantised matrix."""
    rows, cols = blocks.q.shape
    tiles, groups, bits = -(-rows // ROWS), cols // GROUP, blocks.bits

    def padded(x: NDArray[Any]) -> NDArray[Any]:
        missing = -len(x) % ROWS
        return np.concatenate((x, np.zeros((missing, x.shape[1]), x.dtype))) if missing else x

    data = np.empty((tiles, groups, TILE_BYTES[bits]), np.uint8)
    step = max(1, _CHUNK // (ROWS * cols))
    for begin in range(0, tiles, step):
        part, some = data[begin : begin + step], slice(begin * ROWS, (begin + step) * ROWS)
        q = padded(blocks.q[some]).reshape(len(part), ROWS, groups, 8, 4)
        if bits == 4:
            q = q[:, :, :, :4] | (q[:, :, :, 4:] << 4)
        turned = np.ascontiguousarray(q.transpose(0, 2, 3, 1, 4))
        part[..., : bits * 64] = turned.reshape(len(part), groups, bits * 64)
        for i, side in enumerate((blocks.scale, blocks.offset)):
            halves = padded(side[some]).reshape(len(part), ROWS, groups).transpose(0, 2, 1)
            at = bits * 64 + 32 * i
            part[..., at : at + 32] = np.ascontiguousarray(halves).view(np.uint8)
    return Packed(bits, rows, cols, data)
