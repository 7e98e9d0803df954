"""Films for tests, written by PyAV: each frame's grey is its number times `STEP`."""

from __future__ import annotations

import io
from typing import Any

import av
import numpy as np

STEP = 2


def film(
    form: str = "mp4",
    codec: str = "libx264",
    *,
    pixels: str = "yuv420p",
    sound: str | None = None,
    channels: int = 1,
    frames: int = 100,
    rate: int = 25,
    size: tuple[int, int] = (64, 48),
    gop: int = 12,
) -> bytes:
    stream = io.BytesIO()
    width, height = size
    with av.open(stream, "w", format=form) as container:
        pictures: Any = container.add_stream(codec, rate=rate)
        pictures.width, pictures.height, pictures.pix_fmt = width, height, pixels
        pictures.codec_context.gop_size = gop
        pictures.codec_context.bit_rate = 4_000_000
        layout = {1: "mono", 2: "stereo"}[channels]
        track: Any = container.add_stream(sound, rate=16_000, layout=layout) if sound else None
        for number in range(frames):
            grey = np.full((height, width, 3), number * STEP % 256, np.uint8)
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(pictures.encode())
        if track is not None:
            time = np.arange(16_000 * frames // rate) / 16_000
            tone = (0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
            resampler = av.AudioResampler(format=track.format, layout=layout, rate=16_000)
            planes = np.repeat(tone[None], channels, axis=0)
            frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout=layout)
            frame.sample_rate, frame.pts = 16_000, 0
            for piece in [*resampler.resample(frame), *resampler.resample(None)]:
                container.mux(track.encode(piece))
            container.mux(track.encode())
    return stream.getvalue()


def turned(data: bytes, degrees: int) -> bytes:
    """An mp4 whose track header says that it is to be shown turned, as phones write it."""
    at = data.index(b"tkhd") + 4
    matrix = at + 4 + 4 * 5 + 8 + 8  # version, times and ids, reserved, layer to volume
    cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    numbers = [cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30]
    packed = b"".join((n & 0xFFFFFFFF).to_bytes(4, "big") for n in numbers)
    return data[:matrix] + packed + data[matrix + 36 :]
