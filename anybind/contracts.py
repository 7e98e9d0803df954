"""The contracts between the rooms: small protocols and the frozen values they exchange.

A plugin author needs this module, `anybind.content`, `anybind.errors` and `anybind.hooks`, and
nothing else. No torch here: arrays are numpy, pictures are PIL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from anybind.abilities import AnyExpert as AnyExpert
from anybind.abilities import ContextExpert as ContextExpert
from anybind.abilities import Generator as Generator
from anybind.abilities import GroundingExpert as GroundingExpert
from anybind.abilities import Note as Note
from anybind.abilities import Noun as Noun
from anybind.abilities import NounExpert as NounExpert
from anybind.abilities import Parameter as Parameter
from anybind.abilities import Tool as Tool
from anybind.abilities import ToolContext as ToolContext
from anybind.abilities import ToolResult as ToolResult
from anybind.content import AnyPart, Embedding
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
