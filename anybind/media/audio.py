"""Sounds: wav, flac, ogg and mp3 through libsndfile, and the sound of films. Mono or stereo."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from anybind.content import Waveform
from anybind.errors import UserError
from anybind.media.caps import CAPS, Caps
from anybind.media.formats import brief
from anybind.optional import require

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_BLOCK = 1 << 18
"""Frames read at a time."""


def decode_audio(data: bytes, label: str, caps: Caps = CAPS) -> Waveform:
    """Decode a sound to float32 [channels, frames] in -1..1.

    Raises:
        UserError: damaged, without samples, or over the caps (checked from the header).
    """
    import numpy as np

    soundfile: Any = require("soundfile", "audio")
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as sound:
            seconds = sound.frames / max(sound.samplerate, 1)
            if seconds > caps.audio_seconds or sound.frames * sound.channels > caps.audio_samples:
                raise UserError(
                    f"{label} lasts {seconds:.0f} s with {sound.channels} channels; the limit is "
                    f"{caps.audio_seconds:.0f} s. Cut it first."
                )
            samples = _read(sound, label, caps)
            rate = int(sound.samplerate)
    except UserError:
        raise
    except Exception as error:  # libsndfile reports damage through several exception types.
        raise UserError(
            f"{label} is not a readable sound, or it is damaged: {brief(error)}"
        ) from error
    if samples.shape[1] == 0:
        raise UserError(f"{label} holds no samples (zero-length sound).")
    if not np.isfinite(samples).all():
        raise UserError(f"{label} holds samples that are not numbers (NaN or infinite).")
    return Waveform(np.ascontiguousarray(samples), rate)


def _read(sound: Any, label: str, caps: Caps) -> NDArray[np.float32]:
    """All there is, block by block: a header that claims more takes no memory."""
    import numpy as np

    blocks: list[NDArray[np.float32]] = []
    total = 0
    while True:
        block = sound.read(_BLOCK, dtype="float32", always_2d=True)
        if not len(block):
            break
        blocks.append(block)
        total += block.size
        if total > caps.audio_samples:
            raise UserError(f"{label} holds more than {caps.audio_samples} samples. Cut it first.")
    if not blocks:
        return np.zeros((1, 0), np.float32)
    return np.concatenate(blocks).T


def sound_of_film(data: bytes, label: str, media_type: str, caps: Caps = CAPS) -> Waveform:
    """The sound of a film, where the film was given as a sound (`audio:film.mp4`).

    Raises:
        UserError: the film is silent, or it can't be read.
    """
    from anybind.media.video import decode_video

    sound = decode_video(data, label, media_type, caps).audio
    if sound is None:
        raise UserError(f"{label} is a silent film: it has no sound to take. Attach it as a film.")
    return sound
