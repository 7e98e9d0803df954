"""The contracts between the rooms: small protocols and the frozen values they exchange.

A plugin author needs this module, `anybind.content`, `anybind.errors` and `anybind.hooks`, and
nothing else. No torch here: arrays are numpy, pictures are PIL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from anybind.content import AnyPart, Box, Embedding, Image
from anybind.specs import Build as Build
from anybind.specs import EncoderSpec as EncoderSpec
from anybind.specs import ExpertSpec as ExpertSpec
from anybind.specs import GeneratorSpec as GeneratorSpec
from anybind.specs import ModelSpec as ModelSpec
from anybind.specs import Spec as Spec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Progress = Callable[[str, float], None]
"""Called with a short text and the share done (0..1)."""


# ---------------------------------------------------------------- encoders


@dataclass(frozen=True, slots=True)
class Encoding:
    """What an encoder returns for a batch: rows of unit norm and the head output before it."""

    unit: NDArray[np.float32]
    """[B, C], L2 norm 1."""
    raw: NDArray[np.float32]
    """[B, C], before normalisation."""
    scaled: NDArray[np.float32] | None = None
    """[B, C], `unit` times the logit scale of the modality, where the model has one (ImageBind's
    own outputs; only good for logits between modalities)."""


@runtime_checkable
class Encoder(Protocol):
    """Brings parts of some modalities into a joint space."""

    @property
    def modalities(self) -> frozenset[str]:
        """The kinds of parts it takes ("image", "audio", "text" ...)."""
        ...

    @property
    def space(self) -> str:
        """Name of the joint space; embeddings of different spaces never mix."""
        ...

    @property
    def dim(self) -> int:
        """Width C of the joint space."""
        ...

    def encode(self, parts: Sequence[AnyPart]) -> Encoding:
        """Encode parts, all of one modality, in one batch."""
        ...

    def close(self) -> None:
        """Give back memory and devices."""
        ...


# ---------------------------------------------------------------- language models


@dataclass(frozen=True, slots=True)
class Profile:
    """What a language model can do. Code asks this, never `isinstance`."""

    name: str
    chat: Literal["chatml", "alpaca", "panda", "vicuna", "llama-2", "llama-3", "template"]
    """Prompt layout that `LanguageModel.render` writes; "template" is the model's own."""
    injection: Literal["residual", "attention_output", "none"]
    space: str
    """The joint space whose embeddings it takes as a condition; "" for none."""
    context_length: int
    """Positions, prompt and reply together."""
    grammar: bool
    """Whether decoding can be held by a grammar."""
    batch: bool
    """Whether several prompts with different conditions can run at once."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation as the model is shown it."""

    role: Literal["system", "user", "assistant"]
    content: str
    input: str = ""
    """Extra context of a user message (Alpaca `### Input:`), e.g. notes of experts."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to decode."""

    max_tokens: int = 128
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    """Decoding ends before the first of these strings; it is not part of the reply."""
    grammar: str | None = None
    """A Lark grammar (llguidance dialect) that the whole reply must match."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens already in the reply."""


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of the reply. `forced` text was implied by the grammar, not chosen."""

    text: str
    tokens: int
    forced: bool = False


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of a reply."""

    reason: Literal["stop", "length", "grammar", "context"]
    prompt_tokens: int
    reply_tokens: int
    cached_tokens: int
    """Prompt positions that were taken over from the KV cache."""
    seconds: float


class LanguageModel(Protocol):
    """Continues a prompt under a condition (a joint embedding) or none."""

    @property
    def profile(self) -> Profile:
        """What this model can do."""
        ...

    def render(self, messages: Sequence[Message], reply_prefix: str = "") -> str:
        """The prompt of a conversation, up to where the reply begins (plus `reply_prefix`)."""
        ...

    def count_tokens(self, text: str) -> int:
        """Length of a text in tokens."""
        ...

    def stream(
        self, prompt: str, condition: Embedding | None, sampling: Sampling
    ) -> Iterator[Delta | Finish]:
        """Generate; the last item is a `Finish`."""
        ...

    def score(
        self, prompt: str, continuations: Sequence[str], condition: Embedding | None
    ) -> list[float]:
        """Sum of log-probabilities (nats) of each continuation after the prompt."""
        ...


class MultimodalModel(Protocol):
    """An ImageBind-LLM as a whole: encoders, mixing, cache, language model."""

    @property
    def language(self) -> LanguageModel:
        """The decoder."""
        ...

    @property
    def modalities(self) -> frozenset[str]:
        """The kinds of parts its encoders take."""
        ...

    def encoder(self, modality: str) -> Encoder:
        """The encoder of a modality.

        Raises:
            UserError: there is none.
        """
        ...

    def embed_parts(self, parts: Sequence[AnyPart]) -> list[Embedding]:
        """One unit-norm joint embedding a part (with `raw`), in order."""
        ...

    def mix(
        self, embeddings: Sequence[Embedding], weights: Sequence[float] | None = None
    ) -> Embedding:
        """`sum w_i f_i / (sum w_i + 1e-6)` (paper 4.4.2; not normalised again)."""
        ...

    def retrieve(self, embedding: Embedding) -> Embedding:
        """Pull an embedding toward image features through the cache (paper eq. 3-4)."""
        ...

    def condition(
        self, parts: Sequence[AnyPart], weights: Sequence[float] | None = None
    ) -> Embedding:
        """What a decoder or generator is given of parts: embedded, mixed, and pulled through the
        cache where it applies."""
        ...


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
