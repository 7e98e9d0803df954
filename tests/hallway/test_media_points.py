"""Point clouds and meshes: every format gives the points that were written into it."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import plyfile
import pytest
import trimesh

from anybind.content import PointCloud
from anybind.errors import UserError
from anybind.media import Caps, decode_points, open_file
from anybind.media.mesh import SURFACE_POINTS
from anybind.media.pcd import lzf_inflate
from anybind.media.ply import write_ply

RNG = np.random.default_rng(0)
CLOUD = RNG.normal(size=(60, 3)).astype(np.float32)


def opened(tmp_path: Path, name: str, data: bytes | str) -> Any:
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    part = open_file(path)
    assert isinstance(part, PointCloud)
    assert part.data.dtype == np.float32 and part.data.ndim == 2 and part.data.shape[1] == 3
    return part.data


def rows(cloud: Any = CLOUD, between: str = " ", extra: str = "") -> str:
    return "\n".join(between.join(repr(float(v)) for v in p) + extra for p in cloud) + "\n"


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def plied(form: str = "", kind: str = "f4", colour: bool = False) -> bytes:
    """As another library writes it."""
    columns: list[Any] = [(n, kind) for n in "xyz"]
    if colour:
        columns = [("red", "u1"), *columns, ("nx", "f8")]
    table = np.zeros(len(CLOUD), columns)
    for i, n in enumerate("xyz"):
        table[n] = CLOUD[:, i]
    order = {"": "<", "big": ">"}.get(form, "=")
    written = plyfile.PlyData(
        [plyfile.PlyElement.describe(table, "vertex")], text=form == "text", byte_order=order
    )
    stream = io.BytesIO()
    written.write(stream)
    return stream.getvalue()


def pcd(
    storage: str, fields: str = "x y z", sizes: str = "4 4 4", kinds: str = "F F F",
    counts: str = "1 1 1", body: bytes = b"", points: int = len(CLOUD),
) -> bytes:  # fmt: skip
    head = (
        "# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\n"
        f"FIELDS {fields}\nSIZE {sizes}\nTYPE {kinds}\nCOUNT {counts}\nWIDTH {points}\nHEIGHT 1\n"
        f"VIEWPOINT 0 0 0 1 0 0 0\nPOINTS {points}\nDATA {storage}\n"
    )
    return head.encode() + body


def lzf(data: bytes) -> bytes:
    """A plain packer: copies of what lies one, four or twelve bytes back, literals for the rest."""
    out, literals, at = bytearray(), bytearray(), 0

    def flush() -> None:
        for i in range(0, len(literals), 32):
            piece = literals[i : i + 32]
            out.extend(bytes([len(piece) - 1]) + piece)
        literals.clear()

    while at < len(data):
        best, back = 0, 0
        for step in (1, 4, 12):
            length = 0
            while at >= step and length < 264 and data[at + length - step : at + length - step + 1] == data[at + length : at + length + 1] != b"":  # fmt: skip
                length += 1
            if length > best:
                best, back = length, step
        if best < 3:
            literals.append(data[at])
            at += 1
            continue
        flush()
        size = best - 2
        if size < 7:
            out += bytes([size << 5 | (back - 1) >> 8])
        else:
            out += bytes([7 << 5 | (back - 1) >> 8, size - 7])
        out.append((back - 1) & 255)
        at += best
    flush()
    return bytes(out)


# ---------------------------------------------------------------- what opens


@pytest.mark.parametrize("form", ["", "big", "text"])
@pytest.mark.parametrize("kind", ["f4", "f8"])
@pytest.mark.parametrize("colour", [False, True])
def test_ply(tmp_path: Path, form: str, kind: str, colour: bool) -> None:
    got = opened(tmp_path, "a.ply", plied(form, kind, colour))
    np.testing.assert_allclose(got, CLOUD, rtol=1e-6)


def test_our_own_ply_is_read_by_others() -> None:
    read = plyfile.PlyData.read(io.BytesIO(write_ply(CLOUD)))["vertex"]
    np.testing.assert_array_equal(np.stack([read[n] for n in "xyz"], axis=1), CLOUD)
    np.testing.assert_array_equal(decode_points(write_ply(CLOUD), "a", "model/ply"), CLOUD)


@pytest.mark.parametrize("more", [False, True])
def test_pcd(tmp_path: Path, more: bool) -> None:
    options: dict[str, Any] = {}
    parts: list[Any] = [CLOUD[:, i].astype("<f4") for i in range(3)]
    if more:
        options = {
            "fields": "_ x y z normal rgb", "sizes": "1 4 8 4 4 4", "kinds": "U F F F F U",
            "counts": "3 1 1 1 2 1",
        }  # fmt: skip
        parts = [
            np.zeros((60, 3), "u1"), parts[0], parts[1].astype("<f8"), parts[2],
            np.zeros((60, 2), "<f4"), np.zeros(60, "<u4"),
        ]  # fmt: skip
    by_row = np.zeros(60, [(f"f{i}", p.dtype, p.shape[1:]) for i, p in enumerate(parts)])
    for i, p in enumerate(parts):
        by_row[f"f{i}"] = p
    columns = b"".join(p.tobytes() for p in parts)
    packed = lzf(columns)
    assert len(packed) < len(columns) or not more
    squeezed = struct.pack("<II", len(packed), len(columns)) + packed
    words = [
        " ".join(repr(v) for p in parts for v in np.atleast_1d(p[i]).tolist()) for i in range(60)
    ]
    for storage, body in {
        "binary": by_row.tobytes(),
        "binary_compressed": squeezed,
        "ascii": "\n".join(words).encode(),
    }.items():
        got = opened(tmp_path, f"{storage}.pcd", pcd(storage, body=body, **options))
        np.testing.assert_allclose(got, CLOUD, rtol=1e-6)


def test_lzf_copies_that_overlap_themselves() -> None:
    for data in (b"a" * 1000, b"abcd" * 300 + b"x", bytes(range(256)) * 3, b"", b"q"):
        assert lzf_inflate(lzf(data), len(data)) == data
    # Written out by hand: "ab", then nine bytes from two back, then "c".
    assert (
        lzf_inflate(b"\x01ab" + bytes([7 << 5, 0, 1]) + b"\x00c", 12)
        == b"ababababababc"[:11] + b"c"
    )


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("plain.xyz", rows()),
        ("commas.xyz", "# made by hand\n" + rows(between=", ")),
        ("headed.xyz", "x y z red\n" + rows(extra=" 17")),
        ("colour.xyz", rows(extra=" 255 0 0")),
        ("counted.pts", "60\n" + rows(extra=" 12 0 0 0")),
        ("bare.pts", rows()),
        ("windows.xyz", rows().replace("\n", "\r\n")),
    ],
)
def test_tables(tmp_path: Path, name: str, data: str) -> None:
    np.testing.assert_array_equal(opened(tmp_path, name, data), CLOUD)


@pytest.mark.parametrize("kind", ["f4", "f8", ">f8", "f2", "i4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays(tmp_path: Path, kind: str, order: Any) -> None:
    array = np.asarray(CLOUD * 10, kind, order=order)
    got = opened(tmp_path, "a.npy", npy(array))
    np.testing.assert_array_equal(got, array.astype(np.float32))


def test_an_npz_with_one_array(tmp_path: Path) -> None:
    for pack in (np.savez, np.savez_compressed):
        pack(tmp_path / "a.npz", cloud=CLOUD)
        np.testing.assert_array_equal(open_file(tmp_path / "a.npz").data, CLOUD)
    np.savez(tmp_path / "two.npz", a=CLOUD, b=CLOUD)
    with pytest.raises(UserError, match=r"2 arrays \(a, b\)"):
        open_file(tmp_path / "two.npz")


def test_an_array_of_another_shape_must_be_named(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    for shape in ((60, 6), (60, 4), (48, 64), (60,), (1, 3), (2, 3, 4)):
        np.save(path, RNG.normal(size=shape))
        with pytest.raises(UserError, match=r"point:a\.npy .* depth:a\.npy .* imu:a\.npy"):
            open_file(path)
    np.save(path, np.concatenate([CLOUD, CLOUD], axis=1))
    np.testing.assert_array_equal(open_file(f"point:{path}").data, CLOUD)


# ---------------------------------------------------------------- meshes


def box() -> Any:
    return trimesh.creation.box(extents=(2.0, 4.0, 6.0))


def mesh(form: str) -> bytes:
    made = box().export(file_type=form)
    return made if isinstance(made, bytes) else made.encode()


@pytest.mark.parametrize(
    ("form", "name"),
    [("obj", "a.obj"), ("stl", "a.stl"), ("stl_ascii", "b.stl"), ("off", "a.off"), ("glb", "a.glb"), ("ply", "a.ply"), ("ply_ascii", "a.ply")],
)  # fmt: skip
def test_meshes_are_sampled_on_their_surface(tmp_path: Path, form: str, name: str) -> None:
    if form == "ply_ascii":
        data = box().export(file_type="ply", encoding="ascii")
    else:
        data = mesh(form)
    got = opened(tmp_path, name, data)
    assert got.shape == (SURFACE_POINTS, 3)
    np.testing.assert_array_equal(got, open_file(tmp_path / name).data)  # the same every time
    half = np.abs(got) / np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(half.max(axis=1), 1.0, atol=1e-5)
    # Even over the surface: the sides have 24, 12 and 8 of 44 parts of the area, each twice.
    share = [(half[:, i] > 1 - 1e-5).mean() for i in range(3)]
    np.testing.assert_allclose(share, [24 / 44, 12 / 44, 8 / 44], atol=0.02)


def test_files_without_faces_keep_their_points(tmp_path: Path) -> None:
    obj = "# cloud\n" + "".join(f"v {x} {y} {z}\n" for x, y, z in CLOUD.tolist())
    np.testing.assert_allclose(opened(tmp_path, "a.obj", obj), CLOUD, rtol=1e-6)
    glb = trimesh.Scene([trimesh.PointCloud(CLOUD)]).export(file_type="glb")
    np.testing.assert_allclose(opened(tmp_path, "a.glb", glb), CLOUD, rtol=1e-6)


def test_parts_of_a_scene_are_put_in_their_places(tmp_path: Path) -> None:
    scene = trimesh.Scene()
    scene.add_geometry(box())
    scene.add_geometry(box(), transform=trimesh.transformations.translation_matrix([100, 0, 0]))
    got = opened(tmp_path, "a.glb", scene.export(file_type="glb"))
    assert got[:, 0].min() == pytest.approx(-1) and got[:, 0].max() == pytest.approx(101)
    assert (got[:, 0] > 50).mean() == pytest.approx(0.5, abs=0.03)


def test_materials_and_pictures_of_a_mesh_are_not_followed(tmp_path: Path) -> None:
    obj = "mtllib ../../etc/passwd\nusemtl x\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"
    assert opened(tmp_path, "a.obj", obj).shape == (SURFACE_POINTS, 3)
    with pytest.raises(UserError, match="outside of the file"):
        opened(tmp_path, "a.glb", glb({"buffers": [{"uri": "../secret.bin", "byteLength": 36}]}))


def glb(changes: dict[str, Any], binary: bytes = b"\0" * 36) -> bytes:
    tree: dict[str, Any] = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "mode": 0}]}],
        "accessors": [{"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"}],
        "bufferViews": [{"buffer": 0, "byteLength": 36}],
        "buffers": [{"byteLength": 36}],
    } | changes
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    body = struct.pack("<II", len(text), 0x4E4F534A) + text
    body += struct.pack("<II", len(binary), 0x004E4942) + binary
    return struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body


# ---------------------------------------------------------------- what does not open

ACCESSOR = {"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"}
BAD: dict[str, tuple[bytes, str]] = {
    "one.xyz": (b"1 2 3\n", "one point only"),
    "one.ply": (write_ply(CLOUD[:1]), "one point only"),
    "one.npz": (b"PK\x03\x04", "npz"),
    "none.ply": (write_ply(CLOUD[:0]), "without points"),
    "none.xyz": (b"# nothing\n", "without points"),
    "none.pcd": (pcd("ascii", points=0), "without points"),
    "none.obj": (b"# nothing\n", "without points"),
    "same.xyz": (b"1 2 3\n" * 9, "all 9 points lie in one place"),
    "nan.xyz": (b"0 0 0\n1 nan 0\n2 0 0\n", "1 of 3 points .* not finite"),
    "inf.xyz": (b"0 0 0\n1 inf 0\ninf 0 0\n", "2 of 3 points"),
    "large.xyz": (b"0 0 0\n1e300 0 0\n", "too large"),
    "nan.npy": (npy(np.array([[0, 0, 0], [np.nan, 1, 1.0]])), "not finite"),
    "nan.ply": (write_ply(np.array([[0, 0, 0], [np.nan, 1, 1]], np.float32)), "not finite"),
    "short.xyz": (b"1 2\n3 4\n", "3 or more"),
    "ragged.xyz": (b"1 2 3\n1 2 3 4\n", "row 2 has 4"),
    "words.xyz": (b"1 2 3\n1 two 3\n", "row 2 is not of numbers"),
    "binary.xyz": (b"\xff\xfe\x00\x01", "table of numbers"),
    "count.pts": (b"7\n1 2 3\n4 5 6\n", "declares 7 points and holds 2"),
    "huge.ply": (
        b"ply\nformat binary_little_endian 1.0\nelement vertex 1000000000000\nproperty float x\n"
        b"property float y\nproperty float z\nend_header\n" + b"\0" * 24,
        "1000000000000",
    ),
    "more.ply": (write_ply(CLOUD)[:-40], "declares 60 of vertex"),
    "text.ply": (plied("text")[:-100], "declares 60 of vertex"),
    "flat.ply": (
        b"ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty float y\nend_header\n"
        b"1 2\n3 4\n",
        "without vertices x y z",
    ),
    "lists.ply": (
        b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\n"
        b"property float z\nproperty list uint8 int t\nend_header\n1 2 3 0\n",
        "lists among its vertices",
    ),
    "face.ply": (box().export(file_type="ply")[:-30], "cut off|declares"),
    "corner.ply": (
        b"ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\n"
        b"property float z\nelement face 1\nproperty list uint8 int vertex_indices\nend_header\n"
        b"0 0 0\n1 0 0\n0 1 0\n3 0 1 9\n",
        "not there",
    ),
    "huge.pcd": (pcd("binary", points=10**12), "1000000000000 points"),
    "cut.pcd": (pcd("binary", body=b"\0" * 100), "declares 60 points"),
    "bomb.pcd": (pcd("binary_compressed", points=2_000_000, body=struct.pack("<II", 10, 24_000_000) + b"\0" * 10), "declared"),
    "noxyz.pcd": (pcd("ascii", fields="a b c"), "without fields x y z"),
    "odd.pcd": (pcd("ascii", kinds="F F Q"), "header"),
    "huge.npy": (npy(CLOUD).replace(b"(60, 3)", b"(60000000000, 3)")[:128] + b"\0" * 80, "declares|limit"),
    "object.npy": (npy(CLOUD).replace(b"'<f4'", b"'|O8'"), "plain numbers"),
    "cut.npy": (npy(CLOUD)[:300], "declares 720 bytes"),
    "flat.stl": (b"solid a\nendsolid a\n", "flat.stl"),
    "cut.stl": (mesh("stl")[:200], "cut.stl"),
    "many.glb": (glb({"accessors": [ACCESSOR | {"count": 10**12}]}), "not there"),
    "zeros.glb": (glb({"accessors": [{"componentType": 5126, "count": 10**9, "type": "VEC3"}]}), "compressed or sparse"),
    "loop.glb": (glb({"nodes": [{"mesh": 0, "children": [1, 1]}, {"mesh": 0}]}), "no tree"),
    "strip.glb": (glb({"meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "mode": 5}]}]}), "strips"),
    "view.glb": (glb({"bufferViews": [{"buffer": 0, "byteLength": 10**9}]}), "leads out"),
    "deep.glb": (glb({"extras": 0}).replace(b'"extras": 0', b"[" * 11), "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_cloud_is_a_user_error_that_names_it(tmp_path: Path, name: str) -> None:
    data, said = BAD[name]
    with pytest.raises(UserError, match=said) as caught:
        opened(tmp_path, name, data)
    assert name in str(caught.value) and len(str(caught.value)) < 500


def test_one_mesh_in_many_places_is_counted(tmp_path: Path) -> None:
    scene = {"nodes": [{"mesh": 0}] * 9000, "scenes": [{"nodes": list(range(9000))}]}
    path = tmp_path / "a.glb"
    path.write_bytes(glb(scene))
    with pytest.raises(UserError, match="about 27003 points"):
        open_file(path, caps=Caps(points=1000))


@pytest.mark.parametrize("name", ["a.ply", "a.npy", "a.xyz", "a.obj", "a.pcd"])
def test_the_cap_on_points(tmp_path: Path, name: str) -> None:
    data = {
        "a.ply": write_ply(CLOUD),
        "a.npy": npy(CLOUD),
        "a.xyz": rows().encode(),
        "a.obj": b"".join(b"v 1 2 %d\n" % i for i in range(60)),
        "a.pcd": pcd("binary", body=CLOUD.tobytes()),
    }[name]
    path = tmp_path / name
    path.write_bytes(data)
    assert len(open_file(path, caps=Caps(points=60)).data) == 60
    with pytest.raises(UserError, match="limit"):
        open_file(path, caps=Caps(points=59))


@pytest.mark.parametrize(
    "name", ["huge.ply", "more.ply", "huge.pcd", "cut.pcd", "bomb.pcd", "huge.npy", "cut.npy", "many.glb", "zeros.glb"]
)  # fmt: skip
def test_what_a_header_claims_is_not_allocated(name: str) -> None:
    kinds = {"ply": "ply", "pcd": "pcd", "npy": "npy", "glb": "gltf-binary"}
    tracemalloc.start()
    try:
        with pytest.raises(UserError):
            decode_points(BAD[name][0], name, f"model/{kinds[name[-3:]]}")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_zip_that_claims_little_and_holds_much(tmp_path: Path) -> None:
    """What is inflated stops at what the cap allows."""
    header = npy(np.zeros((1, 3))).replace(b"(1, 3)", b"(9, 3)")
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", header + bytes(64 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="limit"):
            open_file(tmp_path / "a.npz", caps=Caps(points=1000))
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
