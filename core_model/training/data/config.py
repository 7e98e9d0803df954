"""What a data section of a training config says. Checked by pydantic; opens nothing.

A mistake is told with the name of the field; a field that does not exist is a mistake.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from anybind.errors import UserError

Format = Literal[
    "tsv", "webdataset", "alpaca", "llava", "sharegpt", "minigpt4", "gpt4tools", "jsonl", "features",
]  # fmt: skip
Shuffle = Literal["full", "file", "none"]

CAPTION_PROMPTS = {
    "en": "Generate caption of this image",
    "zh": "生成这张图片的描述",
}
"""What a caption answers where a source has no `prompts`, by language. The English words are those
of ImageBind-LLM's first stage; the Chinese ones say the same."""

PICTURED = frozenset({"tsv", "webdataset", "llava", "minigpt4", "jsonl"})
"""Formats whose records may name pictures."""
CAPTIONED = frozenset({"tsv", "webdataset", "minigpt4", "features"})
"""Formats whose records are a caption, asked for by a prompt."""

_STRICT = ConfigDict(extra="forbid", frozen=True)


class SourceConfig(BaseModel):
    """One source of samples."""

    model_config = _STRICT

    format: Format
    path: tuple[Path, ...] = Field(min_length=1)
    """A file or several; `*` in the last part of a path stands for anything. For `webdataset` also
    a folder of .tar files."""
    name: str = ""
    """For reports and states; by default the name of the first file."""
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Share of the samples drawn. Either every source has one or none; without, shares follow the
    numbers of records."""
    images: Path | None = None
    """Folder that the pictures' paths start from; by default that of the file."""
    features: Path | None = None
    """Embeddings made by `anybind embed --dataset`: used instead of opening the pictures."""
    language: str = "en"
    """"en", "zh" ...: chooses the default prompt of captions; reported in the summary."""
    limit: Annotated[int, Field(gt=0)] | None = None
    """Only the first so many records."""
    prompts: tuple[str, ...] = ()
    """What a caption answers; one is drawn for each sample."""
    system: str = ""
    """A system text in front of every conversation that has none."""
    shuffle: Shuffle | None = None
    """`full`: a permutation of all records. `file`: the files in random order, each permuted by
    itself, so that reading stays in one file at a time (default for `webdataset`). `none`: as
    they are."""
    bad_limit: Annotated[int, Field(ge=0)] = 1000
    """Records that may be bad in one epoch before the run stops."""
    bad_share: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of the records read that may be bad, looked at once more than ten are."""

    @field_validator("path", mode="before")
    @classmethod
    def _paths(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | Path) else value

    @field_validator("prompts", mode="before")
    @classmethod
    def _prompts(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.prompts and self.format not in CAPTIONED:
            raise ValueError(f"`prompts` is for captions; {self.format} records bring their own")
        if any(not p.strip() for p in self.prompts):
            raise ValueError("a prompt is empty")
        for option in ("images", "features"):
            if getattr(self, option) is not None and self.format not in PICTURED:
                raise ValueError(f"`{option}` is for formats with pictures, not {self.format}")
        return self

    @property
    def title(self) -> str:
        """What it is called."""
        return self.name or self.path[0].name

    @property
    def questions(self) -> tuple[str, ...]:
        """What a caption may answer."""
        return self.prompts or (CAPTION_PROMPTS.get(self.language, CAPTION_PROMPTS["en"]),)

    @property
    def order(self) -> Shuffle:
        """How it is shuffled."""
        return self.shuffle or ("file" if self.format == "webdataset" else "full")


class DataConfig(BaseModel):
    """The sources of a run and how they are mixed."""

    model_config = _STRICT

    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    """Of the order, the mixing and the choice of prompts."""
    epochs: Annotated[int, Field(gt=0)] | None = None
    """Each source is gone through so often and then left out; None: endlessly."""

    @model_validator(mode="after")
    def _weights(self) -> Self:
        given = [s.weight is not None for s in self.sources]
        if any(given) and not all(given):
            raise ValueError("give every source a `weight`, or none")
        names = [s.title for s in self.sources]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"two sources are called {twice[0]!r}: give them a `name` each")
        return self

    def at(self, base: Path) -> DataConfig:
        """The same with every path that isn't absolute starting from `base`."""

        def placed(path: Path | None) -> Path | None:
            return None if path is None else base / path.expanduser()

        sources = tuple(
            s.model_copy(
                update={
                    "path": tuple(base / p.expanduser() for p in s.path),
                    "images": placed(s.images),
                    "features": placed(s.features),
                }
            )
            for s in self.sources
        )
        return self.model_copy(update={"sources": sources})


def read_data_config(data: Any, base: Path, name: str = "data") -> DataConfig:
    """A data section, as YAML or JSON gave it.

    Raises:
        UserError: it says something that can't be; names the field.
    """
    try:
        return DataConfig.model_validate(data).at(base)
    except ValidationError as error:
        said = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or name}: {e['msg']}" for e in error.errors()[:5]
        )
        raise UserError(f"{name}: {said}") from error
