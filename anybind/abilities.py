"""The contracts of what works around the model: tools, experts, generators.

Re-exported by `anybind.contracts`, which plugins import from. No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from anybind.content import AnyPart, Box, Embedding, Image

if TYPE_CHECKING:
    from anybind.contracts import MultimodalModel, Progress

# ---------------------------------------------------------------- tools


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument of a tool, in calling order."""

    name: str
    kind: str
    """A content kind ("image" ...: passed by artifact name) or "text"."""
    description: str = ""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool gives back: parts for the program, a short text for the model."""

    parts: tuple[AnyPart, ...] = ()
    observation: str = ""
    """Empty means: the names under which the session keeps the parts."""


class ToolContext(Protocol):
    """What a running tool may reach. It never sees the session itself."""

    @property
    def model(self) -> MultimodalModel:
        """The model of the bundle."""
        ...

    @property
    def seed(self) -> int:
        """Seed of this call, for anything random."""
        ...

    def answer(self, question: str, *parts: AnyPart) -> str:
        """Ask the model about parts, without tools and outside the conversation."""
        ...

    def ground(self, image: Image, phrases: Sequence[str]) -> list[Box]:
        """Find phrases in a picture with the bundle's grounding expert."""
        ...

    def generate(self, kind: str, text: str | None, parts: Sequence[AnyPart] = ()) -> AnyPart:
        """Make content with the bundle's generator for `kind`.

        Raises:
            ToolError: the bundle has no such generator.
        """
        ...

    def weights(self, role: str) -> Path:
        """The file or folder that the bundle names for `role` in its `tool_weights`.

        Raises:
            ToolError: the bundle names none, or it is not fetched.
        """
        ...


@runtime_checkable
class Tool(Protocol):
    """Something the model may call by name (GPT4Tools protocol)."""

    @property
    def name(self) -> str:
        """The name the model writes, e.g. "Edge Detection On Image"."""
        ...

    @property
    def description(self) -> str:
        """When to use it and what the input is, as the model reads it."""
        ...

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The arguments in calling order."""
        ...

    @property
    def requires(self) -> tuple[str, ...]:
        """What must be there for it to be offered: "generator:image", "expert:grounding",
        "library:cv2" or "weights:ROLE" (named in the bundle's `tool_weights`)."""
        ...

    def run(self, context: ToolContext, arguments: Mapping[str, Any]) -> ToolResult:
        """Do the work. Content arguments come as parts, text as str.

        Raises:
            ToolError: it could not be done; shown to the model.
        """
        ...


# ---------------------------------------------------------------- experts


@dataclass(frozen=True, slots=True)
class Note:
    """What an expert saw: context for the model."""

    expert: str
    text: str
    """The context line, e.g. "recognized text: hello"."""
    confidence: float = 1.0
    """0..1."""
    sources: tuple[str, ...] = ()
    """Artifact names of the parts it looked at."""
    parts: tuple[AnyPart, ...] = ()
    replaces: bool = True
    """Whether it says all that its sources say, as a transcript does: they are not mixed in then."""


@runtime_checkable
class ContextExpert(Protocol):
    """Looks at a part and says what the model should know of it."""

    @property
    def name(self) -> str: ...

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of parts it looks at."""
        ...

    def look(self, part: AnyPart, request: str) -> Note | None:
        """A note, or None if there is nothing to say."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class GroundingExpert(Protocol):
    """Finds phrases in a picture."""

    @property
    def name(self) -> str: ...

    def ground(self, image: Image, phrases: Sequence[str]) -> list[Box]:
        """Boxes in pixels; `label` is the phrase, `score` its support in 0..1."""
        ...

    @property
    def threshold(self) -> float:
        """Support below this means: the phrase is not in the picture."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Noun:
    """A noun phrase of a text."""

    text: str
    """As written, with determiner: "a tennis racket"."""
    span: tuple[int, int]
    """Character offsets in the text, end excluded."""
    head: str
    """The phrase without determiner, lower case, singular: "tennis racket"."""


@runtime_checkable
class NounExpert(Protocol):
    """Finds the noun phrases of a text."""

    @property
    def name(self) -> str: ...

    def nouns(self, text: str) -> list[Noun]:
        """In order of appearance."""
        ...

    def close(self) -> None: ...


AnyExpert = ContextExpert | GroundingExpert | NounExpert


# ---------------------------------------------------------------- generators


@runtime_checkable
class Generator(Protocol):
    """Makes content from a joint embedding, a text, or both."""

    @property
    def name(self) -> str: ...

    @property
    def output(self) -> str:
        """The kind of part it makes."""
        ...

    @property
    def space(self) -> str:
        """The joint space whose embeddings it takes."""
        ...

    def generate(
        self,
        condition: Embedding | None,
        text: str | None,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> AnyPart:
        """Make one part. At least one of condition and text is given.

        Raises:
            UserError: the condition lives in another space.
        """
        ...

    def close(self) -> None: ...
