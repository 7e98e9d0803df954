"""A runtime that needs no weights: a scripted decoder, hashed embeddings, tools on request.

Only the parts behind the contracts are replaced; loop, protocol, grammar, session and store are
the real ones. The decoder obeys grammars by choosing blindly among what they allow.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as pil

from anybind.agent.choice import Choice
from anybind.agent.runtime import Runtime
from anybind.bundles import Bundle, Component
from anybind.content import AnyPart, Box, Embedding, Image
from anybind.contracts import (
    ContextExpert,
    Delta,
    Finish,
    Message,
    Note,
    Noun,
    Profile,
    Sampling,
    Tool,
    ToolContext,
)
from anybind.errors import ToolError, UserError
from anybind.tooling import FunctionTool, tool


class Bytes:
    """A tokenizer whose tokens are the 256 bytes, and an end."""

    bos: int | None = None
    eos = 256
    size = 257

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Iterable[int]) -> str:
        return bytes(i for i in ids if i < 256).decode(errors="replace")

    def token_bytes(self) -> list[bytes]:
        return [bytes([i]) for i in range(256)] + [b"<|end|>"]

    def special_ids(self) -> frozenset[int]:
        return frozenset({256})


_ENGINE: list[Any] = []


def blind(grammar: str, seed: int = 0) -> str:
    """A text that a grammar allows, chosen blindly."""
    if not _ENGINE:
        from anybind.core_model.grammar import GrammarEngine

        _ENGINE.append(GrammarEngine(Bytes()))
    held = _ENGINE[0].hold(grammar)
    rng = np.random.default_rng(seed)
    out: list[int] = []
    while not held.ended and len(out) < 5000:
        token = int(rng.choice(np.flatnonzero(held.allowed())))
        if token == Bytes.eos:
            break
        held.take(token)
        out.append(token)
    return bytes(out).decode()


class FakeLanguage:
    """Says what the script says; keeps the prompts and conditions it was given."""

    profile = Profile("fake", "chatml", "residual", "fake", 4096, grammar=True, batch=False)

    def __init__(self, script: Callable[[str], str]) -> None:
        self.script = script
        self.prompts: list[str] = []
        self.conditions: list[Embedding | None] = []

    def render(self, messages: Sequence[Message], reply_prefix: str = "") -> str:
        lines = [f"{m.role}: {m.input} {m.content}" for m in messages]
        return "\n".join([*lines, f"assistant: {reply_prefix}"])

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    def stream(
        self, prompt: str, condition: Embedding | None, sampling: Sampling
    ) -> Iterator[Delta | Finish]:
        if sampling.grammar:
            said = blind(sampling.grammar)
        else:
            self.prompts.append(prompt)
            self.conditions.append(condition)
            said = self.script(prompt)
        for at in range(0, len(said), 7):
            yield Delta(said[at : at + 7], 1)
        yield Finish("stop", len(prompt.split()), len(said) // 7, 0, 0.0)

    def score(
        self, prompt: str, continuations: Sequence[str], condition: Embedding | None
    ) -> list[float]:
        return [0.0] * len(continuations)


class FakeModel:
    """Embeddings from hashes of the content."""

    modalities = frozenset({"image", "text", "audio"})

    def __init__(self, language: FakeLanguage) -> None:
        self.language = language

    def embed_parts(self, parts: Sequence[AnyPart]) -> list[Embedding]:
        return [self._one(p) for p in parts]

    def _one(self, part: AnyPart) -> Embedding:
        if isinstance(part, Embedding):
            return part
        seen = part.data.tobytes() if isinstance(part, Image) else repr(part.data).encode()
        seed = int.from_bytes(hashlib.sha256(seen).digest()[:4], "big")
        row = np.random.default_rng(seed).normal(size=8).astype(np.float32)
        return replace(Embedding.of(row / np.linalg.norm(row)), space="fake", raw=row)

    def mix(
        self, embeddings: Sequence[Embedding], weights: Sequence[float] | None = None
    ) -> Embedding:
        from anybind.core_model.mixing import mix

        return mix(embeddings, weights)

    def condition(
        self, parts: Sequence[AnyPart], weights: Sequence[float] | None = None
    ) -> Embedding:
        return self.mix(self.embed_parts(parts), weights)

    def retrieve(self, embedding: Embedding) -> Embedding:
        return embedding

    def close(self) -> None:
        return None


class Keywords:
    """Chooses the tool whose first word stands in the piece."""

    def choose(self, piece: str, tools: Sequence[Tool], history: Sequence[str]) -> Choice:
        words = piece.lower().split()
        found = next((t for t in tools if t.name.lower().split()[0] in words), None)
        return Choice(found, (("" if found is None else found.name, 1.0),), tuple(tools[:4]))

    def words(self, piece: str) -> dict[str, str]:
        """It reads nothing: the rules find the arguments."""
        return {}


class FakeNouns:
    """Every word behind an article is a noun."""

    name = "fake-nouns"

    def nouns(self, text: str) -> list[Noun]:
        out: list[Noun] = []
        at = 0
        words = text.split(" ")
        for i, word in enumerate(words):
            bare = word.strip(".,!?")
            if i and words[i - 1].lower() in ("a", "the") and bare:
                out.append(Noun(bare, (at, at + len(bare)), bare.lower()))
            at += len(word) + 1
        return out

    def close(self) -> None:
        return None


class FakeGrounder:
    """Finds cats only."""

    name = "fake-grounding"
    threshold = 0.5

    def ground(self, image: Image, phrases: Sequence[str]) -> list[Box]:
        return [Box(p, (1.0, 2.0, 5.0, 6.0), 0.9 if "cat" in p else 0.1) for p in phrases]

    def close(self) -> None:
        return None


class Heard:
    """Says that every sound says hello."""

    name = "fake-speech"
    kinds = frozenset({"audio"})

    def look(self, part: AnyPart, request: str) -> Note | None:
        return Note(self.name, "transcript: hello", 0.9, (part.name,))

    def close(self) -> None:
        return None


class Painter:
    """Paints one colour, from the seed."""

    name = "fake-painter"
    output = "image"
    space = "fake"

    def generate(
        self, condition: Embedding | None, text: str | None, *, seed: int = 0, progress: Any = None
    ) -> AnyPart:
        return Image.of(pil.new("RGB", (8, 8), (seed % 256, 10, 200)))

    def close(self) -> None:
        return None


@tool("Invert Image")
def invert(image: Image) -> Image:
    """Turn the colours of a picture around."""
    return Image.of(pil.eval(image.data, lambda v: 255 - v))


@tool("Find Thing")
def find(image: Image, thing: str) -> str:
    """Say where a thing is."""
    return f"{thing} is at the top"


@tool("Break Image")
def broken(image: Image) -> str:
    """Fail in its own way."""
    raise ZeroDivisionError("inside the tool")


@tool("Refuse Image")
def refuse(image: Image) -> str:
    """Refuse."""
    raise ToolError("the picture is too dark")


@tool("Sleep Now")
def sleep(context: ToolContext) -> str:
    """Wait for a long time."""
    time.sleep(600)
    return "awake"


TOOLS = (invert, find, broken, refuse, sleep)


def echo(prompt: str) -> str:
    """A script: an answer that names the last request."""
    return f"I see a cat and the bus. You said: {prompt.rsplit('user:', 1)[1].split(chr(10))[0].strip()}"


class FakeRuntime(Runtime):
    """A `Runtime` without bundle files or weights."""

    def __init__(
        self,
        script: Callable[[str], str] = echo,
        tools: Sequence[FunctionTool] = TOOLS,
        *,
        name: str = "fake",
    ) -> None:
        self.bundle = Bundle(
            name=name, space="fake", weights={}, model=Component(use="fake"), encoders=[]
        )
        self.__dict__["model"] = FakeModel(FakeLanguage(script))
        self.__dict__["chooser"] = Keywords()
        self._offered = list(tools)
        self.closed = False

    @property
    def language(self) -> FakeLanguage:
        return self.__dict__["model"].language

    @property
    def nouns(self) -> Any:
        return FakeNouns()

    @property
    def grounder(self) -> Any:
        return FakeGrounder()

    def context_experts(self, kind: str) -> list[ContextExpert]:
        return [Heard()] if kind == "audio" else []

    def generator(self, kind: str) -> Any:
        if kind != "image":
            raise UserError(f"Bundle 'fake' can't make {kind}.")
        return Painter()

    def generator_kinds(self) -> set[str]:
        return {"image"}

    def tools(self) -> list[tuple[Tool, str]]:
        return [(t, "") for t in self._offered]

    def tool_weights(self, role: str) -> Path:
        raise ToolError(f"The bundle names no weights for {role!r}.")

    def close(self) -> None:
        self.closed = True


def picture(seed: int = 0, size: tuple[int, int] = (16, 12)) -> pil.Image:
    """A small picture of noise."""
    data = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return pil.fromarray(data)
