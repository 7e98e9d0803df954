"""The decoder against transformers' LlamaForCausalLM, on tiny random configs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from anybind.core_model.bind import BindConfig, BindNetwork
from anybind.core_model.checkpoints import assemble, hf_config, hf_name
from anybind.core_model.llama import KVCache, Llama, LlamaConfig

torch.set_num_threads(1)

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "mha": {"num_key_value_heads": 4},
    "gqa": {"num_key_value_heads": 2},
    "mqa": {"num_key_value_heads": 1},
    "llama3_scaling": {"num_key_value_heads": 2, "rope_parameters": LLAMA3},
    "other_theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0}},
    "tied": {"tie_word_embeddings": True},
    "head_dim": {"head_dim": 24, "num_key_value_heads": 2},
    "eps": {"rms_norm_eps": 1e-2},
}


def reference(**changes: Any) -> Any:
    from transformers import LlamaConfig as HFConfig
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "vocab_size": 61, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3,
        "num_attention_heads": 4, "max_position_embeddings": 128, "initializer_range": 0.1,
        "attn_implementation": "eager",
    }  # fmt: skip
    model = LlamaForCausalLM(HFConfig(**(settings | changes))).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
    return model


def ours(model: Any) -> Llama:
    config = hf_config(model.config.to_dict())
    named = {hf_name(k): v for k, v in model.state_dict().items()}
    if config.tied:
        named.pop("output.weight")
    return assemble(config, named)[0]


def tiny(**changes: Any) -> Llama:
    torch.manual_seed(1)
    settings: dict[str, Any] = {
        "vocab_size": 61, "dim": 48, "n_layers": 3, "n_heads": 4, "n_kv_heads": 2, "ffn_dim": 80,
        "context_length": 128,
    }  # fmt: skip
    model = Llama(LlamaConfig(**(settings | changes))).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.normal_(0, 0.2)
    return model


def tokens(batch: int, time: int, seed: int = 3) -> torch.Tensor:
    return torch.randint(0, 61, (batch, time), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_logits_are_those_of_transformers(name: str) -> None:
    theirs = reference(**CONFIGS[name])
    # Longer than the original context of the scaled config, where the frequencies differ most.
    ids = tokens(2, 70)
    expected = theirs(ids).logits
    assert expected.std() > 0.1
    torch.testing.assert_close(ours(theirs)(ids), expected, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_llama3_scaling_changes_the_logits() -> None:
    """Guards the test above: without scaling it would have to fail."""
    scaled, plain = reference(rope_parameters=LLAMA3), reference()
    plain.load_state_dict(scaled.state_dict())
    ids = tokens(1, 70)
    assert (ours(scaled)(ids) - ours(plain)(ids)).abs().max() > 1e-2


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@torch.inference_mode()
def test_prefill_and_steps_give_the_full_forward(kv_heads: int) -> None:
    model = tiny(n_kv_heads=kv_heads)
    ids = tokens(2, 20)
    full = model(ids)
    cache = KVCache(model.config, 2, 32)
    parts = [model(ids[:, :9], cache=cache)]
    parts += [model(ids[:, i : i + 1], cache=cache) for i in range(9, 20)]
    torch.testing.assert_close(torch.cat(parts, 1), full, atol=1e-5, rtol=1e-5)
    assert cache.length == 20


@torch.inference_mode()
def test_a_prefix_goes_on_with_several_tokens() -> None:
    model = tiny()
    ids = tokens(1, 24)
    full = model(ids)
    cache = KVCache(model.config, 1, 64)
    parts = [model(piece, cache=cache) for piece in ids.split([7, 5, 1, 11], 1)]
    torch.testing.assert_close(torch.cat(parts, 1), full, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_a_cut_and_grown_cache_goes_on_from_where_it_was_cut() -> None:
    model = tiny()
    ids, other = tokens(1, 16), tokens(1, 16, seed=9)
    cache = KVCache(model.config, 1, 16)
    model(torch.cat([ids[:, :6], other[:, 6:]], 1), cache=cache)
    cache.cut(6)
    cache.grow(40)
    assert cache.capacity == 40
    torch.testing.assert_close(
        model(ids[:, 6:], cache=cache), model(ids)[:, 6:], atol=1e-5, rtol=1e-5
    )


@torch.inference_mode()
def test_rows_of_a_padded_batch_are_as_if_alone() -> None:
    model = tiny()
    lengths, width = (12, 5, 1), 12
    rows = [tokens(1, n, seed=n) for n in lengths]
    steps = tokens(3, 4, seed=8)
    inject = torch.randn(3, 3, 48, generator=torch.Generator().manual_seed(2)) * 0.3
    padded = torch.full((3, width), 7)
    cache = KVCache(model.config, 3, 32)
    for i, row in enumerate(rows):
        padded[i, width - row.shape[1] :] = row
        cache.start[i] = width - row.shape[1]
    cache.padded = True
    together = [model(padded, cache=cache, inject=inject)[:, -1:]]
    together += [model(steps[:, i : i + 1], cache=cache, inject=inject) for i in range(4)]
    for i, row in enumerate(rows):
        alone = model(torch.cat([row, steps[i : i + 1]], 1), inject=inject[i : i + 1])[:, -5:]
        torch.testing.assert_close(torch.cat(together, 1)[i : i + 1], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("site", ["residual", "attention_output"])
@torch.inference_mode()
def test_zero_gates_are_no_injection_bit_for_bit(site: Any) -> None:
    model = tiny()
    bind = BindNetwork(
        BindConfig(joint_dim=8, model_dim=48, hidden_dim=16, n_layers=3, n_heads=4, injection=site)
    )
    inject = bind(torch.randn(2, 8), model)
    ids = tokens(2, 10)
    assert torch.equal(model(ids, inject=inject, site=site), model(ids))


@pytest.mark.parametrize("site", ["residual", "attention_output"])
@torch.inference_mode()
def test_each_row_has_its_own_condition(site: Any) -> None:
    model = tiny()
    inject = torch.randn(2, 3, 48, generator=torch.Generator().manual_seed(4)) * 0.3
    ids = tokens(1, 10).expand(2, -1)
    both = model(ids, inject=inject, site=site)
    for i in range(2):
        one = model(ids[:1], inject=inject[i : i + 1], site=site)
        torch.testing.assert_close(both[i : i + 1], one, atol=1e-5, rtol=1e-5)
    assert (both[0] - both[1]).abs().max() > 1e-2


def _slow_forward(
    model: Llama, ids: torch.Tensor, residual: torch.Tensor | None, value: torch.Tensor | None
) -> torch.Tensor:
    """The decoder written out per position and head, with the condition as the papers state it.

    `residual` [layers, dim] is added to the stream at the input of each layer. `value`
    [layers, heads, head_dim] is added to each head's attention result, before the output
    projection.
    """
    c = model.config
    x = model.tok_embeddings(ids[0])
    time = x.shape[0]

    def norm(v: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return v / (v.pow(2).mean(-1, keepdim=True) + c.norm_eps).sqrt() * weight

    def turn(v: torch.Tensor) -> torch.Tensor:
        """Complex rotation of neighbouring pairs, v [time, head_dim]."""
        pairs = torch.view_as_complex(v.reshape(time, -1, 2).contiguous())
        speed = c.rope_theta ** (-torch.arange(0, c.head_dim, 2) / c.head_dim)
        angle = torch.arange(time)[:, None] * speed[None]
        return torch.view_as_real(pairs * torch.exp(1j * angle)).reshape(time, -1)

    for i, layer in enumerate(model.layers):
        if residual is not None:
            x = x + residual[i]
        a = layer.attention
        n = norm(x, layer.attention_norm.weight)
        heads: list[torch.Tensor] = []
        for h in range(c.n_heads):
            kv = h // (c.n_heads // c.n_kv_heads)
            own, shared = (
                slice(h * c.head_dim, (h + 1) * c.head_dim),
                slice(kv * c.head_dim, (kv + 1) * c.head_dim),
            )
            q, k = turn(n @ a.wq.weight[own].T), turn(n @ a.wk.weight[shared].T)
            scores = q @ k.T / c.head_dim**0.5
            scores = scores.masked_fill(torch.ones(time, time).triu(1).bool(), -torch.inf)
            out = scores.softmax(-1) @ (n @ a.wv.weight[shared].T)
            heads.append(out if value is None else out + value[i, h])
        x = x + torch.cat(heads, -1) @ a.wo.weight.T
        n, f = norm(x, layer.ffn_norm.weight), layer.feed_forward
        gate = n @ f.w1.weight.T
        x = x + (gate * gate.sigmoid() * (n @ f.w3.weight.T)) @ f.w2.weight.T
    return norm(x, model.norm.weight) @ model.output.weight.T


def _bind(site: Any, **changes: Any) -> BindNetwork:
    torch.manual_seed(5)
    bind = BindNetwork(
        BindConfig(
            joint_dim=8,
            model_dim=48,
            hidden_dim=16,
            n_layers=3,
            n_heads=4,
            injection=site,
            **changes,
        )  # fmt: skip
    ).requires_grad_(False)
    bind.gate.normal_(0, 0.7)
    return bind


@torch.inference_mode()
def test_residual_injection_is_equation_2() -> None:
    """T_j = T_I * g + T_j in the stream, with T_I the bound feature plus the layer's query."""
    model, bind = tiny(), _bind("residual")
    feature, ids = torch.randn(1, 8), tokens(1, 9)
    t = bind.bind(feature)[0]
    added = torch.stack([(t + bind.query[i]) * bind.gate[i].tanh() for i in range(3)])
    expected = _slow_forward(model, ids, added, None)
    got = model(ids, inject=bind(feature, model), site="residual")[0]
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-4)
    assert (got - model(ids)[0]).abs().max() > 1e-2


@torch.inference_mode()
def test_attention_output_injection_is_a_gated_value_in_every_head() -> None:
    model, bind = tiny(), _bind("attention_output")
    feature, ids = torch.randn(1, 8), tokens(1, 9)
    t = bind.bind(feature)[0]
    added = torch.zeros(3, 4, 12)
    for i, layer in enumerate(model.layers):
        value = layer.attention.wv.weight @ (t + bind.query[i])
        for h in range(4):
            added[i, h] = bind.gate[i, h].tanh() * value[(h // 2) * 12 : (h // 2 + 1) * 12]
    expected = _slow_forward(model, ids, None, added)
    got = model(ids, inject=bind(feature, model), site="attention_output")[0]
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-4)
    assert (got - model(ids)[0]).abs().max() > 1e-2


@torch.inference_mode()
def test_layers_before_the_first_get_nothing() -> None:
    model, bind = tiny(), _bind("residual", first_layer=2)
    inject = bind(torch.randn(2, 8), model)
    assert not inject[:, :2].any()
    assert inject[:, 2].abs().min() > 0


def test_heads_must_divide() -> None:
    with pytest.raises(ValueError, match="multiple"):
        LlamaConfig(10, 12, 1, 4, 3, 8)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kv", [1, 3, 6])
def test_attention_of_training_is_that_of_inference(masked: bool, kv: int) -> None:
    """Short rows that learn are attended to by other products: same output, same gradients."""
    from anybind.core_model.llama import _attend

    rng = torch.Generator().manual_seed(kv)
    q = torch.randn(2, 6, 9, 8, generator=rng, requires_grad=True)
    k, v = (torch.randn(2, kv, 9, 8, generator=rng, requires_grad=True) for _ in range(2))
    segments = torch.tensor([[0, 0, 0, 1, 1, 1, 1, -1, -1], [2, 2, 2, 2, 2, 2, 2, 2, 2]])
    own = segments[:, None, :, None] == segments[:, None, None, :]
    mask = own & torch.ones(9, 9, dtype=torch.bool).tril() if masked else None
    got = _attend(q, k, v, mask)
    with torch.no_grad():
        torch.testing.assert_close(got.detach(), _attend(q, k, v, mask))
    repeated = [x.repeat_interleave(6 // kv, 1) for x in (k, v)]
    plain = torch.nn.functional.scaled_dot_product_attention(
        q, *repeated, attn_mask=mask, is_causal=not masked
    )
    weights = torch.randn(got.shape, generator=rng)
    ours = torch.autograd.grad((got * weights).sum(), (q, k, v))
    flat = plain.transpose(1, 2).reshape(got.shape)
    theirs = torch.autograd.grad((flat * weights).sum(), (q, k, v))
    for mine, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, wanted)
