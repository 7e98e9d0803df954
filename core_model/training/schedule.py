"""Learning rates and parameter groups of AdamW.

Knows names and shapes of parameters and how far a run has come; no data and no model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torch import nn

from anybind.core_model.training.config import OptimizerConfig


def learning_rate(config: OptimizerConfig, done: float) -> float:
    """Linear warm-up, then half a cosine down to `floor`.

    Args:
        config: Peak, share of the warm-up, floor.
        done: How far the run has come, 0 to 1.
    """
    done = min(max(done, 0.0), 1.0)
    if done < config.warmup:
        return config.lr * done / config.warmup
    after = (done - config.warmup) / (1 - config.warmup)
    return config.lr * (config.floor + (1 - config.floor) * 0.5 * (1 + math.cos(math.pi * after)))


def is_gate(name: str) -> bool:
    """Whether a parameter is the gates of a bind network."""
    return name.rpartition(".")[2] == "gate"


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Weight decay is for matrices: not for gates, norms and biases."""
    return parameter.ndim > 1 and not is_gate(name)


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig
) -> list[dict[str, Any]]:
    """Groups for AdamW. `pace` multiplies the learning rate of the step."""
    decay, plain, gates = [], [], []
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        if is_gate(name):
            # Gates start at zero and scale all that is behind them: at the common rate they open so
            # slowly that a small network behind them gets no gradient for a long time.
            gates.append(parameter)
        else:
            (decay if decays(name, parameter) else plain).append(parameter)
    groups = [
        {"params": decay, "weight_decay": config.weight_decay, "pace": 1.0},
        {"params": plain, "weight_decay": 0.0, "pace": 1.0},
        {"params": gates, "weight_decay": 0.0, "pace": config.gate_pace},
    ]
    return [g for g in groups if g["params"]]
