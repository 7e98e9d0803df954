"""ImageBind-LLM as a whole: encoders, mixing, cache, injected decoder.

Usable alone (`anybind.load`): embed anything, mix, retrieve, generate. Knows no session, tool or
expert.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from anybind.assembly import Assembly
from anybind.content import AnyPart, Embedding, Provenance, Text
from anybind.contracts import (
    Delta,
    Encoder,
    EncoderSpec,
    Encoding,
    Finish,
    LanguageModel,
    Message,
    Sampling,
)
from anybind.core_model.arithmetic import Arithmetic
from anybind.core_model.mixing import mix
from anybind.core_model.retrieval import RetrievalCache
from anybind.errors import UserError
from anybind.media import from_value, looks_like_path

_KEPT_EMBEDDINGS = 256


class ImageBindLLM(Arithmetic):
    """Encoders and a decoder that meet in one joint space."""

    def __init__(
        self,
        language: LanguageModel | None,
        encoders: Sequence[Encoder],
        cache: RetrievalCache | None = None,
        cache_kinds: frozenset[str] = frozenset(),
        cache_apply: Literal["each", "mix"] = "each",
        space: str = "",
    ) -> None:
        """`language` None gives a model that embeds and mixes only; `space` names its space then."""
        self._language = language
        self.space = language.profile.space if language is not None else space
        """The joint space."""
        self.cache = cache
        self.cache_kinds = cache_kinds
        self.cache_apply: Literal["each", "mix"] = cache_apply
        self._encoders: dict[str, Encoder] = {}
        self._waiting: dict[str, Callable[[], Encoder]] = {}
        for encoder in encoders:
            for modality in encoder.modalities:
                self._encoders[modality] = encoder
        self._kept: OrderedDict[str, Embedding] = OrderedDict()

    @classmethod
    def from_bundle(
        cls,
        bundle: str | Path | Assembly = "nano",
        *,
        encoders_only: bool = False,
        **options: Any,
    ) -> ImageBindLLM:
        """Load the model of a bundle; weights are fetched if need be.

        Encoders are built when their modality is first met: a question about a picture does not
        wait for the ears. `encoders_only` leaves out decoder and cache, whose weights then need
        not be there.
        """
        assembly = bundle if isinstance(bundle, Assembly) else Assembly(bundle, **options)
        spec = assembly.bundle
        language = None if encoders_only else assembly.build("models", spec.model)
        cache, kinds, apply = None, frozenset[str](), "each"
        if spec.cache and not encoders_only:
            settings = dict(spec.cache)
            kinds, apply = frozenset(settings.pop("kinds", ())), settings.pop("apply", "each")
            settings.setdefault("bundle_space", spec.space)
            cache = RetrievalCache.load(assembly.weight(settings.pop("file")), **settings)
        model = cls(language, (), cache, kinds, apply, spec.space)
        for component in spec.encoders:
            offer = assembly.registry.spec("encoders", component.use)
            if isinstance(offer, EncoderSpec):
                make = partial(assembly.build, "encoders", component)
                model._waiting.update(dict.fromkeys(offer.modalities, make))
        return model

    @property
    def modalities(self) -> frozenset[str]:
        """The kinds of parts it takes."""
        return frozenset(self._encoders) | frozenset(self._waiting)

    @property
    def language(self) -> LanguageModel:
        """The decoder.

        Raises:
            UserError: the model was loaded without it.
        """
        if self._language is None:
            raise UserError("This model was loaded with encoders only; load it whole to ask it.")
        return self._language

    def encoder(self, modality: str) -> Encoder:
        """The encoder of a modality.

        Raises:
            UserError: the bundle has none.
        """
        if modality in self._waiting:
            self._encoders[modality] = self._waiting[modality]()
            del self._waiting[modality]
        if modality not in self._encoders:
            raise UserError(
                f"There is no encoder for {modality}; "
                f"this model takes {', '.join(sorted(self.modalities))}."
            )
        return self._encoders[modality]

    def embed_parts(self, parts: Sequence[AnyPart]) -> list[Embedding]:
        """One unit-norm embedding a part, in order; parts of one modality run as one batch."""
        found: dict[int, Embedding] = {}
        groups: dict[str, list[int]] = {}
        for i, part in enumerate(parts):
            if isinstance(part, Embedding):
                found[i] = part
            elif part.digest and part.digest in self._kept:
                self._kept.move_to_end(part.digest)
                found[i] = self._kept[part.digest]
            else:
                groups.setdefault(part.kind, []).append(i)
        for kind, places in groups.items():
            encoder = self.encoder(kind)
            coding = encoder.encode([parts[i] for i in places])
            for row, i in enumerate(places):
                found[i] = self._embedding(parts[i], coding, row, encoder)
        return [found[i] for i in range(len(parts))]

    def _embedding(
        self,
        part: AnyPart,
        coding: Encoding,
        row: int,
        encoder: Encoder,
    ) -> Embedding:
        made = replace(
            Embedding.of(coding.unit[row]),
            space=encoder.space,
            raw=coding.raw[row],
            scaled=None if coding.scaled is None else coding.scaled[row],
            provenance=Provenance(f"encoder:{part.kind}", (part.name,) if part.name else ()),
        )
        if part.digest:
            self._kept[part.digest] = made
            while len(self._kept) > _KEPT_EMBEDDINGS:
                self._kept.popitem(last=False)
        return made

    def embed(self, *things: Any) -> NDArray[np.float32]:
        """Joint embeddings [N, C] of paths, parts, PIL images, or texts.

        A string that is the path of an existing file, or looks like one (it has a suffix that
        media files have), is opened; any other string is a text. What a file holds can be said
        before its path: `depth:room.png`, `imu:walk.csv`.
        """
        if not things:
            raise UserError("Give at least one thing to embed.")
        parts = [self.part(t) for t in things]
        return np.stack([e.data for e in self.embed_parts(parts)])

    @staticmethod
    def part(thing: Any) -> AnyPart:
        """What `embed` and `generate` take, as a part: a text, or whatever an attachment can be."""
        if isinstance(thing, str) and not looks_like_path(thing):
            return Text.of(thing)
        return from_value(thing)

    def mix(
        self, embeddings: Sequence[Embedding], weights: Sequence[float] | None = None
    ) -> Embedding:
        """Mix by weight; see `anybind.core_model.mixing.mix`."""
        return mix(embeddings, weights)

    def retrieve(self, embedding: Embedding) -> Embedding:
        """Pull an embedding toward image features; unchanged if the bundle has no cache."""
        if self.cache is None:
            return embedding
        if embedding.space != self.cache.space:
            raise UserError(
                f"The cache holds {self.cache.space!r} features, not {embedding.space!r}."
            )
        pulled = self.cache.apply(embedding.data[None])[0]
        maker, _, kind = embedding.provenance.made_by.partition(":")
        made_by = f"cache:{kind}" if maker == "encoder" else "cache"
        return replace(
            Embedding.of(pulled),
            space=embedding.space,
            raw=embedding.raw,
            provenance=Provenance(made_by, embedding.provenance.sources),
        )

    def condition(
        self, parts: Sequence[AnyPart], weights: Sequence[float] | None = None
    ) -> Embedding:
        """What a decoder or generator is given of parts: embedded, mixed by weight, and pulled
        through the cache where it applies.

        The cache takes the mix if its `apply` is "mix" (as the released code does), else each
        part of the kinds that the bundle names for it.
        """
        embeddings = self.embed_parts(parts)
        cached = [p.kind in self.cache_kinds for p in parts]
        if self.cache_apply == "mix":
            mixed = self.mix(embeddings, weights)
            return self.retrieve(mixed) if any(cached) else mixed
        pulled = [
            self.retrieve(e) if pull else e for e, pull in zip(embeddings, cached, strict=True)
        ]
        return self.mix(pulled, weights)

    def generate(
        self,
        question: str,
        *things: Any,
        weights: Sequence[float] | None = None,
        sampling: Sampling | None = None,
    ) -> str:
        """Answer a question about things, without agent loop: one prompt, one reply."""
        items = self.stream(question, *things, weights=weights, sampling=sampling)
        return "".join(item.text for item in items if isinstance(item, Delta))

    def stream(
        self,
        question: str,
        *things: Any,
        weights: Sequence[float] | None = None,
        sampling: Sampling | None = None,
    ) -> Iterator[Delta | Finish]:
        """`generate` as a stream."""
        condition = None
        if things:
            condition = self.condition([self.part(t) for t in things], weights)
        prompt = self.language.render([Message("user", question)])
        return self.language.stream(prompt, condition, sampling or Sampling())

    def generate_batch(
        self,
        questions: Sequence[str],
        conditions: Sequence[Any] | None = None,
        *,
        sampling: Sampling | None = None,
    ) -> list[str]:
        """Answers to several questions in one pass of the decoder, each about its own things.

        Args:
            questions: One a row.
            conditions: One a row: None, a thing (path, text, part, embedding), or a list of
                things, which are mixed. A row gets what it would get alone.
            sampling: Greedy only (batches draw nothing); the limits and stops are used.

        Raises:
            UserError: as many conditions as questions are needed, or sampling was asked for.
        """
        rows = [None] * len(questions) if conditions is None else list(conditions)
        if len(rows) != len(questions):
            raise UserError(f"{len(questions)} questions and {len(rows)} conditions.")
        mixed: list[Embedding | None] = []
        for row in rows:
            things = row if isinstance(row, (list, tuple)) else [] if row is None else [row]
            mixed.append(self.condition([self.part(t) for t in things]) if things else None)
        prompts = [self.language.render([Message("user", q)]) for q in questions]
        chosen = sampling or Sampling()
        batch = getattr(self.language, "batch", None)
        if self.language.profile.batch and batch is not None:
            return batch(prompts, mixed, chosen)
        return [
            "".join(i.text for i in self.language.stream(p, c, chosen) if isinstance(i, Delta))
            for p, c in zip(prompts, mixed, strict=True)
        ]

    def close(self) -> None:
        """Give back what the parts hold."""
        for encoder in set(self._encoders.values()):
            encoder.close()
        self._kept.clear()
