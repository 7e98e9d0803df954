"""Says what a sound is of, among sounds that it has words for; what it says becomes context.

The encoder of sounds knows more than a small decoder reads out of its embedding: of recordings that
neither has heard, the nearest word is right half as often again as its answer (docs/sounds.md). Where no
word is near, as with a voice, it says nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anybind.content import AnyPart
from anybind.contracts import Build, Encoder, Note
from anybind.errors import ModelError, UserError
from anybind.experts._wording import with_article

if TYPE_CHECKING:
    from numpy.typing import NDArray

NEAR = 0.5
"""Least cosine of a sound and its word. The example sounds have 0.88 and more, the voices 0.44 at most."""


class SoundExpert:
    """The nearest word to a sound (`anybind.contracts.ContextExpert`)."""

    name = "sound-events"
    kinds = frozenset({"audio"})

    def __init__(
        self, ears: Encoder, words: tuple[str, ...], rows: NDArray[np.float32], near: float = NEAR
    ) -> None:
        """Args:
            ears: The encoder of sounds.
            words: What sounds are called.
            rows: Unit-norm embeddings of the words [N, C], in the space of the encoder.
            near: Least cosine at which a word is said.

        Raises:
            ModelError: there are no words, or they are of another width.
        """
        if not words or rows.shape != (len(words), ears.dim):
            raise ModelError(
                "the sound-events expert needs words, embedded in the space of the ears"
            )
        self._ears: Encoder | None = ears
        self._words, self._rows, self._near = words, rows, near

    def look(self, part: AnyPart, request: str) -> Note | None:
        """`recognized sounds: a dog`, or None where no word is near.

        Raises:
            ModelError: the expert is closed.
            UserError: the part is not a sound.
        """
        if self._ears is None:
            raise ModelError("the sound-events expert is closed")
        if part.kind != "audio":
            raise UserError(f"the sound-events expert listens to audio, not {part.kind}")
        cosines = self._rows @ self._ears.encode([part]).unit[0]
        best = int(cosines.argmax())
        if cosines[best] < self._near:
            return None
        return Note(
            expert=self.name,
            text=f"recognized sounds: {with_article(self._words[best])}",
            confidence=float(min(cosines[best], 1.0)),
            sources=(part.name,) if part.name else (),
            replaces=False,
        )

    def close(self) -> None:
        """Let go of the encoder."""
        self._ears = None


def read_words(path: Path) -> tuple[str, ...]:
    """The words of a text file, one a line.

    Raises:
        ModelError: it can't be read, or holds none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path.name} can't be read as a list of words: {error}") from error
    words = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not words:
        raise ModelError(f"{path.name} holds no words.")
    return words


def build(build: Build) -> SoundExpert:
    """Factory: `parts` "audio_encoder" and "text_encoder", shared with the model; weight role
    `words`, a text file; option `near`.

    Raises:
        UserError: the bundle has no encoder for sounds or for texts.
    """
    ears: Any = build.parts["audio_encoder"] if "audio_encoder" in build.parts else None
    texts: Any = build.parts["text_encoder"] if "text_encoder" in build.parts else None
    if ears is None or texts is None:
        raise UserError("sound-events needs encoders for audio and for text in the bundle.")
    if ears.space != texts.space:
        raise UserError(f"sound-events: sounds lie in {ears.space!r}, texts in {texts.space!r}.")
    from anybind.content import Text

    words = read_words(build.weights["words"])
    rows = np.asarray(texts.encode([Text.of(w) for w in words]).unit, np.float32)
    return SoundExpert(ears, words, rows, float(build.options.get("near", NEAR)))
