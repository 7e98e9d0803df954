"""Depth, thermal and IMU files, and how a caller says what a file holds."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as pil

import anybind
from anybind.content import IMU, Audio, Depth, Image, PointCloud, Text, Thermal
from anybind.errors import UserError
from anybind.media import (
    Caps,
    decode_depth,
    decode_imu,
    decode_thermal,
    from_value,
    looks_like_path,
    open_file,
    split_prefix,
    with_prefix,
)

RNG = np.random.default_rng(0)
MILLIMETRES = RNG.integers(0, 10_000, (30, 40)).astype(np.uint16)


def png(array: Any, form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    pil.fromarray(array).save(stream, form)
    return stream.getvalue()


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


# ---------------------------------------------------------------- saying what a file holds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("depth:room.png", ("depth", "room.png")),
        ("sunrgbd:a/b.png", ("sunrgbd", "a/b.png")),
        ("imu:C:\\data\\walk.csv", ("imu", "C:\\data\\walk.csv")),
        ("C:\\room.png", (None, "C:\\room.png")),
        ("c:/room.png", (None, "c:/room.png")),
        ("d:depth.png", (None, "d:depth.png")),
        ("./depth:room.png", (None, "./depth:room.png")),
        ("smell:room.png", (None, "smell:room.png")),
        ("Depth:room.png", (None, "Depth:room.png")),
        ("depth:", (None, "depth:")),
        ("image://host/a.png", (None, "image://host/a.png")),
        ("room.png", (None, "room.png")),
    ],
)
def test_what_is_a_prefix(text: str, expected: Any) -> None:
    assert split_prefix(text) == expected


def test_every_way_to_say_it(tmp_path: Path) -> None:
    path = tmp_path / "room.png"
    path.write_bytes(png(MILLIMETRES))
    assert isinstance(open_file(path), Image)
    for part in (
        open_file(f"depth:{path}"), open_file(path, kind="depth"), from_value(f"depth:{path}"),
        from_value(path, kind="depth"), anybind.open(path, kind="depth"),
        anybind.open(f"depth:{path}", kind="depth"),
    ):  # fmt: skip
        assert isinstance(part, Depth)
        np.testing.assert_allclose(part.data, MILLIMETRES / 1000, atol=1e-6)
    assert isinstance(open_file(f"thermal:{path}"), Thermal)
    with pytest.raises(UserError, match="one of the two"):
        open_file(f"depth:{path}", kind="thermal")
    with pytest.raises(UserError, match="not as 'smell'"):
        open_file(path, kind="smell")


def test_a_file_whose_name_looks_like_a_prefix(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("depth:room.png").write_bytes(png(MILLIMETRES))
    assert isinstance(open_file("./depth:room.png"), Image)
    assert isinstance(open_file(Path("depth:room.png")), Image)
    with pytest.raises(UserError, match=r"no file room\.png"):
        open_file("depth:room.png")


def test_what_the_file_tells_needs_no_word(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(npy(RNG.normal(size=(9, 3))))
    assert isinstance(open_file(tmp_path / "a.npy"), PointCloud)
    (tmp_path / "walk.csv").write_text("0,0,0,0,0,0\n1,1,1,1,1,1\n")
    assert isinstance(open_file(tmp_path / "walk.csv"), Text)
    assert isinstance(open_file(f"imu:{tmp_path / 'walk.csv'}"), IMU)
    assert isinstance(open_file(f"text:{tmp_path / 'walk.csv'}"), Text)


def test_a_file_of_another_kind_than_was_said(tmp_path: Path, examples: Path) -> None:
    for word, name in (
        ("audio", "cat.png"), ("image", "guitar.wav"), ("depth", "guitar.wav"),
        ("imu", "cat.png"), ("point", "cat.png"), ("video", "guitar.wav"), ("text", "cat.png"),
        ("thermal", "guitar.wav"), ("depth", "cat.png"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=name):
            open_file(f"{word}:{examples / name}")
    assert isinstance(open_file(f"audio:{examples / 'guitar.wav'}"), Audio)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("a.png", True), ("depth:a.png", True), ("imu:walk.csv", True), ("walk.csv", False),
        ("thermal:a.tiff", True), ("a red bicycle", False), ("image: a red bicycle", False),
        ("depth: how far is it?", False), ("film.mov", True), ("C:\\a.glb", True), ("", False),
        ("x\n" * 9, False), ("a\0b", False),
    ],
)  # fmt: skip
def test_what_looks_like_a_path(text: str, path: bool) -> None:
    assert looks_like_path(text) is path


def test_a_word_is_put_before_a_path() -> None:
    assert with_prefix("a.png", None) == "a.png"
    assert with_prefix("a.png", "depth") == with_prefix("depth:a.png", "depth") == "depth:a.png"
    with pytest.raises(UserError, match="one of the two"):
        with_prefix("thermal:a.png", "depth")
    with pytest.raises(UserError, match="smell"):
        with_prefix("a.png", "smell")


# ---------------------------------------------------------------- depth


def test_millimetres_become_metres() -> None:
    got = decode_depth(png(MILLIMETRES), "x")
    assert got.dtype == np.float32 and got.shape == (30, 40)
    np.testing.assert_allclose(got, MILLIMETRES / 1000, atol=1e-6)
    np.testing.assert_array_equal(decode_depth(png(MILLIMETRES, "TIFF"), "x"), got)


def test_the_encoding_of_sun_rgbd() -> None:
    """Bits turned left by three: 2.5 m is written as 20000; 9 m is cut to 8."""
    true = np.array([[0, 2500, 8191, 9000], [1, 8, 4095, 7999]], np.uint16)
    turned = ((true.astype(np.uint32) << 3) | (true.astype(np.uint32) >> 13)).astype(np.uint16)
    assert turned[0, 1] == 20_000
    got = decode_depth(png(turned), "x", sunrgbd=True)
    np.testing.assert_allclose(got, np.minimum(true / 1000, 8.0), atol=1e-6)
    with pytest.raises(UserError, match="sunrgbd"):
        decode_depth(npy(np.ones((2, 2), np.float32)), "x", sunrgbd=True)


@pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
def test_metres_as_an_array(kind: str) -> None:
    metres = RNG.uniform(0.5, 5, (6, 8)).astype(kind)
    metres[0, 0] = np.nan  # not measured, as many cameras write it
    got = decode_depth(npy(metres), "x")
    assert got[0, 0] == 0 and got.dtype == np.float32
    np.testing.assert_array_equal(got.ravel()[1:], metres.astype(np.float32).ravel()[1:])
    wide = metres.astype(np.float32)
    np.testing.assert_array_equal(
        decode_depth(png(wide, "TIFF"), "x"), decode_depth(npy(wide), "x")
    )


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (png(MILLIMETRES.astype(np.uint8)), "8 bits"),
        (png(np.zeros((4, 4, 3), np.uint8)), "8 bits or colours"),
        (png(np.zeros((4, 4), np.uint16)), "nothing was measured"),
        (npy(np.full((4, 4), np.nan)), "nothing was measured"),
        (npy(np.full((4, 4), -1.0)), "negative"),
        (npy(np.full((4, 4), np.inf)), "infinite"),
        (npy(MILLIMETRES), "whole numbers"),
        (npy(np.zeros((4, 4, 1))), r"\[4, 4, 1\]"),
        (npy(np.zeros((0, 4))), "depth map"),
        (png(MILLIMETRES)[:200], "damaged"),
        (b"nothing", "not a readable picture"),
    ],
)
def test_what_is_no_depth_map(data: bytes, said: str) -> None:
    with pytest.raises(UserError, match=said):
        decode_depth(data, "room")


def test_caps_of_depth_maps() -> None:
    for data in (png(MILLIMETRES), npy(MILLIMETRES.astype(np.float32))):
        for caps in (Caps(pixels=100), Caps(side=35)):
            with pytest.raises(UserError, match="limit"):
                decode_depth(data, "room", caps=caps)


# ---------------------------------------------------------------- thermal


def test_grey_comes_through_and_colour_becomes_grey() -> None:
    grey = RNG.integers(0, 256, (20, 30), np.uint8)
    np.testing.assert_array_equal(decode_thermal(png(grey), "x"), grey)
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 255
    assert (decode_thermal(png(red), "x") == 76).all()
    counts = np.linspace(7000, 9000, 16).astype(np.uint16).reshape(4, 4)
    wide = decode_thermal(png(counts, "TIFF"), "x")
    assert wide.dtype == np.uint8 and wide[0, 0] == 0 and wide[-1, -1] >= 254
    with pytest.raises(UserError, match="not a readable picture"):
        decode_thermal(b"nothing", "x")


# ---------------------------------------------------------------- imu


READINGS = RNG.normal(size=(50, 6)).astype(np.float32)


def csv(columns: Any, head: str = "", between: str = ",") -> bytes:
    lines = [between.join(repr(float(v)) for v in row) for row in columns]
    return "\n".join([head, *lines] if head else lines).encode()


def timed(scale: float = 1.0, rate: float = 100.0) -> Any:
    return np.concatenate([(np.arange(50) / rate * scale)[:, None], READINGS], axis=1)


@pytest.mark.parametrize(
    "data",
    [
        csv(READINGS), csv(READINGS, "ax,ay,az,gx,gy,gz"), csv(READINGS, between=" "),
        csv(READINGS, between="; "), csv(READINGS, "# made by hand"), npy(READINGS),
        csv(READINGS, "one,two,three,four,five,six"),
        b"\xef\xbb\xbf" + csv(READINGS, "ax,ay,az,gx,gy,gz"),
    ],
)  # fmt: skip
def test_readings_without_time(data: bytes) -> None:
    got = decode_imu(data, "x")
    assert got.rate is None and got.seconds is None and got.samples.dtype == np.float32
    np.testing.assert_array_equal(got.samples, READINGS)


@pytest.mark.parametrize(
    ("data", "rate"),
    [
        (csv(timed()), 100.0),
        (npy(timed()), 100.0),
        (csv(timed(), "time,ax,ay,az,gx,gy,gz"), 100.0),
        (csv(timed(1000), "t_ms,ax,ay,az,gx,gy,gz"), 100.0),
        (csv(timed(1e6), "timestamp (us),ax,ay,az,gx,gy,gz"), 100.0),
        (csv(timed(1e9), "timestamp_ns,ax,ay,az,gx,gy,gz"), 100.0),
        (csv(timed(rate=12.5), "seconds,ax,ay,az,gx,gy,gz"), 12.5),
    ],
)
def test_time_gives_the_rate(data: bytes, rate: float) -> None:
    got = decode_imu(data, "x")
    assert got.rate == pytest.approx(rate, rel=1e-6)
    assert got.seconds == pytest.approx(50 / rate)
    np.testing.assert_array_equal(got.samples, READINGS)


def test_names_set_the_order() -> None:
    turned = np.concatenate([READINGS[:, 3:], READINGS[:, :3]], axis=1)
    for head in (
        "gx,gy,gz,ax,ay,az",
        "Gyr_X (rad/s),Gyr_Y (rad/s),Gyr_Z (rad/s),Acc_X (m/s^2),Acc_Y (m/s^2),Acc_Z (m/s^2)",
        "wx,wy,wz,accel x,accel y,accel z",
        "angular_velocity_x,angular_velocity_y,angular_velocity_z,"
        "linear_acceleration_x,linear_acceleration_y,linear_acceleration_z",
    ):
        np.testing.assert_array_equal(decode_imu(csv(turned, head), "x").samples, READINGS)
    last = np.concatenate([READINGS, timed()[:, :1]], axis=1)
    got = decode_imu(csv(last, "ax,ay,az,gx,gy,gz,time"), "x")
    assert got.rate == pytest.approx(100) and (got.samples == READINGS).all()


def test_uneven_times_are_evened_out() -> None:
    time = np.cumsum(RNG.uniform(0.005, 0.015, 200))
    ramp = np.repeat(time[:, None], 6, axis=1)
    got = decode_imu(npy(np.concatenate([time[:, None], ramp], axis=1)), "x")
    assert got.rate is not None
    np.testing.assert_allclose(np.diff(got.samples[:, 0]), 1 / got.rate, rtol=1e-3)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (csv(READINGS[:, :5]), r"shape \[50, 5\]"),
        (csv(READINGS[:, :3]), "both sensors"),
        (npy(READINGS.T), "on its side"),
        (npy(READINGS.reshape(5, 10, 6)), r"\[5, 10, 6\]"),
        (csv(READINGS[:1]), "1 readings"),
        (b"ax,ay,az,gx,gy,gz\n", "0 readings"),
        (csv(READINGS, "a,b,c"), "3 headings over 6 columns"),
        (csv(timed(), "a,b,c,d,e,f,g"), "at most one time"),
        (csv(READINGS, "time,ay,az,gx,gy,gz"), "six must be readings"),
        (csv(READINGS[[0, 1]]) + b"\n1,nan,0,0,0,0", "1 of 3 rows hold NaN"),
        (csv(READINGS[[0, 1]]) + b"\n1,x,0,0,0,0", "row 3 is not of numbers"),
        (csv(READINGS[[0, 1]]) + b"\n1,0,0", "row 3 has 3"),
        (csv(timed()[::-1]), "time does not rise at row 2"),
        (csv(timed(1e9)), "time_ms, time_us or time_ns"),
        (npy(np.full((4, 6), 1e200)), "too large"),
        (b"\xff\xfe\xff", "table of numbers"),
        (npy(np.zeros((4, 6), "U3")), "plain numbers"),
    ],
)
def test_what_are_no_readings(data: bytes, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        decode_imu(data, "walk.csv")
    assert "walk.csv" in str(caught.value)


def test_the_cap_on_readings() -> None:
    with pytest.raises(UserError, match="limit"):
        decode_imu(npy(READINGS), "x", Caps(imu_steps=40))
    with pytest.raises(UserError, match="limit"):
        decode_imu(csv(READINGS), "x", Caps(imu_steps=20))
