"""Damaged and hostile headers: nothing but our own errors, little memory, little time."""

from __future__ import annotations

import json
import resource
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from anybind.core_model.adapters import load_adapter, load_bind
from anybind.core_model.checkpoints import load_decoder, meta_config, read_gguf_file
from anybind.core_model.checkpoints.meta import FORMAT
from anybind.errors import AnybindError, ModelError
from tests.core_model.llama_files import PARAMS, tiny_base

torch.set_num_threads(1)

COUNT = 5000
MEGABYTES = 700
"""By how much the process may grow over all inputs of one kind."""

EXTREMES = (0, 1, 2**31, 2**63, 2**64 - 1)


def mutated(data: bytes, rng: np.random.Generator, within: int) -> bytes:
    """One to eight changes among the first bytes: flips, extreme numbers, cuts, repeats."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        at = int(rng.integers(0, min(within, len(out)) or 1))
        kind = rng.integers(0, 6)
        if kind == 0:
            out[at : at + 1] = bytes([int(rng.integers(0, 256))])
        elif kind == 1:
            out[at : at + 8] = struct.pack("<Q", EXTREMES[int(rng.integers(0, 5))])
        elif kind == 2:
            out[at : at + 4] = struct.pack("<I", int(rng.integers(0, 14)))
        elif kind == 3:
            out = out[: max(1, at)] if rng.random() < 0.2 else out
        elif kind == 4:
            out[at:at] = out[at : at + int(rng.integers(1, 32))]
        else:
            out[at : at + 1] = (
                bytes([out[at] ^ (1 << int(rng.integers(0, 8)))]) if at < len(out) else b""
            )
    return bytes(out)


def survive(
    path: Path, data: bytes, within: int, load: Callable[[], Any], count: int = COUNT
) -> int:
    """Feed mutations; the number that were refused. Anything but our errors fails the test."""
    rng = np.random.default_rng(7)
    before, began, refused = _peak(), time.monotonic(), 0
    for i in range(count):
        path.write_bytes(mutated(data, rng, within))
        try:
            load()
        except AnybindError:
            refused += 1
        except BaseException as error:
            raise AssertionError(f"input {i} raised {error!r}") from error
    assert _peak() - before < MEGABYTES
    assert time.monotonic() - began < 300
    return refused


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def tiny_gguf(path: Path) -> bytes:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(32)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_token_list([f"t{i}" for i in range(8)])
    names = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_down", "ffn_up"]
    shapes: dict[str, tuple[int, ...]] = {f"blk.0.{n}.weight": (32, 32) for n in names}
    shapes |= {"blk.0.attn_norm.weight": (32,), "blk.0.ffn_norm.weight": (32,)}
    shapes |= {"token_embd.weight": (8, 32), "output_norm.weight": (32,)}
    for name, shape in shapes.items():
        array = np.ones(shape, np.float32)
        if len(shape) == 2:
            kind = gguf.GGMLQuantizationType.Q4_1
            writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def test_gguf_headers(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    data = tiny_gguf(path)
    assert read_gguf_file(path).config.dim == 32
    header = data.index(b"output_norm.weight") + 60
    assert COUNT // 2 < survive(path, data, header, lambda: load_decoder(path)) < COUNT


@pytest.mark.parametrize("at", ["tensors", "pairs", "array", "dims", "key"])
def test_a_gguf_that_announces_too_much_costs_nothing(tmp_path: Path, at: str) -> None:
    """The counts that make a plain reader loop or allocate for ever."""
    path = tmp_path / "m.gguf"
    data = bytearray(tiny_gguf(path))
    places = {"tensors": 8, "pairs": 16, "key": 24}
    places["array"] = data.index(b"tokenizer.ggml.tokens") + len(b"tokenizer.ggml.tokens") + 8
    places["dims"] = data.index(b"token_embd.weight") + len(b"token_embd.weight") + 4
    for huge in (2**40, 2**62, 2**64 - 1):
        data[places[at] : places[at] + 8] = struct.pack("<Q", huge)
        path.write_bytes(bytes(data))
        before, began = _peak(), time.monotonic()
        with pytest.raises(ModelError, match=r"m\.gguf"):
            load_decoder(path)
        assert _peak() - before < 50 and time.monotonic() - began < 5


@pytest.mark.parametrize("kind", ["decoder", "adapter", "bind"])
def test_safetensors_headers(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "m.safetensors"
    if kind == "decoder":
        metadata = {"format": FORMAT, "params": json.dumps(PARAMS)}
        save_file(tiny_base(), path, metadata)
        load_decoder(path)
    else:
        save_file({"prefix_query.weight": torch.ones(2, 4)}, path, {"adapter": "{}", "bind": "{}"})
    load = {"decoder": load_decoder, "adapter": load_adapter, "bind": load_bind}[kind]
    data = path.read_bytes()
    header = 8 + struct.unpack("<Q", data[:8])[0]
    count = COUNT if kind == "decoder" else COUNT // 5
    assert survive(path, data, header, lambda: load(path), count) > count // 2


WILD: tuple[Any, ...] = (
    None, True, -1, 0, 1, 3, 2**31, 2**63, 10**30, 1e300, float("inf"), float("nan"), "", "8", [], {},
    [1], {"a": 1}, -0.5,
)  # fmt: skip


def test_configurations(tmp_path: Path) -> None:
    """config.json and params.json with any value in any place."""
    from transformers import LlamaConfig, LlamaForCausalLM

    LlamaForCausalLM(
        LlamaConfig(vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                    num_attention_heads=2, max_position_embeddings=16)
    ).save_pretrained(tmp_path)  # fmt: skip
    file = tmp_path / "config.json"
    good = json.loads(file.read_text())
    load_decoder(tmp_path)
    rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16, "rope_theta": 1e4}  # fmt: skip
    extra = {"head_dim": 8, "sliding_window": 8, "attention_bias": False, "hidden_act": "silu"}
    params = PARAMS | {"n_kv_heads": 2, "rope_theta": 1e4, "use_scaled_rope": True, "max_seq_len": 16,
                       "ffn_dim_multiplier": 1.0, "rope_scaling_factor": 8.0}  # fmt: skip
    rng = np.random.default_rng(3)
    before, began, refused = _peak(), time.monotonic(), 0

    def wild(data: dict[str, Any]) -> dict[str, Any]:
        out = dict(data)
        for _ in range(int(rng.integers(1, 4))):
            key = list(out)[int(rng.integers(0, len(out)))]
            out[key] = WILD[int(rng.integers(0, len(WILD)))]
        return out

    for i in range(2 * COUNT):
        nested = wild(rope) if rng.random() < 0.5 else rope
        try:
            if i % 2:
                file.write_text(json.dumps(wild(good | extra | {"rope_parameters": nested})))
                load_decoder(tmp_path)
            else:
                meta_config(wild(params), 40)
        except AnybindError:
            refused += 1
        except BaseException as error:
            raise AssertionError(f"{file.read_text()} raised {error!r}") from error
    assert COUNT < refused < 2 * COUNT
    assert _peak() - before < MEGABYTES and time.monotonic() - began < 300
