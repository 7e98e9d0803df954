"""What is refused before it is decoded: the limits of every opener. Knows no format."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caps:
    """What is refused before decoding."""

    file_bytes: int = 128 << 20
    pixels: int = 50_000_000
    side: int = 20_000
    audio_seconds: float = 1800.0
    audio_samples: int = 200_000_000
    text_bytes: int = 1 << 20
    video_seconds: float = 7200.0
    video_pixels: int = 8192 * 4320
    """Of one frame."""
    points: int = 4_000_000
    imu_steps: int = 1_000_000


CAPS = Caps()
