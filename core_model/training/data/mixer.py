"""Samples of several sources, mixed by weight; resumable to the very sample.

Which source comes next is decided by seed and number of the draw, so that nothing random is kept.
Records that name pictures are embedded a few dozen at a time; a state taken in the middle of such
a chunk is that of its beginning and how many of it were given out.
"""

from __future__ import annotations

import bisect
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anybind.core_model.training.data.augment import AugmentConfig
from anybind.core_model.training.data.config import DataConfig
from anybind.core_model.training.data.maker import FeatureMaker, mixed
from anybind.core_model.training.data.order import chance, mix64
from anybind.core_model.training.data.records import BadRecord, Record
from anybind.core_model.training.data.source import Report, Shard, Source
from anybind.core_model.training.samples import TrainingSample
from anybind.errors import UserError


@dataclass(frozen=True)
class Finish:
    """What is made of embeddings before they are given out: by the run-time cache, say."""

    apply: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    """Embeddings [N, C] to embeddings [N, C]."""
    kinds: frozenset[str] | None = None
    """Kinds of content whose embeddings it takes, None for all. What has no file behind it (an
    embedding that a record brings along) is of the kind "embedding"."""
    each: bool = True
    """It takes each embedding before those of a record are mixed; else the mixture, if one of them
    is of these kinds."""
    about: str = ""
    """Its settings: a state is restored only under the same ones."""

    def takes(self, kind: str) -> bool:
        """Whether it takes embeddings of a kind."""
        return self.kinds is None or kind in self.kinds


_CHUNK = 32


class Mixer(Iterator[TrainingSample]):
    """Iterates over the samples of sources."""

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        seed: int = 0,
        maker: FeatureMaker | None = None,
        finish: Finish | None = None,
        shard: Shard | None = None,
    ) -> None:
        self.sources = tuple(sources)
        self._seed = mix64(seed, 1)
        self._maker = maker
        self._finish = finish
        self._shard = shard or Shard()
        # Without something to gain from it there is no chunk.
        self._chunk = _CHUNK if maker is not None or finish is not None else 1
        self._draws = 0
        self._done: set[int] = set()
        self._ready: deque[TrainingSample] = deque()
        self._mark: dict[str, Any] | None = None
        self._given = 0
        self.seen = self.pulled = 0
        """Embeddings since it was opened, and those of them that `finish` took."""

    def __next__(self) -> TrainingSample:
        while not self._ready:
            self._mark, self._given = (self._inner() if self._chunk > 1 else None), 0
            drawn = list(itertools.islice(iter(self._draw, None), self._chunk))
            if not drawn:
                raise StopIteration
            self._ready.extend(self._embedded(drawn))
        self._given += 1
        return self._ready.popleft()

    def state(self) -> dict[str, Any]:
        """Where it stands, for JSON: goes on with the sample that would have come next."""
        if self._ready and self._mark is not None:
            return {**self._mark, "given": self._given}
        return self._inner()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken, with the same sources, seed and sharing out.

        Raises:
            UserError: they are others, or it is no such state.
        """
        wanted = self._inner()
        for name in ("seed", "shard", "finish"):
            if state.get(name) != wanted.get(name):
                raise UserError(
                    f"The saved state is of another {name} ({state.get(name)}, now {wanted.get(name)}): "
                    "go on with the settings that the run began with."
                )
        saved = state.get("sources")
        if not isinstance(saved, Mapping) or set(saved) != set(wanted["sources"]):
            raise UserError("The saved state is of other sources: go on with those it began with.")
        try:
            draws, given = int(state["draws"]), int(state.get("given", 0))
            done = {int(i) for i in state["done"]}
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"The saved state of the data is damaged: {error!r}") from error
        for source in self.sources:
            source.restore(saved[source.name])
        self._draws, self._done = draws, done
        self._ready.clear()
        self._mark, self._given = None, 0
        for _ in range(given):
            next(self)

    @property
    def finish(self) -> str:
        """What is made of embeddings before they are given out; "" for nothing."""
        return "" if self._finish is None else self._finish.about

    def summary(self) -> list[dict[str, Any]]:
        """What each source has given and what of it was bad."""
        return [s.summary() for s in self.sources]

    def shares(self) -> dict[str, float]:
        """The share of each source in the samples drawn."""
        weights = self._weights()
        return {s.name: w / sum(weights) for s, w in zip(self.sources, weights, strict=True)}

    def close(self) -> None:
        """Close files and encoders."""
        for source in self.sources:
            source.close()
        if self._maker is not None:
            self._maker.close()

    def _inner(self) -> dict[str, Any]:
        finish = {} if self._finish is None else {"finish": self._finish.about}
        return finish | {
            "seed": self._seed, "shard": [self._shard.index, self._shard.count],
            "draws": self._draws, "done": sorted(self._done),
            "sources": {s.name: s.state() for s in self.sources},
        }  # fmt: skip

    def _weights(self) -> list[float]:
        return [float(s.config.weight or s.count) for s in self.sources]

    def _draw(self) -> tuple[Source, Record, str] | None:
        """The next record of a source chosen by weight among those that have not ended."""
        weights = self._weights()
        while len(self._done) < len(self.sources):
            left = [i for i in range(len(self.sources)) if i not in self._done]
            ends = list(itertools.accumulate(weights[i] for i in left))
            point = chance(self._seed, self._draws) * ends[-1]
            chosen = left[min(bisect.bisect_right(ends, point), len(left) - 1)]
            self._draws += 1
            found = self.sources[chosen].next()
            if found is not None:
                return self.sources[chosen], *found
            self._done.add(chosen)
        return None

    def _embedded(self, drawn: Sequence[tuple[Source, Record, str]]) -> Iterator[TrainingSample]:
        features = self._features(drawn)
        for (source, record, key), feature in zip(drawn, features, strict=True):
            if isinstance(feature, BadRecord):
                source.bad(key, str(feature))
            else:
                yield TrainingSample(
                    record.messages, feature, source.name, key, record.muted, record.words
                )

    def _features(
        self, drawn: Sequence[tuple[Source, Record, str]]
    ) -> list[NDArray[np.float32] | BadRecord | None]:
        made = iter(self._made(drawn))
        every: list[list[tuple[NDArray[np.float32] | BadRecord, str]]] = []
        for _, record, _ in drawn:
            rows = [next(made) if a.row is None else (a.row, a.kind) for a in record.attachments]
            if record.feature is not None:
                rows = [(record.feature, "embedding")]
            every.append(rows)
        if self._finish is not None and self._finish.each:
            self._pull(self._finish, [(rows, i) for rows in every for i in range(len(rows))])
        out: list[NDArray[np.float32] | BadRecord | None] = []
        for rows, (_, record, _) in zip(every, drawn, strict=True):
            bad = next((r for r, _ in rows if isinstance(r, BadRecord)), None)
            good = [r for r, _ in rows if not isinstance(r, BadRecord)]
            weights = [a.weight for a in record.attachments] or [1.0]
            out.append(bad or (mixed(good, weights) if good else None))
        if self._finish is not None and not self._finish.each:
            finish = self._finish
            kinds = [next((k for _, k in rows if finish.takes(k)), "") for rows in every]
            whole = [[(row, kind)] for row, kind in zip(out, kinds, strict=True)]
            self._pull(finish, [(rows, 0) for rows in whole])
            out = [rows[0][0] for rows in whole]
        return out

    def _made(
        self, drawn: Sequence[tuple[Source, Record, str]]
    ) -> list[tuple[NDArray[np.float32] | BadRecord, str]]:
        """Embedding and kind of each attachment that has none yet, in order."""
        wanted = [a for _, record, _ in drawn for a in record.attachments if a.row is None]
        if not wanted:
            return []
        if self._maker is None:
            name = next(s.name for s, r, _ in drawn if any(a.row is None for a in r.attachments))
            raise UserError(
                f"{name} names pictures, and there is neither an encoder nor a file of features. Make "
                "one with `anybind embed --dataset`, and give it to the source as `features`."
            )
        return self._maker.make_told(wanted)

    def _pull(self, finish: Finish, places: list[tuple[list[Any], int]]) -> None:
        """Put what `finish` makes of them in the places of embeddings, each a list of (embedding,
        kind) and a place in it."""
        there = [(rows, i) for rows, i in places if isinstance(rows[i][0], np.ndarray)]
        taken = [(rows, i) for rows, i in there if finish.takes(rows[i][1])]
        self.seen += len(there)
        self.pulled += len(taken)
        if taken:
            pulled = finish.apply(np.stack([rows[i][0] for rows, i in taken]))
            for (rows, i), row in zip(taken, pulled, strict=True):
                rows[i] = (row, rows[i][1])


def open_sources(
    config: DataConfig,
    *,
    maker: FeatureMaker | None = None,
    finish: Finish | None = None,
    space: str = "",
    dim: int | None = None,
    rank: int = 0,
    world: int = 1,
    worker: int = 0,
    workers: int = 1,
    report: Report | None = None,
    held_out: float = 0.0,
    validating: bool = False,
    augment: AugmentConfig | None = None,
) -> Mixer:
    """The samples of a data section.

    Args:
        config: Its paths are taken as they are; see `DataConfig.at`.
        maker: Embeds what records name; not needed where sources have `features` or are words only.
        finish: The cache that stands before the model at run time, applied to embeddings.
        space: Joint space of the model; embeddings of another are refused. "" checks nothing.
        dim: Its width.
        rank: Of this process among `world`; each reads other records.
        world: Number of processes.
        worker: Of a data loader among `workers` of this process.
        workers: Number of workers.
        report: Called with a line about each bad record; by default a warning of the log.
        held_out: Share of the records of each source, the last ones, that is left out.
        validating: These are read, and no others.
        augment: How pictures are changed, for a `maker` that was made with it, and the views that
            `features` must hold.

    Raises:
        UserError: files are missing, not of their format, or of another space; embeddings have been
            through a cache, and `finish` is one.
    """
    shard = Shard(rank * workers + worker, world * workers)
    sources = [
        Source(
            c,
            seed=config.seed,
            shard=shard,
            epochs=config.epochs,
            report=report,
            held_out=held_out,
            validating=validating,
            augment=augment,
        )
        for c in config.sources
    ]
    if finish is not None and (through := [c for s in sources for c in s.caches]):
        path, cache = through[0]
        raise UserError(
            f"cache: the embeddings in {path.name} have been through a retrieval cache already "
            f"({cache}); a second time would pull them twice. Leave `cache` out of the stage, or "
            "give it embeddings as the encoder makes them (anybind embed --dataset)."
        )
    for source in sources:
        for path, stated, width in source.spaces:
            if (space and stated and stated != space) or (dim is not None and width != dim):
                raise UserError(
                    f"{path.name} holds embeddings of {stated!r} with {width} numbers; the model "
                    f"takes {space!r} with {dim}."
                )
    return Mixer(sources, seed=config.seed, maker=maker, finish=finish, shard=shard)
