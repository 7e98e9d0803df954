"""The training loop: AdamW, warm-up and cosine, checkpoints, a guard against non-finite steps.

Knows a module with trainable parameters and a function from a step number to a loss. Data and
task are the caller's. A run killed at any point goes on from its last checkpoint with the same
samples, because samples are drawn from a generator seeded by (seed, step).
"""

from __future__ import annotations

import csv
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from anybind.errors import ModelError


@dataclass(frozen=True)
class TrainConfig:
    """How to train."""

    steps: int
    lr: float = 2e-3
    warmup: int = 30
    weight_decay: float = 0.02
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    gate_pace: float = 10.0
    """Learning rate of parameters named `gate`, relative to the others."""
    seed: int = 0
    save_every: int = 50
    max_bad_steps: int = 10
    """Non-finite steps in a row after which the run halts."""


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then half a cosine to a twentieth."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def groups(module: nn.Module, weight_decay: float, gate_pace: float) -> list[dict[str, object]]:
    """Parameter groups: matrices decay; gates, norms and biases do not."""
    named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    gates = [p for n, p in named if n.endswith("gate")]
    decay = [p for n, p in named if p.ndim > 1 and not n.endswith("gate")]
    plain = [p for n, p in named if p.ndim <= 1 and not n.endswith("gate")]
    return [
        {"params": decay, "weight_decay": weight_decay, "pace": 1.0},
        {"params": plain, "weight_decay": 0.0, "pace": 1.0},
        # Gates start at zero and scale everything behind them: at the common rate they open so
        # slowly that the network behind them gets no gradient for the first hundred steps.
        {"params": gates, "weight_decay": 0.0, "pace": gate_pace},
    ]


def train(
    module: nn.Module,
    loss_of: Callable[[int], tuple[Tensor, dict[str, float]]],
    config: TrainConfig,
    folder: Path,
) -> None:
    """Train `module` in place.

    Args:
        module: Holds the trainable parameters.
        loss_of: Step number -> (loss, figures to log). Must depend on the step alone.
        config: How.
        folder: For `last.pt` (state) and `log.csv` (one row a step).

    Raises:
        ModelError: too many non-finite steps in a row; the last good checkpoint stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = torch.optim.AdamW(
        groups(module, config.weight_decay, config.gate_pace), betas=config.betas
    )
    last = folder / "last.pt"
    start = 0
    if last.exists():
        state = torch.load(last, weights_only=True)
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        start = int(state["step"])
        print(f"going on from step {start}", flush=True)
    trainable = [p for p in module.parameters() if p.requires_grad]
    bad, began = 0, time.time()
    with (folder / "log.csv").open("a", newline="", encoding="utf-8") as stream:
        log = csv.writer(stream)
        for step in range(start, config.steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, step) * group["pace"]
            optimizer.zero_grad(set_to_none=True)
            loss, figures = loss_of(step)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(trainable, config.clip)
            if not (torch.isfinite(loss) and torch.isfinite(norm)):
                bad += 1
                print(f"step {step}: loss or gradient is not finite; step skipped", flush=True)
                if bad >= config.max_bad_steps:
                    raise ModelError(
                        f"{bad} non-finite steps in a row; {last} is the last good one."
                    )
                continue
            bad = 0
            optimizer.step()
            log.writerow([step, f"{loss.item():.5f}", f"{norm.item():.4f}", *figures.values()])
            if step % 10 == 0 or step + 1 == config.steps:
                stream.flush()
                pace = (time.time() - began) / (step - start + 1)
                left = pace * (config.steps - step - 1) / 60
                shown = " ".join(f"{k} {v:.3f}" for k, v in figures.items())
                print(
                    f"step {step} loss {loss.item():.4f} {shown} {pace:.2f} s/step {left:.0f} min left",
                    flush=True,
                )
            if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
                save(last, module, optimizer, step + 1)


def save(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write a checkpoint atomically."""
    scratch = path.with_suffix(".part")
    torch.save(
        {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, scratch
    )
    os.replace(scratch, path)
