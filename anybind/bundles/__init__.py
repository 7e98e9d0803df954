"""Bundles: JSON files that say which parts make up a working whole.

A bundle is named by the folder it lies in here, or given as a path to a JSON file or its folder.
Knows nothing of what the components do; `anybind.assembly` builds them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from anybind.errors import UserError
from anybind.weights import WeightRef

FOLDER = Path(__file__).parent


class Component(BaseModel):
    """One entry: what to use and with which weights and options."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    use: str
    """The name under which a plugin registered it."""
    weights: dict[str, str] = Field(default_factory=dict)
    """Role in the component -> key in the bundle's `weights`."""
    options: dict[str, Any] = Field(default_factory=dict)
    device: str = "cpu"
    footprint: int = 0
    """Bytes in memory once loaded, where the bundle knows better than the component."""


class Bundle(BaseModel):
    """A working whole."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    description: str = ""
    space: str
    """The joint space that its encoders share."""
    weights: dict[str, WeightRef]
    model: Component
    encoders: list[Component]
    cache: dict[str, Any] | None = None
    """The retrieval cache: `file` (a key in `weights`), `top_k`, `weight`, `kinds` (of parts that it
    is for), `apply` ("each" part, or the "mix" as a whole)."""
    nouns: Component | None = None
    grounding: Component | None = None
    experts: list[Component] = Field(default_factory=list[Component])
    generators: list[Component] = Field(default_factory=list[Component])
    tools: list[str] = Field(default_factory=lambda: ["*"])
    """Names of tools to offer; "*" is all that are available."""
    tool_weights: dict[str, str] = Field(default_factory=dict)
    """Role -> key in `weights`, for tools that need weights of their own."""
    tool_prior: dict[str, Any] = Field(default_factory=dict)
    """Constants of the prior that ranks tools by similarity of request and description."""
    tool_chooser: dict[str, str] | None = None
    """A trained matcher of requests and tools: "matcher", "encoder" and "tokenizer" (of the text encoder
    that it was trained with) -> keys in `weights`; None ranks by similarity alone."""
    history: Literal["all", "same-content"] = "all"
    """Which earlier turns the answer is shown: "same-content" leaves out those about other
    pictures and sounds, which a small decoder would take for the present one."""
    history_tokens: int | None = None
    """Most tokens of earlier turns that the answer is shown; None is as many as the context of
    the model holds. A small decoder loses the thread long before its context is full."""
    persona: str = ""
    """System text of answers that are about no picture or sound."""
    _base: Path = PrivateAttr(default=FOLDER)
    _reference: str = PrivateAttr(default="")

    @property
    def base(self) -> Path:
        """The folder that `file:` references start from."""
        return self._base

    @property
    def reference(self) -> str:
        """What `load` needs to find this bundle again: its name, or the path of its file."""
        return self._reference or self.name


def names() -> list[str]:
    """The bundles that ship with anybind."""
    return sorted(p.parent.name for p in FOLDER.glob("*/bundle.json"))


def load(bundle: str | Path) -> Bundle:
    """Read a bundle by name or path.

    Raises:
        UserError: there is no such bundle, or its file is wrong; says where.
    """
    path = Path(bundle)
    shipped = str(bundle) in names()
    if shipped:
        path = FOLDER / str(bundle)
    if path.is_dir():
        path = path / "bundle.json"
    if not path.is_file():
        raise UserError(
            f"No bundle {str(bundle)!r}: give a path to a bundle.json, or one of {', '.join(names())}."
        )
    try:
        found = Bundle.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (ValidationError, ValueError, OSError) as error:
        raise UserError(f"The bundle {path} can't be read: {error}") from error
    found._base = path.resolve().parent  # pyright: ignore[reportPrivateUsage]
    reference = str(bundle) if shipped else str(path.resolve())
    found._reference = reference  # pyright: ignore[reportPrivateUsage]
    _check(found)
    return found


CHOOSER = {"matcher", "encoder", "tokenizer"}
"""What a bundle's `tool_chooser` consists of."""


def _check(bundle: Bundle) -> None:
    optional = [c for c in (bundle.nouns, bundle.grounding) if c is not None]
    every = [bundle.model, *bundle.encoders, *bundle.experts, *bundle.generators, *optional]
    for component in every:
        for role, key in component.weights.items():
            if key not in bundle.weights:
                raise UserError(
                    f"Bundle {bundle.name!r}: {component.use}.{role} names the weights {key!r}, "
                    f"which the bundle does not list."
                )
    chooser = bundle.tool_chooser
    if chooser is not None and set(chooser) != CHOOSER:
        raise UserError(
            f"Bundle {bundle.name!r}: tool_chooser must name {', '.join(sorted(CHOOSER))}, not "
            f"{', '.join(sorted(chooser)) or 'nothing'}."
        )
    for name, roles in (("tool_weights", bundle.tool_weights), ("tool_chooser", chooser or {})):
        for role, key in roles.items():
            if key not in bundle.weights:
                raise UserError(
                    f"Bundle {bundle.name!r}: {name}.{role} names the weights {key!r}, "
                    f"which the bundle does not list."
                )
    if bundle.cache is not None and bundle.cache.get("file") not in bundle.weights:
        raise UserError(
            f"Bundle {bundle.name!r}: cache.file must name one of its weights, "
            f"not {bundle.cache.get('file')!r}."
        )
