"""The CTranslate2 reader: parity with openai-whisper on a random model, and no trust in bytes."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("whisper")
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from whisper.model import ModelDimensions, Whisper

from anybind.core_model.convert.whisper_ct2 import FORMAT, convert, parse, rename
from anybind.core_model.encoders.whisper import load_whisper
from anybind.errors import ModelError

DIMS = ModelDimensions(
    n_mels=80, n_audio_ctx=20, n_audio_state=8, n_audio_head=2, n_audio_layer=2,
    n_vocab=50, n_text_ctx=12, n_text_state=8, n_text_head=2, n_text_layer=1,
)  # fmt: skip
CODES = {"float16": 4, "float32": 0, "int8": 1, "int16": 2}
SCALARS: dict[str, tuple[str, int]] = {
    "decoder/activation": ("int8", 3), "decoder/alibi": ("int8", 0),
    "decoder/alignment_heads": ("int16", 1), "decoder/alignment_layer": ("int16", -1),
    "decoder/pre_norm": ("int8", 1), "decoder/scale_embeddings": ("int8", 0),
    "decoder/start_from_zero_embedding": ("int8", 0),
    "encoder/num_heads": ("int16", 2), "decoder/num_heads": ("int16", 2),
}  # fmt: skip
ALIAS = [("decoder/projection/weight", "decoder/embeddings/weight")]


def random_model() -> Whisper:
    torch.manual_seed(3)
    model = Whisper(DIMS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter).half())
        model.encoder.positional_embedding.copy_(model.encoder.positional_embedding.half())
    return model.eval()


def as_ct2(model: Whisper) -> dict[str, np.ndarray[Any, Any]]:
    """The variables CTranslate2 would hold for this model."""
    state = {k: v.half().numpy() for k, v in model.state_dict().items()}
    out: dict[str, np.ndarray[Any, Any]] = {
        name: np.array(value, dtype) for name, (dtype, value) in SCALARS.items()
    }

    def both(source: str, target: str) -> None:
        out[f"{target}/weight"], out[f"{target}/bias"] = (
            state[f"{source}.weight"], state[f"{source}.bias"],
        )  # fmt: skip

    def norm(source: str, target: str) -> None:
        out[f"{target}/gamma"], out[f"{target}/beta"] = (
            state[f"{source}.weight"], state[f"{source}.bias"],
        )  # fmt: skip

    def stack(source: str, names: tuple[str, ...], target: str) -> None:
        zero = np.zeros(8, np.float16)
        out[f"{target}/weight"] = np.concatenate([state[f"{source}.{n}.weight"] for n in names])
        out[f"{target}/bias"] = np.concatenate(
            [state.get(f"{source}.{n}.bias", zero) for n in names]
        )

    for conv in ("conv1", "conv2"):
        both(f"encoder.{conv}", f"encoder/{conv}")
    for room, closing in (("encoder", "ln_post"), ("decoder", "ln")):
        out[f"{room}/position_encodings/encodings"] = state[f"{room}.positional_embedding"]
        norm(f"{room}.{closing}", f"{room}/layer_norm")
        layers = DIMS.n_audio_layer if room == "encoder" else DIMS.n_text_layer
        for i in range(layers):
            old, new = f"{room}.blocks.{i}", f"{room}/layer_{i}"
            norm(f"{old}.attn_ln", f"{new}/self_attention/layer_norm")
            stack(f"{old}.attn", ("query", "key", "value"), f"{new}/self_attention/linear_0")
            both(f"{old}.attn.out", f"{new}/self_attention/linear_1")
            norm(f"{old}.mlp_ln", f"{new}/ffn/layer_norm")
            both(f"{old}.mlp.0", f"{new}/ffn/linear_0")
            both(f"{old}.mlp.2", f"{new}/ffn/linear_1")
            if room == "decoder":
                norm(f"{old}.cross_attn_ln", f"{new}/attention/layer_norm")
                both(f"{old}.cross_attn.query", f"{new}/attention/linear_0")
                stack(f"{old}.cross_attn", ("key", "value"), f"{new}/attention/linear_1")
                both(f"{old}.cross_attn.out", f"{new}/attention/linear_2")
    out["decoder/embeddings/weight"] = state["decoder.token_embedding.weight"]
    return out


def to_bytes(
    variables: dict[str, np.ndarray[Any, Any]],
    *,
    version: int = 6,
    spec: str = "WhisperSpec",
    aliases: list[tuple[str, str]] = ALIAS,
) -> bytes:
    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    out = struct.pack("<I", version) + text(spec) + struct.pack("<II", 3, len(variables))
    for name, values in variables.items():
        out += text(name) + struct.pack("<B", values.ndim)
        out += b"".join(struct.pack("<I", n) for n in values.shape)
        out += struct.pack("<BI", CODES[values.dtype.name], values.nbytes) + values.tobytes()
    out += struct.pack("<I", len(aliases))
    return out + b"".join(text(a) + text(b) for a, b in aliases)


@pytest.fixture(scope="module")
def variables() -> dict[str, np.ndarray[Any, Any]]:
    return as_ct2(random_model())


def test_converted_model_computes_what_the_original_does(
    tmp_path: Path, variables: dict[str, np.ndarray[Any, Any]]
) -> None:
    source, target = tmp_path / "model.bin", tmp_path / "whisper.safetensors"
    source.write_bytes(to_bytes(variables))
    convert(source, target)
    model, original = load_whisper(target), random_model()
    assert model.dims == DIMS
    wanted = original.state_dict()
    assert set(model.state_dict()) == set(wanted)
    mel, words = torch.randn(2, 80, 40), torch.randint(0, 50, (2, 5))
    with torch.no_grad():
        torch.testing.assert_close(model(mel, words), original(mel, words))
    assert not list(tmp_path.glob("*.part"))
    with safe_open(target, framework="pt") as file:
        assert file.metadata()["format"] == FORMAT
        assert file.get_tensor("encoder.conv1.weight").dtype == torch.float16


def test_every_cut_of_the_file_is_refused(variables: dict[str, np.ndarray[Any, Any]]) -> None:
    data = to_bytes(variables)
    cuts = {*range(200), *range(len(data) - 80, len(data)), *range(0, len(data), 997)}
    for cut in sorted(cuts):
        with pytest.raises(ModelError):
            parse(data[:cut])
    with pytest.raises(ModelError, match="left over"):
        parse(data + b"\0")


def test_random_damage_never_escapes_as_another_error(
    variables: dict[str, np.ndarray[Any, Any]],
) -> None:
    data, random = to_bytes(variables), np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(data)
        for at in random.integers(0, 400, 3):
            damaged[at] = int(random.integers(256))
        try:
            rename(parse(bytes(damaged)))
        except ModelError:
            pass


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"decoder/activation": np.int8(1)}, "decoder/activation"),
        ({"encoder/num_heads": np.int16(3)}, "heads"),
        ({"encoder/conv1/bias": np.zeros(8, np.int8)}, "unquantised"),
        ({"encoder/conv1/bias": np.zeros(9, np.float16)}, "shape"),
        ({"encoder/conv1/bias": np.full(8, np.nan, np.float16)}, "finite"),
        ({"encoder/more": np.zeros(2, np.float16)}, "nobody asked"),
        ({"encoder/conv1/bias": None}, "missing"),
        ({"encoder/layer_0/self_attention/linear_0/bias": np.ones(24, np.float16)}, "key"),
    ],
)
def test_models_that_whisper_cannot_be_are_refused(
    variables: dict[str, np.ndarray[Any, Any]], change: dict[str, Any], words: str
) -> None:
    changed = {**variables, **{k: v for k, v in change.items() if v is not None}}
    for name in [k for k, v in change.items() if v is None]:
        del changed[name]
    with pytest.raises(ModelError, match=words):
        rename(parse(to_bytes({k: np.asarray(v) for k, v in changed.items()})))


def test_other_files_are_refused(
    tmp_path: Path, variables: dict[str, np.ndarray[Any, Any]]
) -> None:
    for data, words in (
        (to_bytes(variables, version=5), "version 5"),
        (to_bytes(variables, spec="TransformerSpec"), "TransformerSpec"),
        (to_bytes(variables, aliases=[("a", "b")]), "alias"),
        (b"PK\x03\x04 not at all", "version"),
    ):
        source, target = tmp_path / "model.bin", tmp_path / "out.safetensors"
        source.write_bytes(data)
        with pytest.raises(ModelError, match=words):
            convert(source, target)
        assert not target.exists()
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(ModelError):
        convert(tmp_path / "empty", tmp_path / "out")


def test_loading_is_strict(tmp_path: Path) -> None:
    state = {k: v.contiguous().half() for k, v in random_model().state_dict().items()}
    dims = dict(vars(DIMS))
    path = tmp_path / "w.safetensors"

    def write(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
        save_file({k: v.clone() for k, v in tensors.items()}, path, metadata=metadata)

    good = {"format": FORMAT, "dims": json.dumps(dims)}
    write(state, good)
    assert load_whisper(path).dims == DIMS
    missing = {k: v for k, v in state.items() if k != "decoder.ln.bias"}
    for tensors, metadata in (
        (missing, good),
        ({**state, "extra": torch.zeros(1)}, good),
        (state, {}),
        (state, {**good, "format": "other"}),
        (state, {**good, "dims": "{"}),
        (state, {**good, "dims": json.dumps({**dims, "n_vocab": 999_999})}),
        (state, {**good, "dims": json.dumps({**dims, "n_text_layer": 1_000_000})}),
        (state, {**good, "dims": json.dumps({**dims, "n_vocab": -1})}),
        (state, {**good, "dims": json.dumps({**dims, "more": 1})}),
    ):
        write(tensors, metadata)
        with pytest.raises(ModelError):
            load_whisper(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ModelError):
        load_whisper(path)
