"""Low-rank updates and biases: the stated formula, merging, and the condition beside them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from anybind.core_model.bind import BindConfig, BindNetwork
from anybind.core_model.llama import LINEARS, Llama, LlamaConfig
from anybind.core_model.lora import LoRALinear, MergedLinear, equip, merge_lora
from anybind.errors import ModelError

torch.set_num_threads(1)

CONFIG = LlamaConfig(
    61, 48, 3, 4, 2, 80, context_length=64, biases=("wq", "wo", "w1", "w2", "w3"), lora_rank=4
)  # fmt: skip
IDS = torch.arange(2 * 11).view(2, 11) % 61


def model(config: LlamaConfig = CONFIG, seed: int = 0) -> Llama:
    torch.manual_seed(seed)
    made = Llama(config).eval().requires_grad_(False)
    for parameter in made.parameters():
        parameter.normal_(0, 0.2)
    return made


def explicit(linear: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    assert isinstance(linear, LoRALinear)
    low = nn.functional.linear(x, linear.lora_a)
    return nn.functional.linear(x, linear.weight, linear.bias) + nn.functional.linear(
        low, linear.lora_b
    )


@pytest.mark.parametrize("name", LINEARS)
@torch.inference_mode()
def test_unmerged_layers_compute_the_formula_bit_for_bit(name: str) -> None:
    layer = model().layers[1]
    linear = getattr(layer.attention, name, None) or getattr(layer.feed_forward, name)
    assert (linear.bias is not None) is (name in CONFIG.biases)
    x = torch.randn(2, 5, linear.in_features)
    assert torch.equal(linear(x), explicit(linear, x))
    assert (linear(x) - nn.functional.linear(x, linear.weight, linear.bias)).abs().max() > 0.01


def test_a_decoder_without_updates_is_made_of_plain_layers() -> None:
    plain = Llama(replace(CONFIG, biases=(), lora_rank=0))
    kinds = {type(m) for m in plain.modules() if isinstance(m, nn.Linear)}
    assert kinds == {nn.Linear}
    assert not any(n.endswith("bias") for n in plain.state_dict())


@torch.inference_mode()
def test_a_fresh_update_and_bias_change_nothing() -> None:
    plain = model(replace(CONFIG, biases=(), lora_rank=0))
    before = plain(IDS)
    for layer in plain.layers:
        for parent in (layer.attention, layer.feed_forward):
            for name in LINEARS:
                if hasattr(parent, name):
                    setattr(parent, name, equip(getattr(parent, name), bias=True, rank=4))
    assert sum(isinstance(m, LoRALinear) for m in plain.modules()) == 21
    assert torch.equal(plain(IDS), before)


@torch.inference_mode()
def test_merged_gives_what_unmerged_gives() -> None:
    apart, together = model(), model()
    assert merge_lora(together) == 21
    assert not any(isinstance(m, LoRALinear) for m in together.modules())
    torch.testing.assert_close(together(IDS), apart(IDS), atol=1e-5, rtol=1e-5)
    assert merge_lora(together) == 0
    for parameter, old in zip(together.norm.parameters(), apart.norm.parameters(), strict=True):
        assert torch.equal(parameter, old)


@torch.inference_mode()
def test_the_value_projection_remembers_its_update() -> None:
    merged = model()
    merge_lora(merged)
    kinds = {n: type(m) for n, m in merged.named_modules() if isinstance(m, nn.Linear)}
    assert {n.split(".")[-1] for n, k in kinds.items() if k is MergedLinear} == {"wv"}
    assert not any("lora" in n for n in merged.state_dict())


@pytest.mark.parametrize("merge", [False, True])
@torch.inference_mode()
def test_the_condition_goes_past_the_update_of_wv_and_through_that_of_wo(merge: bool) -> None:
    decoder = model()
    torch.manual_seed(3)
    vectors, gates = torch.randn(2, 3, 48), torch.rand(3, 4)
    expected: list[torch.Tensor] = []
    for i, layer in enumerate(decoder.layers):
        a = layer.attention
        value = vectors[:, i] @ a.wv.weight.T
        heads = value.view(2, 2, 12).repeat_interleave(2, 1) * gates[i][None, :, None]
        flat = heads.flatten(1)
        expected.append(flat @ a.wo.weight.T + flat @ a.wo.lora_a.T @ a.wo.lora_b.T)
    if merge:
        merge_lora(decoder)
    got = decoder.attention_condition(vectors, gates)
    torch.testing.assert_close(got, torch.stack(expected, 1), atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_no_bias_is_counted_twice() -> None:
    """A condition that is zero adds nothing, whatever the biases are."""
    decoder = model()
    assert not decoder.attention_condition(torch.zeros(1, 3, 48), torch.ones(3, 4)).any()


@pytest.mark.parametrize("merge", [False, True])
@torch.inference_mode()
def test_rows_of_a_batch_are_as_one_by_one(merge: bool) -> None:
    decoder = model()
    if merge:
        merge_lora(decoder)
    bind = BindNetwork(
        BindConfig(8, 48, 16, 3, 4, injection="attention_output")
    ).requires_grad_(False)  # fmt: skip
    bind.gate.normal_()
    features = torch.randn(2, 8)
    inject = bind(features, decoder)
    both = decoder(IDS, inject=inject, site="attention_output")
    for i in range(2):
        own = bind(features[i : i + 1], decoder)
        one = decoder(IDS[i : i + 1], inject=own, site="attention_output")
        torch.testing.assert_close(both[i : i + 1], one, atol=1e-5, rtol=1e-5)
    assert (both - decoder(IDS)).abs().max() > 1e-2


def test_a_decoder_that_takes_no_attention_condition_is_told() -> None:
    bind = BindNetwork(BindConfig(8, 48, 16, 3, 4, injection="attention_output"))
    with pytest.raises(ModelError, match="residual"):
        bind(torch.randn(1, 8), nn.Linear(1, 1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.inference_mode()
def test_half_precision_runs_and_merges(dtype: Any) -> None:
    exact, half = model(), model().to(dtype)
    bind = BindNetwork(
        BindConfig(8, 48, 16, 3, 4, injection="attention_output")
    ).requires_grad_(False)  # fmt: skip
    bind.gate.normal_()
    feature = torch.randn(2, 8)
    expected = exact(IDS, inject=bind(feature, exact), site="attention_output")
    for _ in range(2):
        got = half(IDS, inject=bind(feature, half), site="attention_output")
        error = (got.float() - expected).norm() / expected.norm()
        assert error < (0.05 if dtype is torch.bfloat16 else 0.01)
        merge_lora(half)


def test_a_second_update_is_refused() -> None:
    linear = LoRALinear(4, 4, 2)
    with pytest.raises(ValueError, match="rank 2, not 3"):
        equip(linear, bias=False, rank=3)
    with pytest.raises(ValueError, match="merged"):
        equip(MergedLinear(linear), bias=False, rank=2)
