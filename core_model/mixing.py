"""Mixing joint embeddings by weight (paper 4.4.2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anybind.content import Embedding
from anybind.errors import UserError


def mix(embeddings: Sequence[Embedding], weights: Sequence[float] | None = None) -> Embedding:
    """`sum w_i f_i / (sum w_i + 1e-6)` of unit-norm embeddings; not normalised again.

    The raw head outputs, where all have them, are mixed alike (for generators).

    Raises:
        UserError: nothing to mix, different spaces, or weights that make no mixture.
    """
    if not embeddings:
        raise UserError("There is nothing to mix: give at least one embedding.")
    used = [1.0] * len(embeddings) if weights is None else [float(w) for w in weights]
    if len(used) != len(embeddings):
        raise UserError(f"{len(used)} weights for {len(embeddings)} embeddings.")
    if any(not np.isfinite(w) or w < 0 for w in used) or sum(used) <= 0:
        raise UserError("Mixing weights must be 0 or more, and not all 0.")
    spaces = {e.space for e in embeddings}
    if len(spaces) > 1:
        raise UserError(f"Embeddings of different spaces never mix: {', '.join(sorted(spaces))}.")
    total = sum(used) + 1e-6
    mixed = sum(w / total * e.data for w, e in zip(used, embeddings, strict=True))
    made = Embedding.of(np.asarray(mixed, dtype=np.float32), made_by="mix")
    raws = [e.raw for e in embeddings]
    raw = None
    if all(r is not None for r in raws):
        raw = np.asarray(
            sum(w / total * r for w, r in zip(used, raws, strict=True) if r is not None),
            dtype=np.float32,
        )
    sources = tuple(name for e in embeddings for name in e.provenance.sources)
    return _with(made, spaces.pop(), raw, sources)


def _with(
    embedding: Embedding, space: str, raw: np.ndarray | None, sources: tuple[str, ...]
) -> Embedding:
    from dataclasses import replace

    from anybind.content import Provenance

    return replace(embedding, space=space, raw=raw, provenance=Provenance("mix", sources))
