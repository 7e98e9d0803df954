"""Training samples for the bind network: what the encoders would give, and what to say then.

The text surrogate of stage 1: joint embeddings of words stand in for embeddings of pictures,
made to look like what the encoders really give (mixtures, noise, simulated image features).
A share of samples carries an unrelated embedding and a plain text task answered by the frozen
decoder itself, so that the injection does not cost the decoder its language.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from anybind.core_model.training.captions import hear, see
from anybind.core_model.training.concepts import Concept
from anybind.core_model.training.text_tasks import TextTask

_TEXTS = ("{}", "a {}", "a photo of a {}", "a picture of a {}")

ANIMALS = frozenset(
    """dog cat bear fox wolf lion tiger leopard monkey ape elephant horse donkey zebra pig sheep goat
    cow buffalo bison antelope deer camel giraffe rabbit squirrel hamster mouse rat beaver porcupine
    hedgehog kangaroo koala whale dolphin seal otter weasel badger skunk bat parrot owl eagle duck
    goose swan chicken turkey penguin peacock pigeon bird snake lizard turtle crocodile frog
    salamander shark ray fish crab lobster spider scorpion beetle butterfly moth bee ant fly
    grasshopper dragonfly snail slug insect dinosaur""".split()
)


@dataclass(frozen=True)
class Sample:
    """One question, its answer, and the joint embedding [C] that comes with it."""

    feature: Tensor
    question: str
    answer: str
    words: str = ""
    """What the embedding is of, in words; empty for unrelated ones."""
    history: tuple[tuple[str, str], ...] = ()
    """Earlier (role, text) messages."""


@dataclass(frozen=True)
class Mixture:
    """Shares of the kinds of samples."""

    eye: float = 0.55
    """Simulated (or real) image features of ImageNet classes."""
    word: float = 0.14
    """Noisy text embeddings of common words."""
    sound: float = 0.08
    text: float = 0.23
    """Text tasks under the embedding of a picture that comes with them."""


def jitter(feature: Tensor, rng: torch.Generator, most: float) -> Tensor:
    """Unit rows moved in a random direction by up to `most` of their length, unit again."""
    noise = F.normalize(torch.randn(feature.shape, generator=rng), dim=-1)
    amount = torch.rand(feature.shape[0], 1, generator=rng) * most
    return F.normalize(feature + amount * noise, dim=-1)


class Surrogate:
    """Draws batches of samples; the same step always gives the same batch."""

    def __init__(
        self,
        eye: Sequence[Concept],
        words: Sequence[Concept],
        sounds: Sequence[str],
        embed: Callable[[list[str]], Tensor],
        simulate: Callable[[Tensor, torch.Generator], Tensor],
        text_tasks: Sequence[TextTask],
        mixture: Mixture,
        seed: int = 0,
    ) -> None:
        self.eye, self.words, self.sounds = eye, words, sounds
        self.simulate, self.text_tasks, self.mixture, self.seed = (
            simulate,
            text_tasks,
            mixture,
            seed,
        )
        self.word_bank = torch.stack([embed([t.format(w.name) for w in words]) for t in _TEXTS])
        self.sound_bank = torch.stack(
            [embed([t.format(s) for s in sounds]) for t in ("{}", "the sound of {}")]
        )
        things = sorted({t.thing for t in text_tasks if t.thing})
        banks = torch.stack([embed([t.format(w) for w in things]) for t in _TEXTS], 1)
        self.things = dict(zip(things, banks, strict=True))
        # Common words come up more often; the tagged count of WordNet is a rough measure.
        self.word_weights = torch.tensor([1.0 + min(w.count, 30) for w in words])

    def batch(self, step: int, size: int) -> list[Sample]:
        """The samples of one step."""
        rng = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        py = random.Random(self.seed * 1_000_003 + step)
        m = self.mixture
        counts = [round(size * share) for share in (m.word, m.sound, m.text)]
        n_word, n_sound, n_text = counts
        n_eye = size - sum(counts)
        samples: list[Sample] = []

        classes = torch.randint(len(self.eye), (n_eye,), generator=rng)
        for feature, c in zip(self.simulate(classes, rng), classes.tolist(), strict=True):
            samples.append(Sample(feature, *_about(self.eye[c], py), _words(self.eye[c])))

        picked = torch.multinomial(self.word_weights, n_word, replacement=True, generator=rng)
        forms = torch.randint(self.word_bank.shape[0], (n_word,), generator=rng)
        features = jitter(self.word_bank[forms, picked], rng, 0.8)
        for feature, w in zip(features, picked.tolist(), strict=True):
            samples.append(Sample(feature, *_about(self.words[w], py), _words(self.words[w])))

        picked = torch.randint(len(self.sounds), (n_sound,), generator=rng)
        forms = torch.randint(self.sound_bank.shape[0], (n_sound,), generator=rng)
        features = jitter(self.sound_bank[forms, picked], rng, 0.8)
        for feature, s in zip(features, picked.tolist(), strict=True):
            samples.append(Sample(feature, *hear(self.sounds[s], py), self.sounds[s]))

        samples += [self._text_sample(rng, py) for _ in range(n_text)]
        return samples

    def _text_sample(self, rng: torch.Generator, py: random.Random) -> Sample:
        """A text task under a picture of its thing or of anything, sometimes as a second turn."""
        task = py.choice(self.text_tasks)
        if task.thing and py.random() < 0.5:
            form = py.randrange(len(_TEXTS))
            feature = jitter(self.things[task.thing][form : form + 1], rng, 0.8)[0]
            seen = (task.thing, task.thing)
        else:
            classes = torch.randint(len(self.eye), (1,), generator=rng)
            feature = self.simulate(classes, rng)[0]
            concept = self.eye[int(classes)]
            seen = (concept.name, concept.basic)
        history: tuple[tuple[str, str], ...] = ()
        if py.random() < 0.35:
            question, answer = see(*seen, py, animal=False)
            history = (("user", question), ("assistant", answer))
        return Sample(feature, task.question, task.answer, "", history)


def _about(concept: Concept, rng: random.Random) -> tuple[str, str]:
    return see(concept.name, concept.basic, rng, animal=concept.basic in ANIMALS)


def _words(concept: Concept) -> str:
    if concept.basic and concept.basic not in concept.name:
        return f"{concept.basic} {concept.name}"
    return concept.name
