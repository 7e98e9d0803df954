"""Content: the typed values that pass between people, models, tools, experts and generators.

A part carries its data lazily (`data` decodes at most once), its media type and its provenance.
Parts are values: nothing here knows a session, a file system layout or a model. Files of users
become parts in `anybind.media` only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, Self, TypeVar, cast

if TYPE_CHECKING:
    from fractions import Fraction

    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image as PILImage  # noqa: F401 (named in the base class of `Image`)

T = TypeVar("T")
_UNSET: Any = object()


class Lazy(Generic[T]):
    """A value that is computed on first use and then kept."""

    __slots__ = ("_make", "_value")

    def __init__(self, make: Callable[[], T] | None = None, value: T = _UNSET) -> None:
        if (make is None) == (value is _UNSET):
            raise ValueError("Lazy takes a function or a value, not both")
        self._make = make
        self._value = value

    def get(self) -> T:
        """The value; computed now if this is the first call."""
        if self._value is _UNSET:
            assert self._make is not None
            self._value = self._make()
            self._make = None
        return self._value

    def __repr__(self) -> str:
        return "<not decoded>" if self._value is _UNSET else f"<{type(self._value).__name__}>"


@dataclass(frozen=True, slots=True)
class Provenance:
    """Who made a part, and from what."""

    made_by: str = "user"
    """"user", or "tool:NAME", "expert:NAME", "generator:NAME"."""
    sources: tuple[str, ...] = ()
    """Artifact names of the parts it was made from."""


@dataclass(frozen=True, slots=True)
class Waveform:
    """Decoded sound: `samples` float32 [channels, frames] in -1..1, `rate` in hertz."""

    samples: NDArray[np.float32]
    rate: int

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return float(self.samples.shape[1]) / self.rate


class FrameSource(Protocol):
    """Where the frames and the sound of a film come from; decodes on demand."""

    def walk(
        self, start: float | Fraction, end: float | Fraction
    ) -> Iterator[tuple[float, Callable[[], Any]]]:
        """Time in seconds, and a function that gives the frame as uint8 RGB
        [height, width, 3], for each frame shown from `start` on and before `end`, in order."""
        ...

    def audio(self) -> Waveform | None:
        """The sound, or None for a silent film."""
        ...

    def encoded(self) -> bytes | None:
        """The bytes of the file it came from, if it came from one."""
        ...


@dataclass(frozen=True, slots=True)
class Footage:
    """A film that is decoded piece by piece. Times are seconds from the first frame."""

    duration: float
    """Seconds."""
    width: int
    """Pixels, as shown (a turned phone's film is upright)."""
    height: int
    rate: float
    """Frames a second, on average."""
    source: FrameSource = field(repr=False, compare=False)

    @property
    def audio(self) -> Waveform | None:
        """The sound, decoded now; None for a silent film."""
        return self.source.audio()

    @property
    def frames(self) -> NDArray[np.uint8]:
        """All frames, uint8 [time, height, width, 3]. Large: `between` decodes a piece.

        Raises:
            UserError: the film is damaged, or too long to hold in memory at once.
        """
        return self.between(0.0, float("inf"))

    def __iter__(self) -> Iterator[tuple[float, NDArray[np.uint8]]]:
        """Time and frame [height, width, 3], one at a time."""
        for time, show in self.source.walk(0.0, float("inf")):
            yield time, show()

    def between(self, start: float | Fraction, end: float | Fraction) -> NDArray[np.uint8]:
        """The frames with `start` <= time < `end`, uint8 [time, height, width, 3]; may be none.

        The film is sought, not decoded from its beginning.

        Raises:
            UserError: damaged there, or more than `MAX_FRAME_BYTES` at once.
        """
        return self._stack(self._shown(self.source.walk(start, end)))

    def pick(self, start: float | Fraction, end: float | Fraction, count: int) -> NDArray[np.uint8]:
        """`count` frames evenly from those of `between`, first and last included
        [count, height, width, 3]; frames repeat where there are fewer. [0, ...] if there are none.

        Frame `i` of `t` is number `floor(i * (t - 1) / (count - 1))`. The piece is walked twice,
        so that no more than `count` frames are held.
        """
        from fractions import Fraction

        total = sum(1 for _ in self.source.walk(start, end))
        if total == 0 or count < 1:
            return self._stack(iter(()))
        steps = max(count - 1, 1)
        wanted = [int(Fraction(i * (total - 1), steps)) for i in range(count)]
        held: dict[int, NDArray[np.uint8]] = {}
        for number, (_, show) in enumerate(self.source.walk(start, end)):
            if number in wanted:
                held[number] = show()
        return self._stack(held[i] for i in wanted)

    @staticmethod
    def _shown(
        walk: Iterator[tuple[float, Callable[[], Any]]],
    ) -> Iterator[NDArray[np.uint8]]:
        return (show() for _, show in walk)

    def _stack(self, frames: Iterator[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        import numpy as np

        from anybind.errors import UserError

        held: list[NDArray[np.uint8]] = []
        for frame in frames:
            held.append(frame)
            if len(held) * frame.nbytes > MAX_FRAME_BYTES:
                raise UserError(
                    f"These frames are more than {MAX_FRAME_BYTES >> 20} MB at once; "
                    "take a shorter piece (Footage.between), or one frame at a time."
                )
        if not held:
            return np.zeros((0, self.height, self.width, 3), np.uint8)
        return np.stack(held)

    @classmethod
    def of_frames(
        cls, frames: NDArray[np.uint8], rate: float, audio: Waveform | None = None
    ) -> Footage:
        """A film from frames in memory, uint8 [time, height, width, 3]."""
        count, height, width, _ = frames.shape
        return cls(count / rate, width, height, rate, _Held(frames, rate, audio))


MAX_FRAME_BYTES = 2 << 30
"""What `Footage` gives out at once."""


class _Held:
    """Frames in memory."""

    def __init__(self, frames: NDArray[np.uint8], rate: float, audio: Waveform | None) -> None:
        self._frames, self._rate, self._audio = frames, rate, audio

    def walk(
        self, start: float | Fraction, end: float | Fraction
    ) -> Iterator[tuple[float, Callable[[], Any]]]:
        for number in range(len(self._frames)):
            time = number / self._rate
            if start <= time < end:
                yield time, (lambda n=number: self._frames[n])

    def audio(self) -> Waveform | None:
        return self._audio

    def encoded(self) -> bytes | None:
        return None


@dataclass(frozen=True, slots=True)
class Motion:
    """Readings of an inertial sensor: float32 [steps, 6], accelerometer x y z, gyroscope x y z."""

    samples: NDArray[np.float32]
    rate: float | None = None
    """Readings a second; None where the file does not say."""

    @property
    def seconds(self) -> float | None:
        """Duration, if the rate is known."""
        return None if self.rate is None else len(self.samples) / self.rate


@dataclass(frozen=True, slots=True)
class Box:
    """A labelled region: `xyxy` in pixels of the image, `score` in 0..1."""

    label: str
    xyxy: tuple[float, float, float, float]
    score: float


@dataclass(frozen=True)
class Part(Generic[T]):
    """One piece of content. `data` decodes on first use and keeps the result."""

    kind: ClassVar[str] = "part"

    lazy: Lazy[T] = field(repr=False, compare=False)
    media_type: str = "application/octet-stream"
    provenance: Provenance = Provenance()
    name: str = ""
    """The artifact name, once a session keeps the part (`image/1a2b3c4d.png`)."""
    digest: str = ""
    """SHA-256 of the content, the key of caches; empty until a session keeps the part."""
    path: Path | None = field(default=None, compare=False)
    """Where the bytes lie, if on disk."""

    @classmethod
    def of(cls, data: T, *, made_by: str = "user", sources: Sequence[str] = ()) -> Self:
        """A part from data in memory."""
        return cls(
            lazy=Lazy(value=data),
            media_type=cls.default_media_type(),
            provenance=Provenance(made_by, tuple(sources)),
        )

    @classmethod
    def default_media_type(cls) -> str:
        """The media type a session gives this kind of part when it stores it."""
        return DEFAULT_MEDIA_TYPES.get(cls.kind, "application/octet-stream")

    @property
    def data(self) -> T:
        """The decoded content."""
        return self.lazy.get()

    def named(self, name: str, digest: str, path: Path) -> Self:
        """The same part as an artifact of a session."""
        return replace(self, name=name, digest=digest, path=path)


@dataclass(frozen=True)
class Text(Part[str]):
    """Plain text."""

    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Image(Part["PILImage"]):
    """A picture; `data` is a PIL image in mode RGB, upright (EXIF orientation applied)."""

    kind: ClassVar[str] = "image"


@dataclass(frozen=True)
class Audio(Part[Waveform]):
    """A sound; `data` is a `Waveform`."""

    kind: ClassVar[str] = "audio"


@dataclass(frozen=True)
class Video(Part[Footage]):
    """A film; `data` is a `Footage`, which decodes frames and sound on demand."""

    kind: ClassVar[str] = "video"


@dataclass(frozen=True)
class PointCloud(Part["NDArray[np.float32]"]):
    """Points in space; `data` is float32 [points, 3]."""

    kind: ClassVar[str] = "point"


@dataclass(frozen=True)
class Depth(Part["NDArray[np.float32]"]):
    """A depth map; `data` is float32 [height, width] in metres, 0 where nothing was measured."""

    kind: ClassVar[str] = "depth"


@dataclass(frozen=True)
class Thermal(Part["NDArray[np.uint8]"]):
    """A thermal picture; `data` is uint8 [height, width]."""

    kind: ClassVar[str] = "thermal"


@dataclass(frozen=True)
class IMU(Part[Motion]):
    """Accelerometer and gyroscope; `data` is a `Motion`."""

    kind: ClassVar[str] = "imu"


@dataclass(frozen=True)
class Embedding(Part["NDArray[np.float32]"]):
    """A joint embedding; `data` is float32 [C]. Embeddings of two spaces never mix."""

    kind: ClassVar[str] = "embedding"
    space: str = ""
    """The joint space it lives in, e.g. "minilm-l6-v2"."""
    raw: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)
    """The head output before the norm [C], where an encoder gives one (for generators)."""
    scaled: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)
    """The vector times its modality's logit scale [C], where the model has one (ImageBind's own
    outputs); only for logits between modalities, never to mix."""


@dataclass(frozen=True)
class Boxes(Part[tuple[Box, ...]]):
    """Regions found in a picture."""

    kind: ClassVar[str] = "boxes"


@dataclass(frozen=True)
class File(Part[bytes]):
    """Anything else, as bytes."""

    kind: ClassVar[str] = "file"


AnyPart = Part[Any]

DEFAULT_MEDIA_TYPES = {
    "text": "text/plain",
    "image": "image/png",
    "audio": "audio/wav",
    "video": "video/x-matroska",
    "point": "model/ply",
    "depth": "application/x-npy",
    "thermal": "image/png",
    "imu": "application/x-npy",
    "boxes": "application/json",
    "embedding": "application/x-safetensors",
}

KINDS: dict[str, type[AnyPart]] = {
    cls.kind: cast("type[AnyPart]", cls)
    for cls in (
        Text, Image, Audio, Video, PointCloud, Depth, Thermal, IMU, Embedding, Boxes, File,
    )
}  # fmt: skip
"""Every kind of content by its short name, as bundles, artifact names and replies write it."""
