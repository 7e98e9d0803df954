"""The bind network: shapes, gates, the two bridges."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from anybind.core_model.bind import BindConfig, BindNetwork


def test_gates_start_at_zero_and_nothing_else_does() -> None:
    bind = BindNetwork(BindConfig(joint_dim=6, model_dim=8, hidden_dim=12, n_layers=3))
    assert not bind.gate.any()
    assert bind.query.std() > 0 and bind.proj.weight.std() > 0


def test_gates_are_per_layer_or_per_head() -> None:
    settings = {"joint_dim": 6, "model_dim": 8, "hidden_dim": 12, "n_layers": 3, "n_heads": 4}
    assert BindNetwork(BindConfig(**settings)).gate.shape == (3, 1)
    released = BindConfig(**settings, injection="attention_output")
    assert BindNetwork(released).gate.shape == (3, 4)


@torch.inference_mode()
def test_the_blocks_are_gated_feed_forwards_on_a_norm() -> None:
    torch.manual_seed(0)
    bind = BindNetwork(
        BindConfig(joint_dim=6, model_dim=8, hidden_dim=12, n_layers=3, input_scale=3.0)
    )
    feature = torch.randn(2, 6)
    x = 3.0 * feature @ bind.proj.weight.T + bind.proj.bias
    for block in bind.blocks:
        n = x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * block.norm.weight
        x = x + (F.silu(n @ block.f1.weight.T) * (n @ block.f3.weight.T)) @ block.f2.weight.T
    torch.testing.assert_close(bind.bind(feature), x, atol=1e-6, rtol=1e-5)
    per_layer = bind.layer_vectors(feature)
    assert per_layer.shape == (2, 3, 8)
    torch.testing.assert_close(per_layer[1, 2], x[1] + bind.query[2])


def test_the_zero_gate_still_learns() -> None:
    """A gate of zero stops the signal, not the gradient of the gate itself."""
    from anybind.core_model.llama import Llama, LlamaConfig

    torch.manual_seed(0)
    decoder = Llama(LlamaConfig(11, 8, 3, 2, 1, 12, context_length=16)).requires_grad_(False)
    bind = BindNetwork(BindConfig(joint_dim=6, model_dim=8, hidden_dim=12, n_layers=3))
    inject = bind(torch.randn(1, 6), decoder)
    assert not inject.any()
    decoder(torch.arange(5)[None], inject=inject).logsumexp(-1).sum().backward()
    assert bind.gate.grad is not None and bind.gate.grad.abs().min() > 0
    assert not bind.proj.weight.grad.any()
