"""glTF binary (glb): checks what its JSON declares, and drops all but the shapes.

What is left can be handed to a general reader: every count fits the bytes, the nodes are a tree,
and there are no pictures, extensions or references to other files.
"""

from __future__ import annotations

import json
import struct
from typing import Any, cast

from anybind.errors import UserError
from anybind.media.caps import Caps
from anybind.media.formats import brief

_JSON, _BINARY = 0x4E4F534A, 0x004E4942
_SIZES = {5120: 1, 5121: 1, 5122: 2, 5123: 2, 5125: 4, 5126: 4}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
_KEPT = ("asset", "scene", "scenes", "nodes", "meshes", "accessors", "bufferViews", "buffers")
_MAX_NODES = 10_000


def stripped(data: bytes, label: str, caps: Caps) -> bytes:
    """The same file with shapes and places only.

    Raises:
        UserError: damaged, compressed, over the caps, or with parts outside of the file.
    """
    tree, binary = _chunks(data, label)
    try:
        _check(tree, len(binary), label, caps)
    except UserError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{label} is a damaged glb file: {error!r}") from error
    text = json.dumps({k: tree[k] for k in _KEPT if k in tree}).encode()
    text += b" " * (-len(text) % 4)
    binary += b"\0" * (-len(binary) % 4)
    body = struct.pack("<II", len(text), _JSON) + text
    body += struct.pack("<II", len(binary), _BINARY) + binary
    return struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body


def _chunks(data: bytes, label: str) -> tuple[dict[str, Any], bytes]:
    if len(data) < 20 or data[4:8] != b"\2\0\0\0":
        raise UserError(f"{label} is not a glb file of version 2.")
    size, kind = struct.unpack_from("<II", data, 12)
    if kind != _JSON or size > len(data) - 20:
        raise UserError(f"{label} is a damaged glb file: its description is cut off.")
    try:
        tree: Any = json.loads(data[20 : 20 + size])
    except (ValueError, RecursionError) as error:
        raise UserError(f"{label} is a damaged glb file: {brief(error)}") from error
    if not isinstance(tree, dict):
        raise UserError(f"{label} is a damaged glb file: its description is no object.")
    binary, at = b"", 20 + size
    if at + 8 <= len(data):
        size, kind = struct.unpack_from("<II", data, at)
        if kind != _BINARY or size > len(data) - at - 8:
            raise UserError(f"{label} is a damaged glb file: its data is cut off.")
        binary = data[at + 8 : at + 8 + size]
    return cast("dict[str, Any]", tree), binary


def _check(tree: dict[str, Any], size: int, label: str, caps: Caps) -> None:
    for buffer in tree.get("buffers", []):
        if "uri" in buffer:
            raise UserError(f"{label} refers to data outside of the file; export it as one file.")
    views = tree.get("bufferViews", [])
    accessors = tree.get("accessors", [])
    for view in views:
        view.pop("extensions", None)
        if (
            not 0
            <= view.get("byteOffset", 0)
            <= view.get("byteOffset", 0) + view["byteLength"]
            <= size
        ):
            raise UserError(f"{label} is a damaged glb file: a view leads out of its data.")
    for accessor in accessors:
        _check_accessor(accessor, views, label)
    for mesh in tree.get("meshes", []):
        for primitive in mesh["primitives"]:
            if primitive.get("mode", 4) not in (0, 4):
                raise UserError(f"{label} holds lines or strips; export it as triangles.")
            primitive["attributes"] = {"POSITION": primitive["attributes"]["POSITION"]}
            for extra in ("material", "extensions", "targets"):
                primitive.pop(extra, None)
    _check_nodes(tree, accessors, label, caps)


def _check_accessor(accessor: dict[str, Any], views: list[Any], label: str) -> None:
    accessor.pop("extensions", None)
    if "sparse" in accessor or "bufferView" not in accessor:
        raise UserError(f"{label} is a compressed or sparse glb file; export it plain.")
    view = views[int(accessor["bufferView"])]
    item = _SIZES[accessor["componentType"]] * _WIDTHS[accessor["type"]]
    count, offset = int(accessor["count"]), int(accessor.get("byteOffset", 0))
    step = int(view.get("byteStride", item))
    if count < 0 or offset < 0 or step < item or step > 1024:
        raise UserError(f"{label} is a damaged glb file: an accessor that makes no sense.")
    if count and offset + step * (count - 1) + item > view["byteLength"]:
        raise UserError(
            f"{label} is a damaged glb file: it declares {count} items that are not there."
        )


def _check_nodes(tree: dict[str, Any], accessors: list[Any], label: str, caps: Caps) -> None:
    """A tree (no node has two parents), whose meshes, in all their places, fit the caps."""
    nodes = tree.get("nodes", [])
    children = [int(c) for node in nodes for c in node.get("children", [])]
    if len(nodes) > _MAX_NODES or len(children) != len(set(children)):
        raise UserError(f"{label} has over {_MAX_NODES} nodes, or nodes that are no tree.")
    for node in nodes:
        for extra in ("extensions", "skin", "camera"):
            node.pop(extra, None)
    weights: list[int] = []
    for mesh in tree.get("meshes", []):
        total = 0
        for primitive in mesh["primitives"]:
            total += accessors[int(primitive["attributes"]["POSITION"])]["count"]
            if "indices" in primitive:
                total += accessors[int(primitive["indices"])]["count"] // 3
        weights.append(total)
    placed = sum(weights[int(node["mesh"])] for node in nodes if "mesh" in node) + sum(weights)
    if placed > 3 * caps.points:
        raise UserError(f"{label} has about {placed} points; the limit is {caps.points}.")
