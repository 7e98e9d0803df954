"""Films: mp4, mov, webm, mkv and avi through PyAV, decoded piece by piece; and written without
loss.

The demuxer is chosen by the first bytes of the file and never guessed by the library, so that
play lists and other formats that name further files are not followed.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from anybind.content import Footage, Waveform
from anybind.errors import UserError
from anybind.media.caps import CAPS, Caps
from anybind.media.formats import brief
from anybind.optional import require

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_DEMUXERS = {
    "video/mp4": "mov",
    "video/quicktime": "mov",
    "video/webm": "matroska",
    "video/x-matroska": "matroska",
    "video/avi": "avi",
}

EXTENSIONS = {
    "video/mp4": "mp4",
    "video/quicktime": "mov",
    "video/webm": "webm",
    "video/x-matroska": "mkv",
    "video/avi": "avi",
}
"""Media type of a film to the ending of its file."""

_MAX_STREAMS = 64


def decode_video(data: bytes, label: str, media_type: str, caps: Caps = CAPS) -> Footage:
    """Probe a film: its first frame is decoded, the rest when it is asked for.

    Raises:
        UserError: no film, damaged at its beginning, without pictures, or over the caps.
    """
    demuxer = _DEMUXERS.get(media_type)
    if demuxer is None:
        raise UserError(f"{label} is not a film (mp4, webm, mkv, mov, avi).")
    film = Film(data, demuxer, label, caps)
    return Footage(film.duration, film.width, film.height, film.rate, film)


class Film:
    """The bytes of one film; every access opens them anew, so pieces may be read in any order."""

    def __init__(self, data: bytes, demuxer: str, label: str, caps: Caps) -> None:
        self._data, self._demuxer, self._label, self._caps = data, demuxer, label, caps
        with self._opened() as container:
            stream = self._pictures(container)
            context = stream.codec_context
            self._check_size(context.width, context.height)
            first = next(self._decoded(container, stream), None)
            if first is None:
                raise UserError(f"{label} is a film without a single readable picture.")
            self._check_size(first.width, first.height)
            self._turn = round((first.rotation or 0) / 90) % 4
            self._raw = (first.width, first.height)
            self._origin = self._time(first, stream) or Fraction(0)
            rate = stream.average_rate or stream.guessed_rate
            self.rate = float(rate) if rate and 0 < rate < 100_000 else 0.0
            told = stream.duration and stream.duration > 0 and stream.time_base
            duration = stream.duration * Fraction(stream.time_base) if told else None
        self.duration = float(duration or self._measured())
        if self.duration > caps.video_seconds:
            raise UserError(
                f"{label} lasts {self.duration:.0f} s; the limit is {caps.video_seconds:.0f} s. "
                "Cut it first."
            )
        self.rate = self.rate or 1.0 / self.duration
        width, height = self._raw
        self.width, self.height = (height, width) if self._turn % 2 else (width, height)

    # ------------------------------------------------------------ what content.FrameSource asks

    def walk(
        self, start: float | Fraction, end: float | Fraction
    ) -> Iterator[tuple[float, Callable[[], Any]]]:
        """Times and frames from `start` on and before `end`; see `anybind.content.FrameSource`."""
        with self._opened() as container:
            stream = self._pictures(container)
            frames = self._sought(container, stream, start) if start > 0 else None
            if frames is not None:
                yield from self._between(frames, stream, start, end)
                return
        # From the beginning: asked for, or the file has no index that could be trusted.
        with self._opened() as container:
            stream = self._pictures(container)
            yield from self._between(self._decoded(container, stream), stream, start, end)

    def audio(self) -> Waveform | None:
        """The sound in its own rate and channels, or None for a silent film."""
        import numpy as np

        av: Any = require("av", "video")
        pieces: list[NDArray[np.float32]] = []
        total = 0
        with self._opened() as container:
            if not container.streams.audio:
                return None
            stream = self._decodable(container.streams.audio[0])
            rate = int(stream.codec_context.sample_rate or 0)
            resampler = av.AudioResampler(format="fltp")
            try:
                for frame in self._decoded(container, stream, flush=True):
                    for made in resampler.resample(frame):
                        rate = int(made.sample_rate)
                        pieces.append(made.to_ndarray())
                        total += pieces[-1].size
                        if total > self._caps.audio_samples or (
                            pieces and total / len(pieces[-1]) / rate > self._caps.audio_seconds
                        ):
                            raise UserError(
                                f"The sound of {self._label} is longer than "
                                f"{self._caps.audio_seconds:.0f} s. Cut it first."
                            )
            except UserError:
                raise
            except Exception as error:
                raise self._damaged(error) from error
        if total == 0:
            return None
        if len({len(piece) for piece in pieces}) > 1:
            raise UserError(f"The sound of {self._label} changes its number of channels.")
        samples = np.concatenate(pieces, axis=1)
        if not np.isfinite(samples).all():
            raise UserError(f"The sound of {self._label} holds samples that are not numbers.")
        return Waveform(samples, rate)

    def encoded(self) -> bytes:
        """The file as it was given."""
        return self._data

    # ------------------------------------------------------------ PyAV

    @contextmanager
    def _opened(self) -> Generator[Any]:
        av: Any = require("av", "video")
        limit = {"max_pixels": str(self._caps.video_pixels)}
        try:
            container = av.open(
                io.BytesIO(self._data),
                format=self._demuxer,
                options={"max_streams": str(_MAX_STREAMS)},
                stream_options=[limit] * _MAX_STREAMS,
            )
        except Exception as error:  # FFmpeg reports damage through many exception types.
            raise UserError(
                f"{self._label} is not a readable film (video), or it is damaged: {brief(error)}"
            ) from error
        try:
            for stream in container.streams.video:
                if stream.codec_context is not None:
                    stream.codec_context.options = limit
            yield container
        finally:
            container.close()

    def _pictures(self, container: Any) -> Any:
        if not container.streams.video:
            raise UserError(f"{self._label} holds no pictures; give a sound as wav, flac or ogg.")
        return self._decodable(container.streams.video[0])

    def _decodable(self, stream: Any) -> Any:
        if stream.codec_context is None:
            raise UserError(f"{self._label} is coded in a way that can't be decoded here.")
        return stream

    def _decoded(self, container: Any, stream: Any, flush: bool = False) -> Iterator[Any]:
        """Decoded frames; whatever FFmpeg says of damage is one error. A None at the end, for
        those who must flush."""
        try:
            yield from container.decode(stream)
        except (UserError, GeneratorExit):
            raise
        except Exception as error:
            raise self._damaged(error) from error
        if flush:
            yield None

    def _sought(self, container: Any, stream: Any, start: float | Fraction) -> Iterator[Any] | None:
        """Frames from a key frame at or before `start`; None if the file can't be sought."""
        try:
            target = int((Fraction(start) + self._origin) / stream.time_base)
            container.seek(target, stream=stream, backward=True)
            frames = container.decode(stream)
            first = next(frames, None)
        except Exception:  # no index, or a wrong one: `walk` decodes from the beginning
            return None
        if first is None or (self._time(first, stream) or Fraction(0)) - self._origin > start:
            return None

        def chain() -> Iterator[Any]:
            yield first
            try:
                yield from frames
            except GeneratorExit:
                raise
            except Exception as error:
                raise self._damaged(error) from error

        return chain()

    def _between(
        self, frames: Iterator[Any], stream: Any, start: float | Fraction, end: float | Fraction
    ) -> Iterator[tuple[float, Callable[[], Any]]]:
        last = Fraction(-1)
        for frame in frames:
            time = self._time(frame, stream)
            time = last if time is None else time - self._origin
            last = time
            if time >= end:
                return
            if time >= start and not frame.is_corrupt:
                yield float(time), (lambda shown=frame: self._shown(shown))

    def _time(self, frame: Any, stream: Any) -> Fraction | None:
        if frame.pts is None:
            return None
        return frame.pts * Fraction(frame.time_base or stream.time_base)

    def _shown(self, frame: Any) -> NDArray[np.uint8]:
        """RGB, in the size of the first frame, upright."""
        import numpy as np

        try:
            width, height = self._raw
            pixels = frame.to_ndarray(format="rgb24", width=width, height=height)
        except Exception as error:
            raise self._damaged(error) from error
        return np.ascontiguousarray(np.rot90(pixels, self._turn)) if self._turn else pixels

    # ------------------------------------------------------------ how long it is

    def _measured(self) -> Fraction:
        """The end of the last picture, for formats whose header gives no duration of the pictures
        alone (Matroska gives that of the whole, sound and lead-in included). Nothing is decoded.
        """
        last = Fraction(0)
        usual = Fraction(1 / self.rate).limit_denominator(1000) if self.rate else Fraction(1, 25)
        with self._opened() as container:
            stream = self._pictures(container)
            try:
                for packet in container.demux(stream):
                    if packet.pts is not None:
                        tick = Fraction(packet.time_base)
                        length = packet.duration * tick if packet.duration else usual
                        last = max(last, packet.pts * tick + length - self._origin)
            except Exception as error:
                if not last:
                    raise self._damaged(error) from error
        return last or usual

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self._caps.video_pixels:
            raise UserError(
                f"{self._label} is {width} x {height} pixels; the limit is "
                f"{self._caps.video_pixels / 1e6:.0f} million. Shrink it first."
            )

    def _damaged(self, error: Exception) -> UserError:
        return UserError(
            f"{self._label} is a film that is damaged or can't be decoded: {brief(error)}"
        )


def encode_video(footage: Footage) -> tuple[bytes, str]:
    """A film as bytes and their media type, without loss.

    A film that came from a file is that file; frames in memory become FFV1 and float PCM in
    Matroska, whose times are whole milliseconds.

    Raises:
        UserError: there is not one frame.
    """
    from anybind.media.formats import sniff

    given = footage.source.encoded()
    if given is not None:
        found = sniff(given[:64])
        return given, found[1] if found else "video/x-matroska"
    av: Any = require("av", "video")
    stream = io.BytesIO()
    count = 0
    with av.open(stream, "w", format="matroska") as container:
        pictures = container.add_stream("ffv1", Fraction(footage.rate).limit_denominator(1_001_000))
        pictures.width, pictures.height, pictures.pix_fmt = footage.width, footage.height, "bgr0"
        sound = footage.audio
        track = None
        if sound is not None:
            track = container.add_stream("pcm_f32le", rate=sound.rate, layout=_layout(sound))
        for _, pixels in footage:
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(pictures.encode(frame))
            count += 1
        if count == 0:
            raise UserError("A film without frames can't be kept.")
        container.mux(pictures.encode())
        if sound is not None and track is not None:
            _mux_sound(av, container, track, sound)
    return stream.getvalue(), "video/x-matroska"


def _layout(sound: Waveform) -> str:
    """FFmpeg's name of as many channels."""
    return {1: "mono", 2: "stereo"}.get(len(sound.samples), f"{len(sound.samples)}c")


def _mux_sound(av: Any, container: Any, track: Any, sound: Waveform) -> None:
    import numpy as np

    interleaved = np.ascontiguousarray(sound.samples.T.reshape(1, -1))
    frame = av.AudioFrame.from_ndarray(interleaved, format="flt", layout=_layout(sound))
    frame.sample_rate = sound.rate
    frame.pts = 0
    container.mux(track.encode(frame))
    container.mux(track.encode())
