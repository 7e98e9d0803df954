"""Whatever a user hands over: a part, or one plain `UserError` that names it."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image as pil

from anybind.content import Audio, Image, PointCloud, Text
from anybind.errors import UserError
from anybind.media import Caps, decode_audio, decode_image, from_value, open_file, sniff


def noise(mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> pil.Image:
    rng = np.random.default_rng(0)
    return pil.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8)).convert(mode)


def encoded(picture: pil.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


def sound(form: str = "WAV", seconds: float = 0.2, channels: int = 1, **options: Any) -> bytes:
    rng = np.random.default_rng(1)
    stream = io.BytesIO()
    samples = rng.uniform(-0.5, 0.5, (int(8000 * seconds), channels)).astype(np.float32)
    soundfile.write(stream, samples, 8000, format=form, **options)
    return stream.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + chunk(b"IEND", b"")
    )  # fmt: skip


def wav_header(
    data: bytes, *, claimed: int, rate: int = 8000, form: int = 1, bits: int = 16
) -> bytes:
    block = bits // 8
    fmt = struct.pack("<HHIIHH", form, 1, rate, rate * block, block, bits)
    body = b"WAVEfmt " + struct.pack("<I", 16) + fmt + b"data" + struct.pack("<I", claimed) + data
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + body


def flac_header(frames: int) -> bytes:
    info = struct.pack(">HH", 4096, 4096) + b"\0" * 6
    packed = (8000 << 44) | (0 << 41) | (15 << 36) | frames
    info += packed.to_bytes(8, "big") + b"\0" * 16
    return b"fLaC" + b"\x80" + len(info).to_bytes(3, "big") + info + b"\xff\xf8" * 40


# ---------------------------------------------------------------- what opens


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_pictures_open_as_rgb(tmp_path: Path, form: str) -> None:
    path = tmp_path / "odd.name"
    path.write_bytes(encoded(noise(), form))
    part = open_file(path)
    assert isinstance(part, Image) and part.media_type == f"image/{form.lower()}"
    assert (part.data.mode, part.data.size) == ("RGB", (40, 30))
    if form in ("PNG", "BMP"):
        assert part.data.tobytes() == noise().tobytes()


def test_a_cmyk_jpeg_keeps_its_colours() -> None:
    red = pil.new("RGB", (8, 8), (250, 10, 10)).convert("CMYK")
    r, g, b = decode_image(encoded(red, "JPEG", quality=95), "x").getpixel((4, 4))
    assert r > 200 and g < 60 and b < 60


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    ramp = np.linspace(1000, 60_000, 256).astype(np.uint16).reshape(16, 16)
    got = np.asarray(decode_image(encoded(pil.fromarray(ramp), "PNG"), "x"))[..., 0].ravel()
    assert got[0] == 0 and got[-1] >= 254
    assert (np.diff(got.astype(int)) >= 0).all() and len(np.unique(got)) > 200


def test_a_flat_sixteen_bit_picture_opens() -> None:
    flat = pil.fromarray(np.full((4, 4), 777, np.uint16))
    assert decode_image(encoded(flat, "PNG"), "x").size == (4, 4)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_lies_on_white(mode: str) -> None:
    clear = pil.new("RGBA", (6, 6), (200, 0, 0, 0))
    clear.putpixel((0, 0), (0, 0, 255, 255))
    picture = clear if mode == "RGBA" else clear.convert("LA") if mode == "LA" else clear.quantize()
    got = decode_image(encoded(picture, "PNG"), "x")
    assert got.getpixel((5, 5)) == (255, 255, 255) != got.getpixel((0, 0))


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr", "I", "F", "HSV"])
def test_a_pil_picture_of_any_mode_is_taken(mode: str) -> None:
    part = from_value(noise("L").convert(mode) if mode in ("I", "F") else _as(mode))
    assert isinstance(part, Image) and part.data.mode == "RGB"


def _as(mode: str) -> pil.Image:
    return noise("L").convert(mode) if mode == "LA" else noise().convert(mode)


@pytest.mark.parametrize("given_as", ["file", "pil"])
def test_exif_rotation_is_applied(tmp_path: Path, given_as: str) -> None:
    picture = pil.new("RGB", (20, 10), (0, 0, 0))
    picture.putpixel((0, 0), (255, 255, 255))
    exif = pil.Exif()
    exif[0x0112] = 6  # the camera was turned: show it a quarter to the right
    path = tmp_path / "a.png"
    picture.save(path, exif=exif)
    with pil.open(path) as opened:
        part = open_file(path) if given_as == "file" else from_value(opened)
    assert part.data.size == (10, 20)
    assert part.data.getpixel((9, 0)) == (255, 255, 255)


@pytest.mark.parametrize(("form", "channels"), [("WAV", 1), ("WAV", 2), ("FLAC", 2), ("OGG", 1), ("MP3", 1)])  # fmt: skip
def test_sounds_open(tmp_path: Path, form: str, channels: int) -> None:
    path = tmp_path / "s"
    path.write_bytes(sound(form, channels=channels))
    part = open_file(path)
    assert isinstance(part, Audio)
    wave = part.data
    assert wave.samples.dtype == np.float32 and wave.samples.shape[0] == channels
    assert wave.rate == 8000 and wave.seconds == pytest.approx(0.2, abs=0.15)


def test_text_opens(tmp_path: Path) -> None:
    path = tmp_path / "a.TXT"
    path.write_bytes("\ufeffGrüße".encode())
    part = open_file(str(path))
    assert isinstance(part, Text) and part.data == "Grüße"


def test_parts_pass_through_and_home_is_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = Text.of("x")
    assert from_value(part) is part
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.txt").write_text("hi")
    assert from_value("~/a.txt").data == "hi"


# ---------------------------------------------------------------- what does not


BAD: dict[str, bytes] = {
    "empty.png": b"",
    "rubbish.png": b"\x89PNG\r\n\x1a\n" + b"rubbish" * 20,
    "cut.png": encoded(noise(), "PNG")[:700],
    "cut.jpg": encoded(noise(), "JPEG")[:400],
    "head.jpg": b"\xff\xd8\xff",
    "cut.webp": encoded(noise(), "WEBP")[:60],
    "cut.gif": encoded(noise(), "GIF")[:60],
    "cut.bmp": encoded(noise(), "BMP")[:60],
    "cut.wav": sound()[:30],
    "noformat.wav": b"RIFF\x24\0\0\0WAVE" + b"\0" * 30,
    "zero.wav": wav_header(b"", claimed=0),
    "nan.wav": wav_header(struct.pack("<4f", 0, 1, float("nan"), 0), claimed=16, form=3, bits=32),
    "inf.wav": wav_header(struct.pack("<4f", 0, float("inf"), 0, 0), claimed=16, form=3, bits=32),
    "long.flac": flac_header(2**35),
    "cut.flac": sound("FLAC")[:50],
    "cut.ogg": sound("OGG")[:40],
    "id3.mp3": b"ID3" + b"\0" * 40,
    "huge.png": png_header(30_000, 30_000),
    "wide.png": png_header(40_000, 10),
    "zero.png": png_header(0, 10),
    "film.mp4": b"\0\0\0\x18ftypmp42" + b"\0" * 40,
    "film.webm": b"\x1a\x45\xdf\xa3" + b"\0" * 40,
    "cloud.ply": b"ply\nformat ascii 1.0\n",
    "mesh.obj": b"v 0 0 0\n",
    "array.npy": b"\x93NUMPY\x01\0" + b"\0" * 60,
    "unknown.bin": b"\0\1\2\3" * 20,
    "program.exe": b"MZ" + b"\0" * 80,
    "latin.txt": b"gr\xfc\xdfe",
    "long.txt": b"a" * ((1 << 20) + 1),
    "bare": b"just words",
    "vector.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_a_user_error_that_names_it(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(BAD[name])
    with pytest.raises(UserError) as caught:
        open_file(path)
    assert name in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("huge.png", "pixels"), ("wide.png", "40000 x 10"), ("empty.png", "empty"),
        ("zero.wav", "no samples"), ("nan.wav", "not numbers"), ("long.flac", "limit"),
        ("film.mp4", "video"), ("cloud.ply", "point"), ("unknown.bin", "unknown format"),
        ("latin.txt", "UTF-8"),
    ],
)  # fmt: skip
def test_the_message_says_what_is_wrong(tmp_path: Path, name: str, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(BAD[name])
    with pytest.raises(UserError, match=said):
        open_file(path)


def test_what_is_no_plain_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing")
    for path in (
        tmp_path, tmp_path / "pipe.png", "/dev/zero", "/dev/null", tmp_path / "loop.png",
        tmp_path / "gone.png", tmp_path / "missing.png", "", "a\0b", "x" * 5000,
        "~nobody-of-this-name/a.png", tmp_path / "missing" / "a.png",
    ):  # fmt: skip
        with pytest.raises(UserError):
            open_file(path)


@pytest.mark.parametrize("url", ["http://example.org/a.png", "file:///etc/passwd", "ftp://x/y.wav"])
def test_no_url_is_opened(url: str) -> None:
    with pytest.raises(UserError, match="local files"):
        open_file(url)


def test_caps_are_checked_before_decoding(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(encoded(noise(), "PNG"))
    for caps in (Caps(file_bytes=10), Caps(pixels=100), Caps(side=35)):
        with pytest.raises(UserError, match="limit"):
            open_file(path, caps=caps)
    path.write_bytes(sound(seconds=1.0))
    for caps in (Caps(audio_seconds=0.5), Caps(audio_samples=100)):
        with pytest.raises(UserError, match="limit"):
            open_file(path, caps=caps)
    assert open_file(path, caps=Caps(audio_seconds=1.5)).data.seconds == pytest.approx(1.0)


def test_what_the_header_of_a_sound_claims_is_not_allocated() -> None:
    data = wav_header(b"\1\0" * 800, claimed=0x7FFFFF00)
    tracemalloc.start()
    try:
        wave = decode_audio(data, "f")
        assert wave.samples.shape[1] <= 800
        with pytest.raises(UserError):
            decode_audio(flac_header(8000 * 1700), "f")
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(noise(), "PNG"))

    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UserError, match="Permission denied"):
        open_file(path)


def test_values_that_are_no_attachment(tmp_path: Path) -> None:
    from PIL import ImageFilter

    for value in (None, 3, b"bytes", ["a"], object(), ImageFilter.BLUR, np.zeros((2, 2))):
        with pytest.raises(UserError, match="attachment"):
            from_value(value)
    with pytest.raises(UserError, match="pixels"):
        from_value(pil.new("1", (30_000, 30_000)))
    with pytest.raises(UserError, match="no pixels"):
        from_value(pil.new("RGB", (0, 4)))
    path = tmp_path / "cut.png"
    path.write_bytes(encoded(noise(), "PNG")[:700])
    with pil.open(path) as lazy, pytest.raises(UserError, match="can't be read"):
        from_value(lazy)
    assert isinstance(from_value(PointCloud.of(np.zeros((1, 3), np.float32))), PointCloud)


# ---------------------------------------------------------------- anything at all


_GOOD = [encoded(noise(), f) for f in ("PNG", "JPEG", "WEBP", "GIF", "BMP")] + [
    sound(), sound("FLAC"), sound("OGG"), sound("MP3"),
]  # fmt: skip
_MAGICS = [g[:16] for g in _GOOD] + [b"RIFF\xff\xff\xff\xffWAVEfmt ", b"ID3\x04", b"\xff\xfb\x90"]


def _open(data: bytes, suffix: str = "") -> None:
    kind = (sniff(data[:64], suffix) or ("", ""))[0]
    try:
        if kind == "image":
            assert decode_image(data, "f").mode == "RGB"
        elif kind == "audio":
            assert np.isfinite(decode_audio(data, "f").samples).all()
    except UserError:
        pass


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(_MAGICS), st.binary(max_size=300))
@example(b"BM", b"")
@example(b"GIF89a", b"\xff" * 40)
def test_random_bytes_behind_a_magic_give_user_errors_only(magic: bytes, rest: bytes) -> None:
    _open(magic + rest)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(_GOOD),
    st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=6),
    st.floats(0.01, 1.0),
)
def test_damaged_files_give_user_errors_only(
    good: bytes, changes: list[tuple[float, int]], keep: float
) -> None:
    data = bytearray(good)
    for at, value in changes:
        data[int(at * len(data))] = value
    _open(bytes(data[: max(1, int(keep * len(data)))]))


@given(st.binary(max_size=64), st.sampled_from(["", ".txt", ".obj", ".png"]))
def test_sniffing_never_fails(head: bytes, suffix: str) -> None:
    found = sniff(head, suffix)
    assert found is None or len(found) == 2
