"""What a running tool may reach: the model, grounding, generators; never the session."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from anybind.agent.runtime import Runtime
from anybind.content import AnyPart, Box, Image, Text
from anybind.contracts import Delta, Message, MultimodalModel, Sampling
from anybind.core_model import history
from anybind.errors import AnybindError, ToolError


class RunContext:
    """The `ToolContext` of one call."""

    def __init__(self, runtime: Runtime, seed: int) -> None:
        self._runtime = runtime
        self._seed = seed

    @property
    def model(self) -> MultimodalModel:
        """The model of the bundle."""
        return self._runtime.model

    @property
    def seed(self) -> int:
        """Seed of this call."""
        return self._seed

    def answer(self, question: str, *parts: AnyPart) -> str:
        """Ask the model about parts, without tools and outside the conversation."""
        model = self.model
        condition = model.condition(parts) if parts else None
        sampling = Sampling(max_tokens=64, seed=self._seed)
        room = history.budget(model.language, sampling.max_tokens)
        asked = history.fit([Message("user", question)], room, history.counter(model.language))
        prompt = model.language.render(asked.messages)
        items = model.language.stream(prompt, condition, sampling)
        return "".join(item.text for item in items if isinstance(item, Delta)).strip()

    def ground(self, image: Image, phrases: Sequence[str]) -> list[Box]:
        """Boxes of phrases in a picture, those above the expert's threshold, best first."""
        grounder = self._runtime.grounder
        if grounder is None:
            raise ToolError("This bundle has no grounding expert.")
        found = [b for b in grounder.ground(image, phrases) if b.score >= grounder.threshold]
        return sorted(found, key=lambda b: -b.score)

    def generate(self, kind: str, text: str | None, parts: Sequence[AnyPart] = ()) -> AnyPart:
        """Make content with the bundle's generator for `kind`."""
        try:
            generator = self._runtime.generator(kind)
            model = self.model
            given = list(parts) or ([Text.of(text)] if text else [])
            condition = model.condition(given) if given else None
            return generator.generate(condition, text, seed=self._seed)
        except AnybindError as error:
            raise ToolError(f"No {kind} could be made: {error}") from error

    def weights(self, role: str) -> Path:
        """The file that the bundle names for a role of its tools."""
        return self._runtime.tool_weights(role)
