"""Arithmetic of joint embeddings: mixing by weight (paper 4.4.2), sums, differences, ways between.

All functions take embeddings of one space and give one of that space. The raw head outputs, which
generators want, are treated alike where all of them have one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from anybind.content import Embedding, Provenance
from anybind.errors import UserError

RAW_DIVISORS: Mapping[str, float] = {"point": 5.0}
"""By modality, what its raw output is divided by before raw outputs are mixed: that of the point
encoder is about five times as long as those of ImageBind (`point_scale` of the released code)."""

_NOTHING = 1e-6
"""A norm below this has no direction."""


class Retrieval(Protocol):
    """The part of a retrieval cache that is needed here."""

    def apply(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rows [N, C] pulled toward stored features."""
        ...


def mix(
    embeddings: Sequence[Embedding],
    weights: Sequence[float] | None = None,
    *,
    raw_divisors: Mapping[str, float] = RAW_DIVISORS,
) -> Embedding:
    """`sum w_i f_i / (sum w_i + 1e-6)` of unit-norm embeddings; not normalised again.

    The raw head outputs, where all have them, are mixed alike (for generators), each divided
    first as `raw_divisors` says for the modality it comes from.

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
    total = sum(used) + 1e-6
    shares = [w / total for w in used]
    return _combined(embeddings, shares, "mix", unit=False, raw_divisors=raw_divisors)


def add(*embeddings: Embedding) -> Embedding:
    """The direction of the sum, at unit norm.

    Raises:
        UserError: fewer than two, different spaces, or they cancel out.
    """
    if len(embeddings) < 2:
        raise UserError("A sum needs at least two embeddings.")
    return _combined(embeddings, [1.0] * len(embeddings), "add")


def subtract(a: Embedding, b: Embedding) -> Embedding:
    """The direction of `a - b`, at unit norm.

    Raises:
        UserError: different spaces, or nothing is left.
    """
    return _combined((a, b), (1.0, -1.0), "subtract")


def interpolate(a: Embedding, b: Embedding, t: float, *, spherical: bool = False) -> Embedding:
    """The embedding at `t` of the way from `a` (0) to `b` (1), at unit norm.

    Along the straight line between them or, `spherical`, along the great circle at even speed:
    `sin((1-t) w) / sin(w) a + sin(t w) / sin(w) b` with `w` the angle between them.

    Raises:
        UserError: `t` lies outside 0..1, different spaces, or the two are opposite.
    """
    if not 0 <= t <= 1:  # also NaN
        raise UserError(f"t lies between 0 and 1, not {t}.")
    shares = (1 - t, t)
    if spherical:
        _same_space((a, b))
        cosine = float(np.clip(_unit(a.data) @ _unit(b.data), -1, 1))
        angle = float(np.arccos(cosine))
        if angle > np.pi - 1e-3:
            raise UserError("The two embeddings are opposite: no one way leads between them.")
        if angle > 1e-4:  # closer together, circle and line are the same
            shares = (np.sin((1 - t) * angle) / np.sin(angle), np.sin(t * angle) / np.sin(angle))
    return _combined((_normalised(a), _normalised(b)), shares, "interpolate")


def generator_feature(
    embeddings: Sequence[Embedding],
    weights: Sequence[float] | None = None,
    *,
    cache: Retrieval | None = None,
    raw_divisors: Mapping[str, float] = RAW_DIVISORS,
) -> NDArray[np.float32]:
    """What an unCLIP generator of ImageBind's own space is given, [C]: raw outputs, mixed.

    With a cache: brought to unit norm, pulled, brought to unit norm again, and to its old length.
    (What the released any-to-image code computes.)

    Raises:
        UserError: as `mix`, or an encoder gave no raw output.
    """
    raw = mix(embeddings, weights, raw_divisors=raw_divisors).raw
    if raw is None:
        raise UserError("Not every one of these embeddings has the raw output that is needed.")
    if cache is None:
        return raw
    length = np.linalg.norm(raw)
    pulled = cache.apply(_unit(raw)[None])[0]
    return np.asarray(_unit(pulled) * length, dtype=np.float32)


# ---------------------------------------------------------------- inside


def _combined(
    embeddings: Sequence[Embedding],
    shares: Sequence[float],
    made_by: str,
    *,
    unit: bool = True,
    raw_divisors: Mapping[str, float] = RAW_DIVISORS,
) -> Embedding:
    """`sum share_i f_i`, and of the raw outputs alike."""
    space = _same_space(embeddings)
    data = sum(s * e.data for s, e in zip(shares, embeddings, strict=True))
    data = _unit(np.asarray(data)) if unit else data
    raw = None
    raws = [e.raw for e in embeddings if e.raw is not None]
    if len(raws) == len(embeddings):
        parts = [
            s / raw_divisors.get(_modality(e), 1.0) * r
            for s, e, r in zip(shares, embeddings, raws, strict=True)
        ]
        raw = np.asarray(sum(parts), dtype=np.float32)
    sources = tuple(name for e in embeddings for name in e.provenance.sources)
    return replace(
        Embedding.of(np.asarray(data, dtype=np.float32)),
        space=space,
        raw=raw,
        provenance=Provenance(made_by, sources),
    )


def _same_space(embeddings: Sequence[Embedding]) -> str:
    spaces = {e.space for e in embeddings}
    if len(spaces) > 1:
        raise UserError(f"Embeddings of different spaces never mix: {', '.join(sorted(spaces))}.")
    widths = {e.data.shape for e in embeddings}
    if len(widths) > 1:
        raise UserError(f"Embeddings of different widths never mix: {sorted(widths)}.")
    return spaces.pop()


def _modality(embedding: Embedding) -> str:
    """The modality it comes from; "" for one that was computed from several."""
    maker, _, kind = embedding.provenance.made_by.partition(":")
    return kind if maker in ("encoder", "cache") else ""


def _normalised(embedding: Embedding) -> Embedding:
    """The same at unit norm (a mixture may be shorter)."""
    return replace(
        Embedding.of(np.asarray(_unit(embedding.data), dtype=np.float32)),
        space=embedding.space,
        raw=embedding.raw,
        provenance=embedding.provenance,
    )


def _unit(row: NDArray[np.float32]) -> NDArray[np.float32]:
    norm = float(np.linalg.norm(row))
    if not np.isfinite(norm) or norm < _NOTHING:
        raise UserError("Nothing is left of these embeddings: they cancel out.")
    return row / norm
