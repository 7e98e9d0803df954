"""The bundle `imagebind-llm-7b` from the files a person brings to a reply, at tiny sizes.

The files bear the official names inside and out; only widths and depths are small. Numbers are
held to the reference elsewhere (tests/core_model); here it is the way of the files.
"""

from __future__ import annotations

import json
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import anybind
from anybind.agent.cli import doctoring, embedding
from anybind.bundles import FOLDER, load
from anybind.content import PointCloud
from anybind.errors import MissingWeights, ModelError, UserError
from tests.core_model.imagebind_files import TINY_SETTINGS, tiny

DATA = Path(__file__).parent.parent / "data"
PARITY = DATA / "parity"
NAME = "imagebind-llm-7b"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where own files of the bundle go."""
    home = tmp_path_factory.mktemp("home")
    patch = pytest.MonkeyPatch()
    patch.setenv("ANYBIND_HOME", str(home))
    yield home / "own" / NAME
    patch.undo()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped bundle, told what shapes of no released size can't tell; the vocabulary of CLIP
    comes from a file, since nothing is fetched here."""
    data: dict[str, Any] = json.loads((FOLDER / NAME / "bundle.json").read_text())
    data["encoders"][0]["options"] |= {"settings": TINY_SETTINGS, "precision": "float32"}
    data["model"]["options"] |= {"precision": "float32", "context_length": 512}
    data["weights"]["tagger"] = {"ref": "file:tagger"}
    data["weights"]["clip_bpe"] = {"ref": "file:bpe"}
    data["experts"] = []
    del data["weights"]["whisper"]
    folder = tmp_path_factory.mktemp("bundle")
    (folder / "tagger").symlink_to(FOLDER / "nano" / "tagger")
    (folder / "bpe").symlink_to(DATA / "bpe_simple_vocab_16e6.txt.gz")
    (folder / "bundle.json").write_text(json.dumps(data))
    return folder


def bring_base(place: Path, wanted: dict[str, torch.Tensor], **changes: Any) -> None:
    """The base as `anybind merge-delta` makes it of Meta's folder and a delta."""
    params = json.loads((PARITY / "llm_tiny_params.json").read_text()) | changes
    half = {name: tensor / 2 for name, tensor in wanted.items()}
    for name in ("original", "delta"):
        folder = place / name
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(half, folder / "consolidated.00.pth")
        (folder / "params.json").write_text(json.dumps(params))
        (folder / "checklist.chk").write_text("not read")
    target = place / "llama.safetensors"
    target.unlink(missing_ok=True)
    doctoring.merge_delta(place / "original", place / "delta", target)


def bring(place: Path) -> None:
    """The files as their authors hand them out."""
    import faiss
    import sentencepiece

    place.mkdir(parents=True)
    torch.save(tiny(), place / "imagebind_w3D.pth")
    bring_base(place, load_file(PARITY / "llm_tiny_base.safetensors"))
    torch.save({"model": load_file(PARITY / "llm_tiny_adapter.safetensors")}, place / "7B.pth")
    index = faiss.IndexFlatIP(40)
    index.add(np.load(PARITY / "llm_tiny_io.npz")["cache_keys"])
    faiss.write_index(index, str(place / "knn.index"))
    # 94 characters and three special pieces: the 97 rows of the tiny LLaMA.
    characters = string.printable[:94]
    text = place / "text.txt"
    text.write_text("\n".join([" ".join(characters)] * 40))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(place / "tokenizer"), model_type="char", vocab_size=97,
        character_coverage=1.0, normalization_rule_name="identity", minloglevel=3,
    )  # fmt: skip


def test_before_the_files_are_there_doctor_says_where_they_go(
    place: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        doctoring.doctor(str(bundle), True, True)
    report = json.loads(capsys.readouterr().out)
    todo = {w["name"]: w["todo"] for w in report["weights"]}
    for key, name in (
        ("imagebind", "imagebind_w3D.pth"), ("llama", "llama.safetensors"), ("adapter", "7B.pth"),
        ("tokenizer", "tokenizer.model"), ("cache", "knn.index"),
    ):  # fmt: skip
        assert str(place / name) in todo[key]
    assert not report["healthy"]
    with pytest.raises(MissingWeights, match="7B.pth|llama"):
        anybind.load(bundle)


def test_with_the_files_doctor_converts_them_and_the_bundle_answers(
    place: Path, bundle: Path, examples: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bring(place)
    capsys.readouterr()
    doctoring.doctor(str(bundle), True, True)
    report = json.loads(capsys.readouterr().out)
    assert report["healthy"], report
    assert (place / "imagebind_w3D.pth.imagebind.safetensors").exists()

    model = anybind.load(bundle)
    assert model.language.profile.injection == "attention_output"
    assert model.language.profile.chat == "alpaca"
    cloud = PointCloud.of(np.load(PARITY / "point_tiny_io.npz")["in.points"][0])
    image, sound = str(examples / "cat.png"), str(examples / "guitar.wav")
    # The released order of things: unit features, mix by weight, then the cache on the mix.
    parts = [model.part(image), model.part(sound), cloud]
    rows = model.embed(image, sound, cloud)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    weights = np.array([1.0, 0.5, 0.25])
    mixed = (weights[:, None] * rows).sum(0) / (weights.sum() + 1e-6)
    keys = np.load(PARITY / "llm_tiny_io.npz")["cache_keys"]
    best = np.argsort(-(keys @ mixed))[:10]
    share = np.exp(20 * (keys[best] @ mixed))
    found = (share / share.sum()) @ keys[best]
    wanted = 0.5 * mixed + 0.5 * found / np.linalg.norm(found)
    wanted /= np.linalg.norm(wanted)
    condition = model.condition(parts, weights.tolist())
    np.testing.assert_allclose(condition.data, wanted, atol=1e-4)

    with anybind.session(bundle) as session:
        reply = session.ask("What is it?", (image, 1.0), (sound, 0.5), cloud, tools=False)
        assert reply.text and reply.usage.reply_tokens > 0
        again = session.ask("And now?", tools=False)  # the condition holds on
        assert again.usage.reply_tokens > 0


def test_embedding_needs_neither_the_decoder_nor_the_cache(
    place: Path, bundle: Path, examples: Path, tmp_path: Path
) -> None:
    hidden = [place / name for name in ("llama.safetensors", "knn.index")]
    for file in hidden:
        file.rename(file.with_suffix(".hidden"))
    try:
        out = tmp_path / "e.safetensors"
        things = [str(examples / "cat.png"), str(examples / "guitar.wav")]
        embedding.embed(things, str(bundle), out, None, True)
        tensors = load_file(out)
        assert set(tensors) == {"embeddings", "raw", "scaled"}
        # ImageBind's own outputs: a picture's are of norm 1, a sound's near 20.
        assert tensors["scaled"][0].norm() == pytest.approx(1, abs=1e-3)
        assert 10 < tensors["scaled"][1].norm() < 20.01
        model = anybind.load(bundle, encoders_only=True)
        with pytest.raises(UserError, match="encoders only"):
            model.generate("What is it?", things[0])
    finally:
        for file in hidden:
            file.with_suffix(".hidden").rename(file)


def test_a_base_of_other_sizes_is_refused(place: Path, bundle: Path) -> None:
    base = load_file(PARITY / "llm_tiny_base.safetensors")
    fewer = {k: v for k, v in base.items() if not k.startswith(("layers.2.", "layers.3."))}
    bring_base(place, fewer, n_layers=2)
    with pytest.raises(ModelError, match="layers"):
        anybind.load(bundle)


def test_the_shipped_bundle_is_read() -> None:
    spec = load(NAME)
    assert spec.space == "imagebind" and spec.cache is not None
    assert all(w.licence for w in spec.weights.values())
