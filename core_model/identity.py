"""Which base model weights are: a digest that survives conversion, to tell one base from another.

A sample of the weights is rounded to bfloat16 and hashed, so the same weights have one identity in
float32, float16 and bfloat16, in Meta's naming and in Hugging Face's, sharded or whole. Left out
are wq and wk (their rows are ordered differently in the two layouts) and the norms (an adapter
tunes them). Quantised weights have an identity of their own kind, which proves sameness but not
difference.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

EXACT, QUANTISED = "weights", "quantised"
_PARTS = ("attention.wv", "attention.wo", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3")
_ROWS, _COLUMNS = 16, 32


def identity(state: Mapping[str, Tensor], *, exact: bool = True) -> str:
    """ "KIND:HEX" of base weights in our names; "" where they can't be read (meta device).

    Args:
        state: Tensors of the base; others are not looked at.
        exact: Whether they are as trained, not quantised.
    """
    digest = hashlib.sha256()
    for name in identifying(state):
        tensor = state.get(name)
        if tensor is None or tensor.is_meta or tensor.dim() != 2:
            return ""
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(_sample(tensor).numpy().tobytes())
    return f"{EXACT if exact else QUANTISED}:{digest.hexdigest()[:32]}"


def identifying(names: Collection[str]) -> list[str]:
    """Which tensors an identity looks at, given the names of all."""
    numbers = (n.split(".")[1] for n in names if n.startswith("layers."))
    last = max((int(n) for n in numbers if n.isdigit()), default=0)
    layers = dict.fromkeys((0, last // 2, last))
    return [
        "tok_embeddings.weight",
        *(f"layers.{i}.{p}.weight" for i in layers for p in _PARTS),
    ]


def same(one: str, other: str) -> bool | None:
    """Whether two identities are of one base; None where that can't be told."""
    if not one or not other:
        return None
    if one == other:
        return True
    both_exact = one.startswith(EXACT + ":") and other.startswith(EXACT + ":")
    return False if both_exact else None


def _sample(tensor: Tensor) -> Tensor:
    """Evenly spaced rows and columns, in bfloat16, as 16-bit integers."""
    rows = torch.linspace(0, tensor.shape[0] - 1, min(_ROWS, tensor.shape[0])).long()
    columns = torch.linspace(0, tensor.shape[1] - 1, min(_COLUMNS, tensor.shape[1])).long()
    picked = tensor.detach()[rows.to(tensor.device)][:, columns.to(tensor.device)]
    return picked.to(torch.bfloat16).cpu().contiguous().view(torch.int16)
