"""How a query and its neighbours become one embedding. Arrays only: no index, no file.

`sims` [B, k] are inner products, `values` [B, k, C] the neighbours' rows, `found` [B, k] whether
there is a neighbour at all (an index may know fewer than k).
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from anybind.errors import UserError

Mode = Literal["released", "paper", "paper-normalised"]
MODES: tuple[str, ...] = get_args(Mode)

_EPS = 1e-12


def unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows [..., C] at L2 norm 1; rows of zeros stay zeros."""
    return (rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), _EPS)).astype(
        np.float32
    )


def combine(
    query: NDArray[np.float32],
    sims: NDArray[np.float32],
    values: NDArray[np.float32],
    found: NDArray[np.bool_],
    *,
    mode: Mode,
    weight: float,
    temperature: float,
) -> NDArray[np.float32]:
    """Queries [B, C] pulled toward their neighbours [B, C].

    - "released": `c = norm(sum_i softmax(t s)_i v_i)`, `norm((1 - w) f + w c)`.
    - "paper" (equations 3 and 4): `(1 - w) f + w sum_i s_i v_i`. Its norm grows with k.
    - "paper-normalised": the sum divided by `sum_i |s_i|`, so that its scale is independent of k.

    A row without any neighbour is `f`, in "released" at norm 1.

    Raises:
        UserError: an unknown mode.
    """
    some = found.any(1, keepdims=True)
    w = np.where(some, np.float32(weight), np.float32(0))
    if mode == "released":
        logits = np.where(found, sims * temperature, -np.inf)
        top = np.where(some, logits.max(1, keepdims=True), 0)
        share = np.exp(logits - top)
        share /= np.maximum(share.sum(1, keepdims=True), _EPS)
        retrieved = unit(np.einsum("bk,bkc->bc", share, values))
        return unit((1 - w) * query + w * retrieved)
    share = np.where(found, sims, 0)
    if mode == "paper-normalised":
        share = share / np.maximum(np.abs(share).sum(1, keepdims=True), 1e-6)
    elif mode != "paper":
        raise UserError(f"No cache mode {mode!r}; one of: {', '.join(MODES)}.")
    retrieved = np.einsum("bk,bkc->bc", share, values)
    return ((1 - w) * query + w * retrieved).astype(np.float32)
