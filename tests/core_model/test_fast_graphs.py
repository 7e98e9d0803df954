"""The step that GPUs replay, against `Llama`; recording itself needs a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from anybind.core_model.fast import with_precision
from anybind.core_model.fast.graphs import GraphCache, GraphedLlama, Inputs, step
from anybind.core_model.llama import Llama, LlamaConfig

torch.set_num_threads(1)


def model(**changes: Any) -> Llama:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": 61, "dim": 64, "n_layers": 3, "n_heads": 4, "n_kv_heads": 2, "ffn_dim": 96,
        "context_length": 256, "biases": ("wq", "wo"),
    }  # fmt: skip
    made = Llama(LlamaConfig(**(sizes | changes))).eval().requires_grad_(False)
    for parameter in made.parameters():
        parameter.normal_(0.1, 0.15)
    return made


@pytest.mark.parametrize("site", ["residual", "attention_output", None])
@pytest.mark.parametrize("layout", ["interleaved", "half"])
@torch.inference_mode()
def test_a_step_by_index_is_a_step(site: Any, layout: Any) -> None:
    llama = model(rope_layout=layout)
    ids = torch.randint(0, 61, (2, 9))
    inject = torch.randn(2, 3, 64) if site else None
    expected = llama(ids, inject=inject, site=site or "residual")
    cache = GraphCache(llama.config, 2, 32, dtype=torch.float32, device="cpu")
    llama(ids[:, :5], cache=cache, inject=inject, site=site or "residual")
    for i in range(5, 9):
        inputs = Inputs(ids[:, i : i + 1], torch.tensor([cache.length]), inject, site or "residual")
        got = step(llama, cache, inputs)
        cache.length += 1
        torch.testing.assert_close(got, expected[:, i : i + 1], atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_padding_is_not_seen() -> None:
    llama = model()
    ids = torch.randint(0, 61, (2, 8))
    caches = [
        GraphCache(llama.config, 2, 16, dtype=torch.float32, device="cpu"),
        llama.new_cache(2, 16),
    ]
    for cache in caches:
        cache.start[:] = torch.tensor([0, 4])
        cache.padded = True
        llama(ids, cache=cache)
    got = step(llama, caches[0], Inputs(ids[:, :1], torch.tensor([8]), None, "residual"))
    torch.testing.assert_close(got, llama(ids[:, :1], cache=caches[1]), atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_one_trace_serves_all_steps() -> None:
    """Nothing of the host is baked in: traced once, the step is right at other places too."""
    llama = model()
    ids = torch.randint(0, 61, (1, 12))
    expected = llama(ids)
    cache = GraphCache(llama.config, 1, 16, dtype=torch.float32, device="cpu")
    llama(ids[:, :4], cache=cache)
    traces = 0

    def count(graph: Any, _: Any) -> Any:
        nonlocal traces
        traces += 1
        return graph.forward

    compiled = torch.compile(
        lambda tokens, place: step(llama, cache, Inputs(tokens, place, None, "residual")),
        backend=count,
        fullgraph=True,
    )
    for i in range(4, 12):
        got = compiled(ids[:, i : i + 1], torch.tensor([i]))
        torch.testing.assert_close(got, expected[:, i : i + 1], atol=1e-5, rtol=1e-4)
    assert traces == 1


@torch.inference_mode()
def test_the_cache_grows_clean() -> None:
    cache = GraphCache(model().config, 1, 4, dtype=torch.float32, device="cpu")
    cache.keys[:] = 1.0
    cache.length = 3
    cache.graphs["residual"] = None  # type: ignore[assignment]
    cache.grow(8)
    assert cache.keys[..., :3, :].eq(1).all() and cache.keys[..., 3:, :].eq(0).all()
    assert not cache.graphs
    cache.grow(2)
    assert cache.capacity == 8


@torch.inference_mode()
def test_without_a_gpu_it_is_llama() -> None:
    llama = model()
    graphed = GraphedLlama(llama)
    ids = torch.randint(0, 61, (1, 6))
    cache = graphed.new_cache(1, 8)
    graphed(ids[:, :5], cache=cache)
    got = graphed(ids[:, 5:], cache=cache)
    torch.testing.assert_close(got, llama(ids)[:, 5:], atol=1e-5, rtol=1e-4)
    assert cache.length == 6


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@torch.inference_mode()
def test_replayed_steps_are_those_of_llama() -> None:
    llama = model().cuda()
    ids = torch.randint(0, 61, (2, 40), device="cuda")
    inject = torch.randn(2, 3, 64, device="cuda")
    expected = llama(ids, inject=inject)
    graphed = with_precision(llama, "float32", "cuda")
    assert isinstance(graphed, GraphedLlama)
    cache = graphed.new_cache(2, 16)
    graphed(ids[:, :9], cache=cache, inject=inject)
    for i in range(9, 40):
        cache.grow(-(-(cache.length + 1) // 16) * 16)
        got = graphed(ids[:, i : i + 1], cache=cache, inject=inject)
        torch.testing.assert_close(got, expected[:, i : i + 1], atol=1e-3, rtol=1e-3)
    other = torch.randn(2, 3, 64, device="cuda")
    cache.cut(9)
    got = graphed(ids[:, 9:10], cache=cache, inject=other)
    assert (got - expected[:, 9:10]).abs().max() > 1e-2
