"""A process that throws damaged files at one parser, and says what came of it.

Run as `python fuzzing.py KIND COUNT`; prints one JSON object. In a process of its own, so that
memory can be limited and measured and a crash of native code is a failed test, not a dead run.
"""

from __future__ import annotations

import io
import json
import random
import resource
import struct
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

LIMIT = 4 << 30
"""Bytes of address space."""
HOSTILE = (
    b"1000000000000", b"4294967295", b"-1", b"0", b"1e308", b"nan", b"inf", b"2147483647",
    b"9999999999999999999", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\x80",
    b"(" * 200, b"[" * 200, b"\n", b" ", b"'", b"x" * 300,
)  # fmt: skip


def damaged(good: bytes, rng: random.Random) -> bytes:
    """One of: cut, bytes changed, a piece repeated, dropped or replaced by something hostile, a
    number of its text blown up; or noise behind the first bytes."""
    data = bytearray(good)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        # Most of the harm is done in headers.
        size = len(data)
        reach = min(size, rng.choice((16, 64, 300, 2000, size)))
        at = rng.randrange(reach) if reach else 0
        match rng.randrange(7):
            case 0:
                del data[rng.randrange(size) if size else 0 :]
            case 1:
                for i in range(at, min(at + rng.choice((1, 2, 4, 8)), size)):
                    data[i] = rng.randrange(256)
            case 2:
                data[at:at] = data[at : at + rng.randrange(1, 200)]
            case 3:
                del data[at : at + rng.randrange(1, 60)]
            case 4:
                word = rng.choice(HOSTILE)
                data[at : at + rng.choice((0, len(word)))] = word
            case 5:
                digits = [i for i in range(reach) if 48 <= data[i] <= 57]
                if digits:
                    i = rng.choice(digits)
                    data[i : i + 1] = rng.choice(HOSTILE[:9])
            case _:
                data[at:] = rng.randbytes(rng.randrange(200))
    return bytes(data)


# ---------------------------------------------------------------- the good files


def _npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def _pcd(storage: str, body: bytes) -> bytes:
    head = (
        "# .PCD v0.7\nVERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 20\n"
        f"HEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS 20\nDATA {storage}\n"
    )
    return head.encode() + body


def samples(kind: str) -> tuple[list[bytes], Callable[[bytes], Any]]:
    """Good files of a kind, and what reads them."""
    from anybind import media
    from anybind.media.ply import write_ply

    rng = np.random.default_rng(0)
    cloud = rng.normal(size=(20, 3)).astype("<f4")
    text = "\n".join(" ".join(map(str, p)) for p in cloud.tolist()).encode() + b"\n"
    if kind in ("obj", "stl", "ply", "off", "glb"):
        import trimesh

        box = trimesh.creation.box()
        types = {"stl": ["stl", "stl_ascii"]}.get(kind, [kind])
        files = [box.export(file_type=t) for t in types]
        if kind == "ply":
            files += [box.export(file_type="ply", encoding="ascii"), write_ply(cloud)]
            files.append(write_ply(cloud).replace(b"little", b"big"))
        if kind == "obj":
            files.append(b"".join(b"v 1 2 %d\n" % i for i in range(9)))
        name = "gltf-binary" if kind == "glb" else kind
        return (
            [f if isinstance(f, bytes) else f.encode() for f in files],
            lambda d: _cloud(media.decode_points(d, "f", f"model/{name}")),
        )
    if kind == "pcd":
        raw = np.ascontiguousarray(cloud.T).tobytes()
        packed = b"".join(
            bytes([len(raw[i : i + 32]) - 1]) + raw[i : i + 32] for i in range(0, 240, 32)
        )
        squeezed = struct.pack("<II", len(packed), len(raw)) + packed
        files = [
            _pcd("ascii", text),
            _pcd("binary", cloud.tobytes()),
            _pcd("binary_compressed", squeezed),
        ]
        return files, lambda d: _cloud(media.decode_points(d, "f", "model/pcd"))
    if kind == "xyz":
        return [text, b"20\n" + text], lambda d: _cloud(media.decode_points(d, "f", "model/pts"))
    if kind == "npy":
        stream = io.BytesIO()
        np.savez_compressed(stream, a=cloud)
        return (
            [_npy(cloud), _npy(cloud.astype("f8")), stream.getvalue()],
            lambda d: _cloud(media.decode_points(d, "f", "application/x-npy")),
        )
    if kind == "depth":
        from PIL import Image

        stream = io.BytesIO()
        Image.fromarray(rng.integers(1, 9999, (9, 12)).astype(np.uint16)).save(stream, "PNG")
        tiff = io.BytesIO()
        Image.fromarray(rng.uniform(1, 9, (9, 12)).astype(np.float32)).save(tiff, "TIFF")
        files = [stream.getvalue(), tiff.getvalue(), _npy(rng.uniform(1, 9, (9, 12)))]
        return files, lambda d: _finite(media.decode_depth(d, "f"))
    if kind == "imu":
        rows = rng.normal(size=(20, 6))
        timed = np.concatenate([np.arange(20)[:, None] / 100, rows], axis=1)
        lines = "\n".join(",".join(map(str, r)) for r in timed.tolist())
        head = "time_ms,ax,ay,az,gx,gy,gz\n"
        files = [(head + lines).encode(), lines.encode(), _npy(rows), _npy(timed)]
        return files, lambda d: _finite(media.decode_imu(d, "f").samples)
    if kind == "wav":
        import soundfile

        files = []
        for subtype, channels in (("PCM_16", 1), ("FLOAT", 2), ("PCM_U8", 1), ("IMA_ADPCM", 1)):
            stream = io.BytesIO()
            tone = rng.uniform(-0.5, 0.5, (900, channels))
            soundfile.write(stream, tone, 8000, format="WAV", subtype=subtype)
            files.append(stream.getvalue())
        return files, lambda d: _finite(media.decode_audio(d, "f").samples)
    return _films(media)


def _films(media: Any) -> tuple[list[bytes], Callable[[bytes], Any]]:
    from tests.films import film

    size = {"frames": 6, "size": (32, 32)}
    films = [
        film("mp4", "mpeg4", sound="aac", **size), film("matroska", "ffv1", pixels="bgr0", **size),
        film("webm", "libvpx-vp9", **size), film("avi", "mpeg4", sound="pcm_s16le", **size),
        film("mp4", "libx264", **size),
    ]  # fmt: skip

    def read(data: bytes) -> None:
        form = media.sniff(data[:64])
        found = media.decode_video(data, "f", form[1] if form else "video/mp4")
        assert found.duration > 0 and found.rate > 0
        frames = found.pick(0.0, 2.0, 2)
        assert frames.shape[1:] == (found.height, found.width, 3)
        sound = found.audio
        assert sound is None or sound.samples.ndim == 2

    return films, read


def _cloud(points: Any) -> None:
    assert points.dtype == np.float32 and points.ndim == 2 and points.shape[1] == 3
    assert len(points) > 1
    _finite(points)


def _finite(array: Any) -> None:
    assert np.isfinite(array).all() and array.size


def main(kind: str, count: int) -> dict[str, Any]:
    from anybind.errors import UserError

    files, read = samples(kind)
    for good in files:
        read(good)
    rng = random.Random(f"{kind}-1")
    cases = [damaged(rng.choice(files), rng) for _ in range(count)]
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))
    warnings.simplefilter("error")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    opened = refused = 0
    slowest = 0.0
    other: list[str] = []
    for number, data in enumerate(cases):
        began = time.perf_counter()
        try:
            read(data)
            opened += 1
        except UserError as error:
            refused += 1
            assert len(str(error)) < 1000, str(error)
        except BaseException as error:
            other.append(f"{number}: {type(error).__name__}: {error} {data[:80]!r}")
        slowest = max(slowest, time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "opened": opened, "refused": refused, "other": other[:5], "others": len(other),
        "grown_mb": (peak - before) / 1024, "slowest": slowest,
    }  # fmt: skip


if __name__ == "__main__":
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).parents[2]))
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))
