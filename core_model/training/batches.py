"""Batches of token ids from samples: rows of the model's context, packed; resumable to the batch.

Samples are drawn a window at a time, written down (`rendering`), and laid into rows so that little
is left empty. A state is that of the data at the beginning of the oldest window of which something
is left, and how much of it has been given out; windows are made anew from there.
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anybind.core_model.prompts import Renderer
from anybind.core_model.tokenizer import Tokenizer
from anybind.core_model.training.alignment import word_ids, word_table
from anybind.core_model.training.data.order import Permutation
from anybind.core_model.training.rendering import IGNORED, ConversationEncoder, Counts, Row
from anybind.core_model.training.samples import TrainingSample
from anybind.errors import UserError

PADDING = -1
"""Segment of the positions behind the last sample of a row."""
_MOST = 8192
"""Samples of a window."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of packed samples. B rows of T ids, S samples, embeddings of width C."""

    tokens: Tensor
    """int64 [B, T]; padded at the end with the end token."""
    labels: Tensor
    """int64 [B, T]: the id at the same place where it is learned, else -100. A loss compares the
    logits of position t with the label of t + 1."""
    segments: Tensor
    """int64 [B, T]: the row of `features` that the position belongs to; -1 is padding. Positions see
    earlier ones of their own segment only."""
    positions: Tensor
    """int64 [B, T]: from 0 in each segment."""
    features: Tensor
    """float32 [S, C]: the joint embedding of each sample; zeros where there is none."""
    present: Tensor
    """bool [S]: whether the sample has one."""
    samples: int
    """S."""
    words: Tensor
    """int64 [S, W]: tokens of the names of what each feature is of, see `alignment`."""
    shares: Tensor
    """float32 [S, W]: what each of them counts; a row of zeros has no words."""

    @property
    def learned(self) -> int:
        """Ids that are learned."""
        return int((self.labels != IGNORED).sum())

    @property
    def used(self) -> float:
        """Share of the positions that isn't padding."""
        return float((self.segments != PADDING).float().mean())


class Samples(Protocol):
    """What a batcher draws from; `Mixer` is one."""

    def __next__(self) -> TrainingSample: ...

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


class Piece(NamedTuple):
    """A row of ids and what goes with it."""

    row: Row
    feature: NDArray[np.float32] | None
    words: str


_Plan = list[list[Piece]]
"""Rows, each of pieces that lie in it one behind the other."""


class Batcher(Iterator[Batch]):
    """Iterates over batches.

    Args:
        samples: Where they come from.
        tokenizer: The decoder's.
        layout: Its prompt layout.
        max_tokens: Longest row: the context that is trained.
        batch_tokens: Positions of a batch, B x T. With packing a batch has `batch_tokens` /
            `max_tokens` rows (at least one); without, as many rows of like length as fit.
        dim: Width C of the embeddings.
        packing: Several samples to a row.
        windows: A window holds so many batches of ids.
    """

    def __init__(
        self,
        samples: Samples,
        tokenizer: Tokenizer,
        layout: Renderer,
        *,
        max_tokens: int,
        batch_tokens: int,
        dim: int,
        packing: bool = True,
        windows: int = 4,
    ) -> None:
        if max_tokens < 2 or batch_tokens < 1 or windows < 1:
            raise UserError("A row has 2 tokens or more, a batch and a window at least one.")
        self._samples = samples
        self._encoder = ConversationEncoder(tokenizer, layout, max_tokens)
        self._tokenizer, self._pad = tokenizer, tokenizer.eos
        self._max, self._batch, self._dim = max_tokens, batch_tokens, dim
        self._packing, self._windows = packing, windows
        self._per_batch = max(batch_tokens // max_tokens, 1) if packing else 1
        self._queue: deque[tuple[dict[str, Any], int, _Plan]] = deque()
        self._window = 0
        self.counts = Counts()

    def __next__(self) -> Batch:
        while len(self._queue) < self._per_batch and self._fill():
            pass
        if not self._queue:
            raise StopIteration
        taken = [self._queue.popleft() for _ in range(min(self._per_batch, len(self._queue)))]
        return self._assembled([row for _, _, plan in taken for row in plan])

    def state(self) -> dict[str, Any]:
        """Where it stands, for JSON: goes on with the batch that would have come next."""
        if self._queue:
            mark, index, _ = self._queue[0]
            return {**mark, "skip": index}
        return {**self._mark(), "skip": 0}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken, with the same settings.

        Raises:
            UserError: it is of other settings or other data.
        """
        if state.get("settings") != self._settings():
            raise UserError(
                f"The saved state is of batches with {state.get('settings')}, now "
                f"{self._settings()}: go on with the settings that the run began with."
            )
        try:
            counts = Counts(**{k: int(v) for k, v in state["counts"].items()})
            window, skip, data = int(state["window"]), int(state["skip"]), state["data"]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"The saved state of the batches is damaged: {error!r}") from error
        self._samples.restore(data)
        self._queue.clear()
        self._window, self.counts = window, counts
        if skip:
            self._fill()
            for _ in range(min(skip, len(self._queue))):
                self._queue.popleft()

    def _settings(self) -> list[int]:
        return [self._max, self._batch, int(self._packing), self._windows]

    def _mark(self) -> dict[str, Any]:
        return {
            "data": self._samples.state(), "window": self._window, "counts": asdict(self.counts),
            "settings": self._settings(),
        }  # fmt: skip

    def _fill(self) -> bool:
        """Draw a window and lay it into rows; False at the end of the samples."""
        mark = self._mark()
        pieces: list[Piece] = []
        size = drawn = 0
        while size < self._windows * self._batch and drawn < _MOST:
            try:
                sample = next(self._samples)
            except StopIteration:
                break
            drawn += 1
            rows, counts = self._encoder.encode(sample)
            self.counts.add(counts)
            pieces += [Piece(row, sample.feature, sample.words) for row in rows]
            size += sum(len(row.tokens) for row in rows)
        if not drawn:
            return False
        if drawn == _MOST and not pieces:
            raise UserError(
                f"Of {drawn} samples none gives a row of {self._max} tokens: {asdict(self.counts)}."
            )
        plans = self._packed(pieces) if self._packing else self._alike(pieces)
        # Packing sorts by length; what comes when must not depend on it.
        turn = Permutation(len(plans), self._window)
        self._queue.extend((mark, i, plans[turn[i]]) for i in range(len(plans)))
        self._window += 1
        return True

    def _packed(self, pieces: list[Piece]) -> list[_Plan]:
        """Longest first, each into the fullest row that has room for it."""
        rows: list[list[Piece]] = []
        room: list[tuple[int, int]] = []
        for piece in sorted(pieces, key=lambda p: -len(p.row.tokens)):
            need = len(piece.row.tokens)
            at = bisect.bisect_left(room, (need, -1))
            if at < len(room):
                left, row = room.pop(at)
            else:
                left, row = self._max, len(rows)
                rows.append([])
            rows[row].append(piece)
            bisect.insort(room, (left - need, row))
        return [[row] for row in rows]

    def _alike(self, pieces: list[Piece]) -> list[_Plan]:
        """Batches of rows of like length, a sample each."""
        plans: list[_Plan] = []
        for piece in sorted(pieces, key=lambda p: len(p.row.tokens)):
            # Sorted: this one is the longest so far, so that it sets the width.
            if plans and (len(plans[-1]) + 1) * len(piece.row.tokens) <= self._batch:
                plans[-1].append([piece])
            else:
                plans.append([[piece]])
        return plans

    def _assembled(self, rows: _Plan) -> Batch:
        longest = max(sum(len(p.row.tokens) for p in row) for row in rows)
        width = self._max if self._packing else longest
        count = sum(map(len, rows))
        tokens = torch.full((len(rows), width), self._pad)
        labels = torch.full((len(rows), width), IGNORED)
        segments = torch.full((len(rows), width), PADDING)
        positions = torch.zeros((len(rows), width), dtype=torch.int64)
        features = torch.zeros(count, self._dim)
        present = torch.zeros(count, dtype=torch.bool)
        words: list[list[list[int]]] = []
        segment = 0
        for i, row in enumerate(rows):
            at = 0
            for piece, feature, about in row:
                here = slice(at, at + len(piece.tokens))
                tokens[i, here] = torch.tensor(piece.tokens)
                labels[i, here] = torch.tensor(piece.labels)
                segments[i, here] = segment
                positions[i, here] = torch.arange(len(piece.tokens))
                if feature is not None:
                    if feature.shape != (self._dim,):
                        raise UserError(
                            f"An embedding has the shape {list(feature.shape)}; the model takes "
                            f"{self._dim} numbers."
                        )
                    features[segment] = torch.from_numpy(feature)
                    present[segment] = True
                words.append(word_ids(self._tokenizer, about) if feature is not None else [])
                segment += 1
                at = here.stop
        return Batch(
            tokens, labels, segments, positions, features, present, count, *word_table(words)
        )
