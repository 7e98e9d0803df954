"""An adapter on its own base and on foreign ones, with real weights (SmolLM2).

The foreign base is the same network with its hidden units renumbered: it computes the same
function, so nothing but an adapter tells the two apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from anybind.assembly import Assembly
from anybind.core_model.adapters import Adapter
from anybind.core_model.base_check import attach, mean_loss, norm_likeness, sentences
from anybind.core_model.bind import BindConfig, BindNetwork
from anybind.core_model.checkpoints import LoadReport, assemble, load_with_fields
from anybind.core_model.identity import identity
from anybind.core_model.llama import LINEARS, Llama
from anybind.core_model.tokenizer import Tokenizer, from_gguf
from anybind.errors import ModelError

torch.set_num_threads(1)

RANK = 4


class Setting:
    """SmolLM2; the same, off by a low-rank step; the adapter that undoes the step.

    The adapter is real in that it makes its base better, and it is known exactly.
    """

    def __init__(self, assembly: Assembly, scale: float) -> None:
        model, self.report, fields = load_with_fields(assembly.weight("smollm2"))
        self.tokenizer: Tokenizer = from_gguf(fields)
        whole = model.state_dict()
        del whole["output.weight"]
        self.config = model.config
        self.good = whole
        self.base: dict[str, Tensor] = dict(whole)
        rng = torch.Generator().manual_seed(0)
        tuned: dict[str, Tensor] = {}
        for name, weight in whole.items():
            if name.endswith("norm.weight"):
                tuned[name] = weight * (1 + 0.02 * torch.randn(weight.shape, generator=rng))
            elif name.startswith("layers."):
                stem = name.removesuffix(".weight")
                a = torch.randn(RANK, weight.shape[1], generator=rng) / weight.shape[1] ** 0.5
                b = torch.randn(weight.shape[0], RANK, generator=rng)
                b *= scale * weight.norm() / (b @ a).norm()
                self.base[name] = weight - b @ a
                tuned[f"{stem}.lora_a"], tuned[f"{stem}.lora_b"] = a, b
        c = self.config
        bind = BindNetwork(
            BindConfig(8, c.dim, 16, c.n_layers, c.n_heads, injection="attention_output")
        )
        self.adapter = Adapter(
            bind, tuned, RANK, LINEARS, (), {"source": "test.pth"}, "", LoadReport(len(tuned))
        )

    def own(self) -> Llama:
        return assemble(self.config, {n: t.clone() for n, t in self.base.items()})[0]

    def foreign(self) -> Llama:
        return assemble(self.config, renumbered(self.base, self.config.ffn_dim))[0]


def renumbered(state: dict[str, Tensor], ffn: int) -> dict[str, Tensor]:
    """The same function in other coordinates: units of the stream and of the ffn renumbered."""
    rng = torch.Generator().manual_seed(1)
    p = torch.randperm(state["norm.weight"].numel(), generator=rng)
    q = torch.randperm(ffn, generator=rng)
    out: dict[str, Tensor] = {}
    for name, t in state.items():
        kind = name.split(".")[-2]
        if kind in ("tok_embeddings", "wq", "wk", "wv"):
            t = t[:, p]
        elif kind in ("w1", "w3"):
            t = t[q][:, p]
        elif kind == "w2":
            t = t[p][:, q]
        else:  # wo and norms
            t = t[p]
        out[name] = t.clone()
    return out


@pytest.fixture(scope="module")
def setting(nano: Assembly) -> Iterator[Setting]:
    yield Setting(nano, 0.12)


def without_norms(adapter: Adapter) -> Adapter:
    kept = {n: t for n, t in adapter.decoder.items() if not n.endswith("norm.weight")}
    return replace(adapter, decoder=kept)


def test_its_own_base_is_accepted_and_better_for_it(setting: Setting) -> None:
    decoder = setting.own()
    _, found = attach(decoder, setting.adapter, setting.tokenizer)
    assert found is not None and not found.fault and found.identity is None
    assert found.loss_after < found.loss_before - 0.2
    assert found.norms > 0.9
    rows = sentences(setting.tokenizer)
    with torch.inference_mode():
        expected = assemble(setting.config, setting.good)[0](torch.tensor([rows[0]]))
        got = decoder(torch.tensor([rows[0]]))
    assert (got.argmax(-1) == expected.argmax(-1)).float().mean() > 0.8  # the norms differ a little


def test_the_same_network_in_other_coordinates_is_refused(setting: Setting) -> None:
    foreign = setting.foreign()
    rows = sentences(setting.tokenizer)[:2]
    assert mean_loss(foreign, rows) == pytest.approx(mean_loss(setting.own(), rows), abs=1e-3)
    assert norm_likeness(foreign, setting.adapter) < 0.2
    with pytest.raises(
        ModelError, match=r"test\.pth does not belong to that.*576.*check_base"
    ) as e:
        attach(foreign, setting.adapter, setting.tokenizer, name="that")
    assert "nats a token" in str(e.value)


def test_updates_alone_are_enough_to_tell(setting: Setting) -> None:
    adapter = without_norms(setting.adapter)
    with pytest.raises(ModelError, match="nats a token"):
        attach(setting.foreign(), adapter, setting.tokenizer)
    attach(setting.foreign(), adapter, setting.tokenizer, check=False)


def test_norms_alone_are_enough_to_tell(setting: Setting) -> None:
    """As in the file of the first stage, which holds the norms of its base as they are."""
    norms = {n: setting.base[n] for n in setting.adapter.decoder if n.endswith("norm.weight")}
    adapter = replace(setting.adapter, decoder=norms, rank=0, lora_on=())
    _, found = attach(setting.own(), adapter, setting.tokenizer)
    assert found is not None and found.loss_after == pytest.approx(found.loss_before, abs=1e-6)
    assert found.norms == pytest.approx(1)
    with pytest.raises(ModelError, match="does not belong"):
        attach(setting.foreign(), adapter, setting.tokenizer)


def test_identity_decides_where_both_sides_have_one(setting: Setting) -> None:
    own, other = identity(setting.base), identity(renumbered(setting.base, setting.config.ffn_dim))
    assert own.startswith("weights:") and own != other
    adapter = replace(setting.adapter, base=own)
    _, found = attach(setting.own(), adapter, setting.tokenizer, identity=own)
    assert found is not None and found.identity is True
    with pytest.raises(ModelError, match="other weights"):
        attach(setting.foreign(), adapter, setting.tokenizer, identity=other)
    # A quantised copy of the base has another identity and is still the base.
    quantised = identity(setting.base, exact=False)
    _, found = attach(setting.own(), adapter, setting.tokenizer, identity=quantised)
    assert found is not None and found.identity is None and not found.fault


def test_other_sizes_are_refused_at_once(setting: Setting) -> None:
    layers = {n: t for n, t in setting.base.items() if not n.startswith("layers.29.")}
    short = assemble(replace(setting.config, n_layers=29), layers)[0]
    with pytest.raises(ModelError, match="30 layers.*29 layers"):
        attach(short, setting.adapter, setting.tokenizer, check=False)
    decoder = setting.own()
    attach(decoder, setting.adapter, setting.tokenizer, check=False, merge=True)
    with pytest.raises(ModelError, match="has an adapter already"):
        attach(decoder, setting.adapter, setting.tokenizer, check=False)


def test_sentences_are_english_and_chinese(setting: Setting) -> None:
    texts = [setting.tokenizer.decode(r) for r in sentences(setting.tokenizer)]
    assert len(texts) == 7 and any("北京" in t for t in texts)
    assert setting.report.identity.startswith("quantised:")
