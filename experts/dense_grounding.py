"""Finds phrases in a picture with the image encoder's own feature map; no detector is needed.

A phrase is weighed by the ImageNet classes that bear it as a name or as the name of a kind above
them, and by the nearness of the picture's embedding to it. The score is a logistic function of
that evidence, fitted on photographs that are not in any benchmark; boxes are drawn round the
connected parts where the evidence lies. What is not among the 1,000 classes and their kinds (a
person, the sky) can only be felt through the embedding, and seldom scores high. In drawings things
are looked for by the eye's learned head instead, as a whole and by halves (`_drawn`).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anybind.content import Box, Image
from anybind.contracts import Build
from anybind.errors import UserError
from anybind.experts._drawn import drawn
from anybind.experts._sight import Evidence, look, weigh

if TYPE_CHECKING:
    from anybind.core_model.encoders.image_hub import ImageEncoder
    from anybind.core_model.encoders.minilm import TextEncoder

THRESHOLD = 0.5
"""Support below this means: the phrase is not in the picture."""

FIRM, SOFT = 0.8, 0.05
# Offset, and the weights of the picture's share, of the best place's share (log odds above chance)
# and of the contrast. Logistic regression, classes balanced, on 137 photographs with one phrase
# that is in them and up to eight that are not; phrases that some class bears as a name, and those
# that none does.
_NAMED = (-2.43, 0.303, 0.279, 0.511)
_FELT = (-1.33, 0.360, 0.402, 0.313)
_FULL = 0.97

_DETERMINERS = frozenset(
    "a an the this that these those some any my your his her its our their one two three four "
    "five six seven eight nine ten several many few both another other".split()
)
_KNOWN = 0.8
_BANK_STEP = 10
_EDGE = 0.25
_ASIDE = 0.6
_MOST_BOXES = 3
_FINER = 8
_NEAR = 0.2
"""Parts nearer to each other than this share of the picture's longer side are one thing: the eye
knows a cat by its eyes and ears and is unsure of the fur between."""


def plain(phrase: str) -> str:
    """A phrase in lower case without leading determiners and numbers."""
    words = phrase.lower().replace(",", " ").split()
    while len(words) > 1 and (words[0] in _DETERMINERS or words[0].isdigit()):
        words = words[1:]
    return " ".join(words)


class DenseGrounding:
    """Phrases to boxes (`anybind.contracts.GroundingExpert`)."""

    name = "dense-grounding"

    def __init__(self, eye: ImageEncoder, texts: TextEncoder) -> None:
        """`eye` and `texts` must live in the same joint space.

        Raises:
            UserError: they don't.
        """
        if eye.space != texts.space:
            raise UserError(f"The eye lives in {eye.space}, the text encoder in {texts.space}.")
        self.eye = eye
        self.texts = texts
        self._words = eye.hub.kinds[::_BANK_STEP]
        self._known: dict[str, tuple[Tensor, Tensor]] = {}
        self._lock = threading.Lock()

    @property
    def threshold(self) -> float:
        """Support below this means: the phrase is not in the picture."""
        return THRESHOLD

    def ground(self, image: Image, phrases: Sequence[str]) -> list[Box]:
        """Boxes of every phrase, best first, phrase by phrase; at least one each.

        A box whose score is below `threshold` shows where the phrase would be if it were there.

        Raises:
            UserError: the picture is too small to see anything, or a phrase is empty.
        """
        if not phrases:
            return []
        if any(not phrase.strip() for phrase in phrases):
            raise UserError("A phrase to look for is empty.")
        known = [self._phrase(plain(phrase)) for phrase in phrases]
        picture = image.data
        sketch = drawn(self.eye, picture, torch.stack([embedding for embedding, _ in known]))
        if sketch is not None:
            there: list[float] = sketch.scores.tolist()  # pyright: ignore
            return [
                Box(phrase, place, score)
                for phrase, place, score in zip(phrases, sketch.places, there, strict=True)
            ]
        evidence = weigh(
            look(self.eye, picture),
            self.eye.hub,
            torch.stack([embedding for embedding, _ in known]),
            self._words,
            torch.stack([likeness for _, likeness in known]),
            firm=FIRM,
            soft=SOFT,
        )
        named = torch.stack([likeness.max() for _, likeness in known]) >= _KNOWN
        scores: list[float] = support(evidence, named).tolist()  # pyright: ignore
        found: list[Box] = []
        for phrase, score, heat in zip(phrases, scores, evidence.heat, strict=True):
            for xyxy, share in regions(heat.numpy(), picture.size):
                found.append(Box(phrase, xyxy, score * share))
        return found

    def _phrase(self, text: str) -> tuple[Tensor, Tensor]:
        """Embedding [C] and likeness to every class [K] of a phrase; kept, as talk repeats."""
        with self._lock:
            if text not in self._known:
                last = text.split()[-1]
                both = self.texts.unit([text, last])
                likeness = self.eye.hub.likeness(both)
                # "red bicycle" is no name of anything, "bicycle" is; "hot dog" is one itself.
                row = 0 if float(likeness[0].max()) >= _KNOWN else 1
                self._known[text] = (both[row], likeness[row])
            return self._known[text]

    def close(self) -> None:
        """Forget the phrases; the encoders belong to whoever lent them."""
        self._known.clear()


def support(evidence: Evidence, named: Tensor) -> Tensor:
    """Scores [P] in 0..1 of the evidence; `named` [P] tells which phrases are names of classes."""
    chance = _log_odds(evidence.chance)
    facts = (
        torch.ones_like(chance),
        _log_odds(evidence.picture) - chance,
        _log_odds(evidence.place) - chance,
        evidence.contrast,
    )
    weights = torch.where(named[:, None], torch.tensor(_NAMED), torch.tensor(_FELT))
    return torch.sigmoid((torch.stack(facts, dim=1) * weights).sum(1))


def _log_odds(log_share: Tensor) -> Tensor:
    """Log odds of logarithms of shares; label smoothing keeps any share from nearing one, so
    what little is missing says nothing."""
    return log_share - torch.log1p(-log_share.exp().clamp(max=_FULL))


Region = tuple[tuple[float, float, float, float], float]


def regions(heat: NDArray[np.float32], size: tuple[int, int]) -> list[Region]:
    """The connected hot parts of a heat map [h, w] as boxes in pixels of a picture of `size`
    (width, height), each with its share (0..1] of the highest heat, hottest first."""
    import cv2

    wide = (heat.shape[1] * _FINER, heat.shape[0] * _FINER)
    fine = cv2.resize(np.ascontiguousarray(heat), wide, interpolation=cv2.INTER_LINEAR)
    top = float(fine.max())
    mask = (fine >= _EDGE * top).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    scale = size[0] / fine.shape[1], size[1] / fine.shape[0]
    found: list[Region] = []
    for part in range(1, count):
        inside = np.asarray(labels == part)
        share = float(np.max(fine, where=inside, initial=0.0)) / max(top, 1e-12)
        x, y, width, height = (int(v) for v in stats[part][:4])
        if share >= _ASIDE:
            box = (
                x * scale[0], y * scale[1], (x + width) * scale[0], (y + height) * scale[1],
            )  # fmt: skip
            found.append((box, share))
    found = _joined(found, _NEAR * max(size))
    return sorted(found, key=lambda region: -region[1])[:_MOST_BOXES]


def _joined(found: list[Region], near: float) -> list[Region]:
    """Regions with those that lie within `near` pixels of each other put together."""
    todo, done = list(found), list[Region]()
    while todo:
        (left, top, right, bottom), share = todo.pop()
        close = [
            i
            for i, ((a, b, c, d), _) in enumerate(todo)
            if max(a - right, left - c) < near and max(b - bottom, top - d) < near
        ]
        if not close:
            done.append(((left, top, right, bottom), share))
            continue
        # Put together with one of them; the sum is looked at again, as it may reach further.
        (a, b, c, d), other = todo.pop(close[0])
        whole = (min(left, a), min(top, b), max(right, c), max(bottom, d))
        todo.append((whole, max(share, other)))
    return done


def build(build: Build) -> DenseGrounding:
    """Factory: `parts` "image_encoder" and "text_encoder", shared with the model. Without them
    the weights "backbone" and "projection", and "text_model" and "text_tokenizer", are loaded.

    Raises:
        UserError: the text encoder is neither lent nor named.
    """
    from anybind.core_model.encoders.efficientnet import load_efficientnet
    from anybind.core_model.encoders.image_hub import ImageEncoder, load_image_hub
    from anybind.core_model.encoders.minilm import load_text_encoder

    eye = build.parts["image_encoder"] if "image_encoder" in build.parts else None
    if not isinstance(eye, ImageEncoder):
        eye = ImageEncoder(
            load_efficientnet(build.weights["backbone"]),
            load_image_hub(build.weights["projection"]),
        )
    texts = build.parts["text_encoder"] if "text_encoder" in build.parts else None
    if texts is None:
        if not {"text_model", "text_tokenizer"} <= set(build.weights):
            raise UserError(
                "dense-grounding needs a text encoder in the bundle, or the weights "
                "text_model and text_tokenizer."
            )
        texts = load_text_encoder(build.weights["text_model"], build.weights["text_tokenizer"])
    return DenseGrounding(eye, texts)
