"""The retrieval cache in training: embeddings are pulled before a stage is fed with them, as they are
at run time before the bind network sees them.

Where a stage's config, a bundle's cache and the data meet; the arithmetic is in
`anybind.core_model.retrieval`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anybind.core_model.retrieval import RetrievalCache
from anybind.core_model.training.cache_config import CacheConfig
from anybind.core_model.training.data.mixer import Finish
from anybind.errors import UserError

_PLAIN_KINDS = ("image",)


def stage_cache(config: CacheConfig, bundle: str | None, space: str, dim: int) -> Finish:
    """Open the cache of a stage.

    Args:
        config: What the stage says.
        bundle: Its `model.bundle`.
        space: Joint space of the model.
        dim: Its width C.

    Raises:
        UserError: the bundle has none that pulls anything, or it is of another joint space or width.
        ModelError: its file can't be read.
    """
    settings = config.model_dump(exclude={"path"}, exclude_none=True)
    path = config.path
    if path is None:
        path, given = _of_bundle(str(bundle))
        settings = given | settings
    kinds = frozenset(str(k) for k in settings.pop("kinds", _PLAIN_KINDS))
    if not kinds:
        raise UserError("cache: the bundle's cache pulls no kinds of content; give kinds.")
    apply = settings.pop("apply", "each")
    settings.setdefault("bundle_space", space)
    cache = RetrievalCache.load(path, **settings)
    if cache.dim != dim or (space and cache.space != space):
        raise UserError(
            f"cache: {path.name} holds embeddings of {cache.space!r} with {cache.dim} numbers; the "
            f"model takes {space!r} with {dim}."
        )
    return Finish(cache.apply, kinds, apply == "each", about(cache, kinds, apply))


def about(cache: RetrievalCache, kinds: frozenset[str], apply: str = "each") -> str:
    """A cache's settings in a line: what files of embeddings that went through it say of it under
    `cache` in their metadata."""
    mixed = ", mixed first" if apply == "mix" else ""
    return (
        f"{cache.mode}, top_k {cache.top_k} of {len(cache)} rows, weight {cache.weight:g}, "
        f"temperature {cache.temperature:g}, of {' and '.join(sorted(kinds))}{mixed}"
    )


def _of_bundle(bundle: str) -> tuple[Path, dict[str, Any]]:
    """File and settings of a bundle's cache."""
    from anybind.assembly import Assembly

    assembly = Assembly(bundle)
    if not assembly.bundle.cache:
        raise UserError(f"cache: the bundle {bundle!r} has none; give a path.")
    settings = dict(assembly.bundle.cache)
    path = assembly.weight(settings.pop("file"))
    settings.setdefault("bundle_space", assembly.bundle.space)
    # At run time a cache without kinds pulls nothing.
    return path, {"kinds": ()} | settings
