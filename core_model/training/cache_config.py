"""The section `cache` of a stage's config: which retrieval cache embeddings pass before they are fed.

Checked by pydantic; opens nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from anybind.core_model.retrieval.formulas import Mode

Kind = Literal[
    "image", "audio", "video", "point", "depth", "thermal", "imu", "text", "embedding",
]  # fmt: skip


class CacheConfig(BaseModel):
    """Where the cache comes from and how it pulls; names are those of a bundle's `cache`.

    What is not given is as the bundle says, or with a `path` as `RetrievalCache` does by default.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    path: Path | None = None
    """A folder of `anybind cache build`, a FAISS index, or rows; None is the cache of
    `model.bundle`."""
    tensor: str | None = None
    """Of a safetensors file."""
    top_k: Annotated[int, Field(ge=1)] | None = None
    weight: Annotated[float, Field(ge=0, le=1)] | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    mode: Mode | None = None
    kinds: Annotated[tuple[Kind, ...], Field(min_length=1)] | None = None
    """Kinds of content whose embeddings it pulls; with a `path` pictures by default. What has no
    file behind it is of the kind "embedding"."""
    apply: Literal["each", "mix"] | None = None
    """To each embedding before they are mixed, or to the mixture."""

    @property
    def title(self) -> str:
        """Where it comes from, for people."""
        return "the cache of the bundle" if self.path is None else f"the cache {self.path}"
