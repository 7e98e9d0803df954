"""Pictures (and whatever else a record names) to joint embeddings, in batches, by frozen encoders.

Knows encoders by their contract only. What can't be opened or encoded becomes a `BadRecord` in its
place; the rest of the batch is not touched by it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anybind.content import AnyPart, Image
from anybind.contracts import Encoder
from anybind.core_model.training.data.augment import AugmentConfig, augmented
from anybind.core_model.training.data.records import Attachment, BadRecord, unit
from anybind.errors import ModelError, UserError

Row = NDArray[np.float32]


class FeatureMaker:
    """Embeds attachments.

    Args:
        encoder_of: The encoder of a modality; raises `UserError` where there is none.
        space: Their joint space.
        dim: Its width C; None is that of the encoder of pictures.
        batch: Parts encoded at once.
        augment: How pictures are changed that come with a `draw`.
    """

    def __init__(
        self,
        encoder_of: Callable[[str], Encoder],
        space: str,
        dim: int | None = None,
        batch: int = 16,
        augment: AugmentConfig | None = None,
    ) -> None:
        self._encoder_of = encoder_of
        self._augment = augment
        self.space = space
        self._dim = dim
        self.batch = batch
        self.close: Callable[[], None] = lambda: None

    @classmethod
    def of_bundle(
        cls,
        bundle: str,
        batch: int = 16,
        progress: Any = None,
        augment: AugmentConfig | None = None,
    ) -> FeatureMaker:
        """With the encoders of a bundle; each is built when the first part of its kind is met."""
        from anybind.assembly import Assembly
        from anybind.core_model.retrieval.embedding import encoder_of

        assembly = Assembly(bundle, progress=progress)

        def of(kind: str) -> Encoder:
            return encoder_of(assembly, kind)

        maker = cls(of, assembly.bundle.space, batch=batch, augment=augment)
        maker.close = assembly.close
        return maker

    @property
    def dim(self) -> int:
        """Width C of the joint space."""
        if self._dim is None:
            self._dim = self._encoder_of("image").dim
        return self._dim

    def make(self, wanted: Sequence[Attachment]) -> list[Row | BadRecord]:
        """One embedding [C] of unit norm, or why there is none, for each attachment, in order.

        Raises:
            ModelError: an encoder gives rows of another number or width than it says.
        """
        return [row for row, _ in self.make_told(wanted)]

    def make_told(self, wanted: Sequence[Attachment]) -> list[tuple[Row | BadRecord, str]]:
        """`make`, and the kind of content that each was found to be ("" if it can't be opened)."""
        out: list[tuple[Row | BadRecord, str] | None] = [None] * len(wanted)
        by_kind: dict[str, list[tuple[int, AnyPart]]] = {}
        last: tuple[Attachment, AnyPart] | None = None
        for i, attachment in enumerate(wanted):
            try:
                if last is None or not _same(last[0], attachment):
                    last = attachment, _opened(attachment)
                part = self._augmented(last[1], attachment.draw)
                by_kind.setdefault(part.kind, []).append((i, part))
            except (UserError, ValueError, OSError) as error:
                last = None
                out[i] = BadRecord(f"{_shown(attachment)}: {error}"), ""
        for kind, parts in by_kind.items():
            for start in range(0, len(parts), self.batch):
                some = parts[start : start + self.batch]
                rows = self._encode(kind, [p for _, p in some])
                for (i, _), row in zip(some, rows, strict=True):
                    bad = isinstance(row, BadRecord)
                    out[i] = BadRecord(f"{_shown(wanted[i])}: {row}") if bad else row, kind
        return [row for row in out if row is not None]

    def _augmented(self, part: AnyPart, draw: int | None) -> AnyPart:
        if self._augment is None or draw is None or not isinstance(part, Image):
            return part
        return Image.of(augmented(part.data, self._augment, draw))

    def _encode(self, kind: str, parts: Sequence[AnyPart]) -> list[Row | BadRecord]:
        try:
            rows = self._encoder_of(kind).encode(parts).unit
        except UserError as error:
            if len(parts) == 1:
                return [BadRecord(str(error))]
            return [row for part in parts for row in self._encode(kind, [part])]
        if rows.shape != (len(parts), self.dim):
            raise ModelError(
                f"The encoder for {kind} gave {list(rows.shape)}, not {[len(parts), self.dim]}."
            )
        out: list[Row | BadRecord] = []
        for row in rows:
            try:
                out.append(unit(row, "its embedding"))
            except BadRecord as error:
                out.append(error)
        return out


def _same(one: Attachment, other: Attachment) -> bool:
    """Whether both are the same file or bytes, so that it need not be opened again."""
    return one.data is other.data and one.path == other.path


def _shown(attachment: Attachment) -> str:
    """Its key, for messages (one of a view ends behind the NUL)."""
    return attachment.key.partition("\0")[0][:200]


def _opened(attachment: Attachment) -> AnyPart:
    from anybind.media import CAPS, decode_image, open_file

    if attachment.data is None:
        return open_file(attachment.path)
    if len(attachment.data) > CAPS.file_bytes:
        raise UserError(f"it has over {CAPS.file_bytes >> 20} MB")
    return Image.of(decode_image(attachment.data, attachment.key))


def mixed(rows: Sequence[Row], weights: Sequence[float]) -> Row:
    """One embedding as it is; several by weight as at run time (paper 4.4.2; not of unit norm)."""
    if len(rows) == 1:
        return rows[0]
    shares = np.asarray(weights, np.float32) / np.float32(sum(weights) + 1e-6)
    return np.einsum("n,nc->c", shares, np.stack(rows)).astype(np.float32)
