"""The quantised decoder against `Llama` on the weights that it stands for."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from anybind.core_model.bind import BindConfig, BindNetwork
from anybind.core_model.checkpoints import assemble
from anybind.core_model.fast import quantise, with_precision
from anybind.core_model.fast.decoder import BLOCK, QuantisedLlama
from anybind.core_model.fast.vectors import host_sets
from anybind.core_model.llama import KVCache, Llama, LlamaConfig, RopeScaling
from anybind.core_model.lora import merge_lora
from anybind.errors import ModelError, UserError

torch.set_num_threads(1)

SIZES: dict[str, Any] = {
    "vocab_size": 61, "dim": 64, "n_layers": 3, "n_heads": 4, "n_kv_heads": 2, "ffn_dim": 96,
    "context_length": 512,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "gqa": {},
    "mha": {"n_kv_heads": 4},
    "mqa": {"n_kv_heads": 1},
    "half": {"rope_layout": "half"},
    "llama3": {"rope_layout": "half", "rope_scaling": RopeScaling(8.0, 1.0, 4.0, 32)},
    "factors": {"rope_factors": tuple(1.0 + i / 4 for i in range(8))},
    "tied": {"tied": True},
    "head_dim": {"head_dim": 24},
    "wide_heads": {"head_dim": 40},
    "eps": {"norm_eps": 1e-2},
    "biases": {"biases": ("wq", "wk", "wv", "wo", "w1", "w2", "w3")},
    "some_biases": {"biases": ("wv", "wo", "w1")},
}


def floats(**changes: Any) -> Llama:
    """A random decoder whose activations have outliers, as real ones do."""
    torch.manual_seed(0)
    model = Llama(LlamaConfig(**(SIZES | changes))).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.uniform_(0.5, 1.5)
            parameter[3] = 8.0
        elif name.endswith("bias"):
            parameter.normal_(0, 0.3)
        elif "lora" in name:
            parameter.normal_(0, 0.1)
        else:
            parameter.normal_(0, 0.15)
    return model


def twins(precision: str = "int4", **changes: Any) -> tuple[QuantisedLlama, Llama]:
    """A quantised decoder, and `Llama` with the weights it stands for."""
    model = floats(**changes)
    fast = quantise(model, precision)
    state = fast.state_dict()
    state |= {n: t for n, t in model.state_dict().items() if n.endswith("bias")}
    return fast, assemble(model.config, state)[0]


def close(got: torch.Tensor, expected: torch.Tensor) -> None:
    """Activations have 15 bits for the greatest of 32, so small ones beside an outlier have less."""
    spread = float(expected.std())
    assert spread > 0.5
    torch.testing.assert_close(got, expected, atol=2e-2 * spread, rtol=0)
    assert (got - expected).abs().mean() < 1e-3 * spread


@pytest.mark.parametrize("precision", ["int4", "int8"])
@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_prefill_and_steps_are_those_of_llama(name: str, precision: str) -> None:
    fast, slow = twins(precision, **CONFIGS[name])
    ids = torch.randint(0, 61, (2, 23))
    expected = slow(ids)
    close(fast(ids), expected)
    cache = fast.new_cache(2, 32)
    parts = [fast(ids[:, :9], cache=cache)]
    parts += [fast(ids[:, i : i + 1], cache=cache) for i in range(9, 19)]
    parts.append(fast(ids[:, 19:], cache=cache))
    got = torch.cat(parts, 1)
    close(got, expected)
    assert cache.length == 23
    # A position is computed alike alone and in a block.
    assert torch.equal(got, fast(ids))
    assert torch.equal(fast(ids, last_only=True), got[:, -1:])


@pytest.mark.parametrize("precision", ["int4", "int8"])
@torch.inference_mode()
def test_quantised_weights_are_near_the_floats(precision: str) -> None:
    model = floats()
    fast = quantise(model, precision)
    step = {"int4": 15, "int8": 255}[precision]
    state = fast.state_dict()
    for name, weight in model.state_dict().items():
        levels = 255 if name in ("tok_embeddings.weight", "output.weight") else step
        groups = weight.reshape(-1, 32) if "norm" not in name else weight[None]
        spread = (groups.amax(1) - groups.amin(1))[:, None]
        error = (state[name].reshape(groups.shape) - groups).abs()
        # Half a step, a little more where least squares let the ends go; float16 scales.
        assert (error <= spread * (1.0 / levels + 1.5e-3)).all(), name
        assert error.mean() <= 0.3 * float(spread.mean()) / levels + 1e-5


@pytest.mark.parametrize("site", ["residual", "attention_output"])
@torch.inference_mode()
def test_injection_a_row(site: Any) -> None:
    fast, slow = twins()
    ids = torch.randint(0, 61, (3, 7))
    inject = torch.randn(3, 3, 64)
    expected = slow(ids, inject=inject, site=site)
    close(fast(ids, inject=inject, site=site), expected)
    assert (expected - slow(ids)).abs().max() > 0.1
    one = fast(ids[1:2], inject=inject[1:2], site=site)
    assert torch.equal(one, fast(ids, inject=inject, site=site)[1:2])
    shared = fast(ids, inject=inject[:1], site=site)
    close(shared, slow(ids, inject=inject[:1], site=site))
    cache = fast.new_cache(3, 8)
    steps = [fast(ids[:, i : i + 1], cache=cache, inject=inject, site=site) for i in range(7)]
    close(torch.cat(steps, 1), expected)


@pytest.mark.parametrize("injection", ["residual", "attention_output"])
@pytest.mark.parametrize("rank", [0, 4])
@torch.inference_mode()
def test_a_bind_network_meets_it_as_it_meets_llama(injection: Any, rank: int) -> None:
    model = floats(biases=("wv", "wo"), lora_rank=rank)
    if rank:
        with pytest.raises(ModelError, match="merge_lora"):
            quantise(model, "int4")
        merge_lora(model)
    fast = quantise(model, "int8")
    heads = 4 if injection == "attention_output" else 1
    bind = BindNetwork(BindConfig(16, 64, 96, 3, n_heads=heads, injection=injection)).eval()
    torch.nn.init.normal_(bind.gate)
    feature = torch.randn(2, 16)
    got, expected = bind(feature, fast), bind(feature, model)
    # What is left is the rounding of the weights.
    assert (got - expected).norm() < 0.02 * expected.norm()


@torch.inference_mode()
def test_padded_rows() -> None:
    fast, slow = twins()
    ids = torch.randint(0, 61, (3, 12))
    made = []
    for decoder in (fast, slow):
        cache = decoder.new_cache(3, 20)
        cache.start[:] = torch.tensor([0, 5, 11])
        cache.padded = True
        out = [decoder(ids[:, :10], cache=cache), decoder(ids[:, 10:], cache=cache)]
        out += [decoder(ids[:, i : i + 1], cache=cache) for i in range(3)]
        made.append(torch.cat(out, 1))
    real = torch.arange(15)[None] >= torch.tensor([0, 5, 11])[:, None]
    close(made[0][real], made[1][real])
    assert torch.isfinite(made[0]).all()
    alone = fast(ids[1:2, 5:])
    close(made[0][1:2, 5:12], alone)


@torch.inference_mode()
def test_mask_and_positions() -> None:
    """Two continuations side by side behind one prompt, as `score` lays them out."""
    fast, slow = twins()
    prompt, a, b = (
        torch.randint(0, 61, (1, 6)),
        torch.randint(0, 61, (1, 3)),
        torch.tensor([[7, 8]]),
    )
    mask = torch.zeros(1, 1, 5, 11, dtype=torch.bool)
    mask[..., :6] = True
    mask[0, 0, :3, 6:9] = torch.ones(3, 3, dtype=torch.bool).tril()
    mask[0, 0, 3:, 9:] = torch.ones(2, 2, dtype=torch.bool).tril()
    positions = torch.tensor([[6, 7, 8, 6, 7]])
    cache = fast.new_cache(1, 16)
    fast(prompt, cache=cache)
    got = fast(torch.cat((a, b), 1), cache=cache, mask=mask, positions=positions)
    close(got[:, :3], slow(torch.cat((prompt, a), 1))[:, 6:])
    close(got[:, 3:], slow(torch.cat((prompt, b), 1))[:, 6:])


@torch.inference_mode()
def test_a_cache_is_cut_and_grows() -> None:
    fast, _ = twins()
    ids = torch.randint(0, 61, (1, 40))
    whole = fast(ids)
    cache = fast.new_cache(1, 16)
    assert isinstance(cache, KVCache)
    fast(ids[:, :16], cache=cache)
    cache.cut(9)
    cache.grow(64)
    assert torch.equal(fast(ids[:, 9:], cache=cache), whole[:, 9:])
    with pytest.raises(ModelError, match="holds 64"):
        fast(torch.zeros((1, 30), dtype=torch.long), cache=cache)


@torch.inference_mode()
def test_prompts_longer_than_a_block() -> None:
    fast, slow = twins()
    ids = torch.randint(0, 61, (2, BLOCK // 2 + 40))
    expected = slow(ids)
    got = fast(ids)
    close(got, expected)
    cache = fast.new_cache(2, ids.shape[1])
    assert torch.equal(fast(ids, cache=cache, last_only=True), got[:, -1:])


@pytest.mark.parametrize("precision", ["int4", "int8"])
@torch.inference_mode()
def test_instruction_sets_give_the_same(precision: str) -> None:
    fast, _ = twins(precision)
    ids = torch.randint(0, 61, (1, 21))
    results = []
    assert host_sets()[0] == 0
    for fast.isa in host_sets():
        cache = fast.new_cache(1, 32)
        fast(ids[:, :18], cache=cache)
        results.append(torch.cat([fast(ids[:, i : i + 1], cache=cache) for i in (18, 19, 20)], 1))
    assert all(torch.equal(results[0], r) for r in results[1:])


@torch.inference_mode()
def test_threads_give_the_same() -> None:
    fast, _ = twins()
    ids = torch.randint(0, 61, (1, 300))
    alone = fast(ids)
    cache, other = fast.new_cache(1, 512), fast.new_cache(1, 512)
    before = torch.get_num_threads()
    try:
        fast(ids, cache=cache)
        step = fast(ids[:, :1], cache=cache)
        torch.set_num_threads(2)
        assert torch.equal(fast(ids, cache=other), alone)
        # Attention over many positions is divided among threads: the sums differ in order.
        torch.testing.assert_close(fast(ids[:, :1], cache=other), step, atol=2e-3, rtol=0)
    finally:
        torch.set_num_threads(before)


def test_two_sessions_at_once() -> None:
    fast, _ = twins()
    texts = [torch.randint(0, 61, (1, 12)) for _ in range(3)]
    with torch.inference_mode():
        expected = [fast(ids) for ids in texts]
    got: dict[int, torch.Tensor] = {}

    def work(i: int) -> None:
        with torch.inference_mode():
            for _ in range(10):
                cache = fast.new_cache(1, 16)
                got[i] = torch.cat(
                    [fast(texts[i][:, t : t + 1], cache=cache) for t in range(12)], 1
                )

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(got[i], expected[i]) for i in range(3))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [({"dim": 48}, "dim .* 48"), ({"ffn_dim": 80}, "ffn_dim .* 80"), ({"head_dim": 12}, "n_heads")],
)
def test_sizes_it_cannot_do(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ModelError, match=f"(?s){message}.*float32"):
        quantise(floats(**sizes), "int4")


def test_bad_calls_are_told() -> None:
    fast, _ = twins()
    with pytest.raises(ModelError, match=r"0\.\.60"):
        fast(torch.tensor([[61]]))
    with pytest.raises(ModelError, match="512"):
        fast(torch.zeros((1, 513), dtype=torch.long))
    with pytest.raises(ModelError, match="condition"):
        fast(torch.zeros((1, 1), dtype=torch.long), inject=torch.zeros(1, 2, 64))
    with pytest.raises(ModelError, match="mask"):
        fast(torch.zeros((1, 2), dtype=torch.long), mask=torch.ones(1, 1, 2, 3, dtype=torch.bool))
    with pytest.raises(UserError, match="int5"):
        with_precision(floats(), "int5")
    with pytest.raises(UserError, match="CPU only"):
        with_precision(floats(), "int4", "cuda")
    broken = floats()
    broken.layers[1].attention.wo.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match="finite"):
        quantise(broken, "int8")


@torch.inference_mode()
def test_half_precision_is_llama_itself() -> None:
    ids = torch.randint(0, 61, (1, 300))
    expected = floats()(ids)
    model = with_precision(floats(), "bfloat16")
    assert isinstance(model, Llama)
    got = model(ids)
    assert got.dtype == torch.bfloat16
    # The rotary tables stay in float32, so far positions are no worse than near ones.
    error = (got.float() - expected).abs().mean(-1)[0]
    assert error[200:].mean() < 1.5 * error[:100].mean() < 0.15 * expected.std()
