"""Whisper weights from CTranslate2's file into one safetensors file with openai-whisper's names.

Knows the binary layout (read from the file itself) and which tensor is which. Does not know where
the file came from, does not check its hash (the caller does) and never runs or unpickles anything
in it: the bytes are untrusted, every length is checked before it is used.

Layout, little-endian: u32 version, string spec name, u32 revision, u32 number of variables; each
variable is string name, u8 rank, u32 dims, u8 dtype, u32 bytes, data; then u32 number of aliases,
each two strings. A string is u16 length (with the closing NUL) and its bytes.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from anybind.errors import ModelError

FORMAT = "anybind-whisper-1"
"""Value of `format` in the metadata of the file that is written."""

_VERSION = 6
_SPEC = "WhisperSpec"
_MAX_BYTES = 2 << 30
_MAX_VARIABLES = 4096
_MAX_RANK = 4
_DTYPES: dict[int, str] = {0: "<f4", 1: "i1", 2: "<i2", 3: "<i4", 4: "<f2"}
_GELU = 3
_SCALARS = {
    "decoder/activation": _GELU,
    "decoder/alibi": 0,
    "decoder/pre_norm": 1,
    "decoder/scale_embeddings": 0,
    "decoder/start_from_zero_embedding": 0,
}
"""Variables that say how CTranslate2 runs the graph; openai-whisper can do only these values."""
_UNUSED = frozenset({"decoder/alignment_heads", "decoder/alignment_layer"})
"""Placeholders for word timestamps, which anybind does not use."""
_ALIAS = ("decoder/projection/weight", "decoder/embeddings/weight")

AnyArray = NDArray[Any]


class _Reader:
    """A cursor over bytes that never reads past the end."""

    def __init__(self, data: mmap.mmap | bytes) -> None:
        self.data = data
        self.size = len(data)
        self.at = 0

    def take(self, count: int, what: str) -> int:
        """Step over `count` bytes and return where they begin."""
        start = self.at
        if count > self.size - start:
            raise ModelError(
                f"not a CTranslate2 Whisper file: {what} needs {count} bytes at {start}, "
                f"the file ends at {self.size}"
            )
        self.at = start + count
        return start

    def number(self, layout: str, what: str) -> int:
        start = self.take(struct.calcsize(layout), what)
        return int(struct.unpack_from(layout, self.data, start)[0])

    def string(self, what: str) -> str:
        length = self.number("<H", f"length of {what}")
        start = self.take(length, what)
        raw = bytes(self.data[start : start + length])
        if not raw.endswith(b"\0") or b"\0" in raw[:-1]:
            raise ModelError(f"not a CTranslate2 Whisper file: {what} at {start} is not a C string")
        try:
            return raw[:-1].decode("ascii")
        except UnicodeDecodeError as error:
            raise ModelError(
                f"not a CTranslate2 Whisper file: {what} at {start} is not ASCII"
            ) from error


def _variable(reader: _Reader) -> tuple[str, AnyArray]:
    name = reader.string("a variable name")
    rank = reader.number("<B", f"rank of {name}")
    if rank > _MAX_RANK:
        raise ModelError(f"{name}: rank {rank} is more than {_MAX_RANK}")
    shape = tuple(reader.number("<I", f"shape of {name}") for _ in range(rank))
    code = reader.number("<B", f"dtype of {name}")
    if code not in _DTYPES:
        raise ModelError(f"{name}: unknown dtype {code}")
    dtype = np.dtype(_DTYPES[code])
    count = reader.number("<I", f"size of {name}")
    expected = math.prod(shape) * dtype.itemsize
    if count != expected:
        raise ModelError(f"{name}: {count} bytes do not fill shape {shape} of {dtype.name}")
    start = reader.take(count, f"data of {name}")
    values = np.frombuffer(reader.data, dtype, count // dtype.itemsize, start)
    return name, values.reshape(shape).copy()


def parse(data: mmap.mmap | bytes) -> dict[str, AnyArray]:
    """All variables of a CTranslate2 Whisper file, by name.

    Raises:
        ModelError: the bytes are not such a file, are cut short, or hold anything unexpected.
    """
    reader = _Reader(data)
    version = reader.number("<I", "version")
    if version != _VERSION:
        raise ModelError(f"CTranslate2 file version {version}, only {_VERSION} is known")
    spec = reader.string("spec name")
    if spec != _SPEC:
        raise ModelError(f"the file holds a {spec!r}, not a {_SPEC}")
    reader.number("<I", "revision")
    count = reader.number("<I", "number of variables")
    if count > _MAX_VARIABLES:
        raise ModelError(f"{count} variables are more than {_MAX_VARIABLES}")
    variables: dict[str, AnyArray] = {}
    for _ in range(count):
        name, values = _variable(reader)
        if name in variables:
            raise ModelError(f"variable {name} appears twice")
        variables[name] = values
    aliases = reader.number("<I", "number of aliases")
    if aliases > _MAX_VARIABLES:
        raise ModelError(f"{aliases} aliases are more than {_MAX_VARIABLES}")
    for _ in range(aliases):
        alias = (reader.string("an alias"), reader.string("an alias target"))
        if alias != _ALIAS:
            raise ModelError(f"unknown alias {alias[0]} of {alias[1]}")
    if reader.at != reader.size:
        raise ModelError(f"{reader.size - reader.at} bytes are left over after the last alias")
    return variables


class _Mover:
    """Takes variables out of CTranslate2's dictionary and files them under openai's names."""

    def __init__(self, variables: dict[str, AnyArray]) -> None:
        self.left = dict(variables)
        self.out: dict[str, AnyArray] = {}

    def pop(self, name: str, rank: int) -> AnyArray:
        if name not in self.left:
            raise ModelError(f"variable {name} is missing")
        values = self.left.pop(name)
        if values.ndim != rank:
            raise ModelError(f"{name} has rank {values.ndim}, expected {rank}")
        return values

    def scalar(self, name: str) -> int:
        return int(self.pop(name, 0))

    def put(self, name: str, values: AnyArray, shape: tuple[int, ...]) -> None:
        if values.shape != shape:
            raise ModelError(f"{name} has shape {values.shape}, expected {shape}")
        if values.dtype.kind != "f":
            raise ModelError(f"{name} is {values.dtype.name}: only unquantised weights can be read")
        if not np.isfinite(values).all():
            raise ModelError(f"{name} holds values that are not finite")
        self.out[name] = np.ascontiguousarray(values)

    def linear(self, source: str, target: str, rows: int, columns: int) -> None:
        self.put(f"{target}.weight", self.pop(f"{source}/weight", 2), (rows, columns))
        self.put(f"{target}.bias", self.pop(f"{source}/bias", 1), (rows,))

    def norm(self, source: str, target: str, width: int) -> None:
        self.put(f"{target}.weight", self.pop(f"{source}/gamma", 1), (width,))
        self.put(f"{target}.bias", self.pop(f"{source}/beta", 1), (width,))

    def stacked(self, source: str, targets: tuple[str, ...], width: int) -> None:
        """Split projections that were stacked on rows. The key has no bias in Whisper."""
        weight, bias = self.pop(f"{source}/weight", 2), self.pop(f"{source}/bias", 1)
        rows = width * len(targets)
        if weight.shape != (rows, width) or bias.shape != (rows,):
            raise ModelError(f"{source} has shape {weight.shape}, expected {(rows, width)}")
        for index, target in enumerate(targets):
            part = slice(index * width, (index + 1) * width)
            self.put(f"{target}.weight", weight[part], (width, width))
            if not target.endswith(".key"):
                self.put(f"{target}.bias", bias[part], (width,))
            elif np.any(bias[part]):
                raise ModelError(f"{source}: the key has a bias, Whisper has none")


def _layers(variables: dict[str, AnyArray], room: str) -> int:
    prefix = f"{room}/layer_"
    found = {name[len(prefix) :].split("/")[0] for name in variables if name.startswith(prefix)}
    found.discard("norm")  # decoder/layer_norm is not a layer
    if found != {str(index) for index in range(len(found))} or not found:
        raise ModelError(f"{room}: layers are not numbered 0, 1, ...: {sorted(found)}")
    return len(found)


def _block(move: _Mover, source: str, target: str, width: int, *, cross: bool) -> None:
    attn = f"{target}.attn"
    own = f"{source}/self_attention"
    move.norm(f"{own}/layer_norm", f"{target}.attn_ln", width)
    move.stacked(f"{own}/linear_0", (f"{attn}.query", f"{attn}.key", f"{attn}.value"), width)
    move.linear(f"{own}/linear_1", f"{attn}.out", width, width)
    if cross:
        other, attn = f"{source}/attention", f"{target}.cross_attn"
        move.norm(f"{other}/layer_norm", f"{target}.cross_attn_ln", width)
        move.linear(f"{other}/linear_0", f"{attn}.query", width, width)
        move.stacked(f"{other}/linear_1", (f"{attn}.key", f"{attn}.value"), width)
        move.linear(f"{other}/linear_2", f"{attn}.out", width, width)
    move.norm(f"{source}/ffn/layer_norm", f"{target}.mlp_ln", width)
    move.linear(f"{source}/ffn/linear_0", f"{target}.mlp.0", 4 * width, width)
    move.linear(f"{source}/ffn/linear_1", f"{target}.mlp.2", width, 4 * width)


def rename(variables: dict[str, AnyArray]) -> tuple[dict[str, AnyArray], dict[str, int]]:
    """CTranslate2's variables as openai-whisper's state dict, and its `ModelDimensions`.

    Raises:
        ModelError: a variable is missing, left over, of a wrong shape, quantised or not finite.
    """
    for name in ("encoder/conv1/weight", "encoder/position_encodings/encodings",
                 "decoder/embeddings/weight", "decoder/position_encodings/encodings"):  # fmt: skip
        if name not in variables:
            raise ModelError(f"variable {name} is missing")
    conv = variables["encoder/conv1/weight"]
    if conv.ndim != 3:
        raise ModelError(f"encoder/conv1/weight has rank {conv.ndim}, expected 3")
    audio, mels = int(conv.shape[0]), int(conv.shape[1])
    layers = {room: _layers(variables, room) for room in ("encoder", "decoder")}
    move = _Mover({name: v for name, v in variables.items() if name not in _UNUSED})
    for name, value in _SCALARS.items():
        if (found := move.scalar(name)) != value:
            raise ModelError(f"{name} is {found}; openai-whisper can only do {value}")

    embedding = move.pop("decoder/embeddings/weight", 2)
    vocabulary, text = (int(n) for n in embedding.shape)
    positions = {
        room: move.pop(f"{room}/position_encodings/encodings", 2) for room in ("encoder", "decoder")
    }
    dims = {
        "n_mels": mels,
        "n_audio_ctx": int(positions["encoder"].shape[0]),
        "n_audio_state": audio,
        "n_audio_head": move.scalar("encoder/num_heads"),
        "n_audio_layer": layers["encoder"],
        "n_vocab": vocabulary,
        "n_text_ctx": int(positions["decoder"].shape[0]),
        "n_text_state": text,
        "n_text_head": move.scalar("decoder/num_heads"),
        "n_text_layer": layers["decoder"],
    }
    for width, heads in ((audio, dims["n_audio_head"]), (text, dims["n_text_head"])):
        if heads < 1 or width % heads:
            raise ModelError(f"{heads} heads do not divide a width of {width}")

    move.put("encoder.conv1.weight", move.pop("encoder/conv1/weight", 3), (audio, mels, 3))
    move.put("encoder.conv1.bias", move.pop("encoder/conv1/bias", 1), (audio,))
    move.put("encoder.conv2.weight", move.pop("encoder/conv2/weight", 3), (audio, audio, 3))
    move.put("encoder.conv2.bias", move.pop("encoder/conv2/bias", 1), (audio,))
    move.put("encoder.positional_embedding", positions["encoder"], (dims["n_audio_ctx"], audio))
    move.put("decoder.positional_embedding", positions["decoder"], (dims["n_text_ctx"], text))
    move.put("decoder.token_embedding.weight", embedding, (vocabulary, text))
    move.norm("encoder/layer_norm", "encoder.ln_post", audio)
    move.norm("decoder/layer_norm", "decoder.ln", text)
    for index in range(layers["encoder"]):
        _block(move, f"encoder/layer_{index}", f"encoder.blocks.{index}", audio, cross=False)
    for index in range(layers["decoder"]):
        _block(move, f"decoder/layer_{index}", f"decoder.blocks.{index}", text, cross=True)
    if move.left:
        raise ModelError(f"variables nobody asked for: {', '.join(sorted(move.left))}")
    return move.out, dims


def convert(source: Path, target: Path) -> None:
    """Read CTranslate2's `model.bin` and write openai-whisper's tensors as safetensors.

    The tensors keep their precision (float16 stays float16). Metadata: `format` = `FORMAT`, and
    `dims`, the JSON of openai-whisper's `ModelDimensions`. `target` appears only when complete.

    Raises:
        ModelError: `source` is not an unquantised CTranslate2 Whisper file.
    """
    size = source.stat().st_size
    if not 0 < size <= _MAX_BYTES:
        raise ModelError(f"{source.name}: {size} bytes, expected 1 to {_MAX_BYTES}")
    with source.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            tensors, dims = rename(parse(data))
        except ModelError as error:
            raise ModelError(f"{source.name}: {error}") from error
    part = target.with_name(target.name + ".part")
    save_file(tensors, part, metadata={"format": FORMAT, "dims": json.dumps(dims)})
    part.replace(target)
