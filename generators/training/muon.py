"""An optimiser for short budgets: orthogonalised momentum for matrices, Adam for all else.

Knows the update rule of Muon (Jordan et al. 2024): the momentum of a weight matrix (kernels are
flattened to ``[out, in*k*k]``) is replaced by the nearest semi-orthogonal matrix, found with five
Newton-Schulz iterations. It needs about half the steps of Adam on these small convolutional nets.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


def orthogonalise(matrix: torch.Tensor, iterations: int = 5) -> torch.Tensor:
    """About ``U V^T`` of the singular value decomposition of ``matrix`` ``[m, n]``."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.bfloat16()
    x = x / (x.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """Muon for the hidden matrices of ``model``, AdamW for inputs, outputs, norms and biases.

    Args:
        named: named parameters to train.
        lr: step of the matrices; ``adam_ratio * lr`` is that of all else.
        plain: name prefixes (input and output layers) that Adam takes though they are matrices.
    """

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        lr: float = 0.02,
        adam_ratio: float = 0.08,
        momentum: float = 0.95,
        plain: tuple[str, ...] = (),
    ) -> None:
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in named:
            hidden = parameter.ndim >= 2 and not name.startswith(plain)
            (matrices if hidden else others).append(parameter)
        super().__init__(
            [{"params": matrices, "muon": True}, {"params": others, "muon": False}],
            {"lr": lr, "adam_ratio": adam_ratio, "momentum": momentum},
        )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update from the gradients at hand."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if group["muon"]:
                    self._matrix(p, state, group)
                else:
                    self._adam(p, state, group["lr"] * group["adam_ratio"])

    @staticmethod
    def _matrix(p: torch.Tensor, state: dict[str, torch.Tensor], group: dict[str, float]) -> None:
        if not state:
            state["momentum"] = torch.zeros_like(p)
        momentum = state["momentum"].lerp_(p.grad, 1 - group["momentum"])  # type: ignore[arg-type]
        ahead = torch.lerp(p.grad, momentum, group["momentum"])  # type: ignore[arg-type]
        flat = orthogonalise(ahead.reshape(len(p), -1))
        # Equal root mean square of updates whatever the shape, at about Adam's size.
        size = 0.2 * max(flat.shape) ** 0.5
        p.mul_(1 - 0.01 * group["lr"]).add_(flat.reshape(p.shape), alpha=-group["lr"] * size)

    @staticmethod
    def _adam(p: torch.Tensor, state: dict[str, torch.Tensor], lr: float) -> None:
        if not state:
            state["first"], state["second"] = torch.zeros_like(p), torch.zeros_like(p)
            state["count"] = torch.zeros(())
        state["count"] += 1
        count = float(state["count"])
        first = state["first"].lerp_(p.grad, 0.1)  # type: ignore[arg-type]
        second = state["second"].mul_(0.99).addcmul_(p.grad, p.grad, value=0.01)  # type: ignore[arg-type]
        scale = (second / (1 - 0.99**count)).sqrt_().add_(1e-8)
        p.addcdiv_(first, scale, value=-lr / (1 - 0.9**count))
