"""Trained weights and optimiser state as whole tensors by name, whoever holds the pieces.

A plain module, DDP and FSDP2 all look alike from outside; torch's own state-dict functions do the
work. Knows parameters by name; no files.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from anybind.errors import ModelError

_OPTIONS = {"full_state_dict": True, "ignore_frozen_params": True}


def whole(tensor: Tensor) -> Tensor:
    """A tensor, put together if it lies in pieces (every process must ask)."""
    full = getattr(tensor, "full_tensor", None)
    return full() if full is not None else tensor


def gather(
    model: nn.Module, optimizer: torch.optim.Optimizer, names: Collection[str]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Trained parameters, and the optimiser's state as "parameter|moment".

    Every process must call it; the first one gets the tensors, on the CPU.
    """
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_model_state_dict,
        get_optimizer_state_dict,
    )

    options = StateDictOptions(**_OPTIONS, cpu_offload=True)
    state = get_model_state_dict(model, options=options)
    # A frozen matrix that is shared (tied output head) goes by two names and stays under one.
    trained = {n: cast("Tensor", t) for n, t in state.items() if n in names}
    found = get_optimizer_state_dict(model, optimizer, options=options)
    moments = cast("dict[str, dict[str, Any]]", found.get("state", {}))
    flat = {
        f"{name}|{moment}": torch.as_tensor(value)
        for name, table in moments.items()
        for moment, value in table.items()
    }
    return trained, flat


def scatter(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    trained: Mapping[str, Tensor],
    moments: Mapping[str, Tensor],
    names: Collection[str],
) -> None:
    """Put back what `gather` gave; every process must call it with the same tensors.

    Raises:
        ModelError: the checkpoint trains other parameters than the model.
    """
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_optimizer_state_dict,
        set_model_state_dict,
        set_optimizer_state_dict,
    )

    held = {key.rpartition("|")[0] for key in moments}
    if set(trained) != set(names) or (held and held != set(names)):
        odd = sorted((set(trained) | held) ^ set(names))
        raise ModelError(
            f"The checkpoint trains other parameters than this stage: {', '.join(odd[:4])}"
            + (f" and {len(odd) - 4} more." if len(odd) > 4 else ".")
        )
    options = StateDictOptions(**_OPTIONS, strict=False)
    set_model_state_dict(model, dict(trained), options=options)
    if not held:
        return
    # The groups (rates, decay) are those of the config; only the moments are taken over.
    empty = get_optimizer_state_dict(model, optimizer, options=StateDictOptions(**_OPTIONS))
    tables: dict[str, dict[str, Tensor]] = {name: {} for name in held}
    for key, tensor in moments.items():
        name, _, moment = key.rpartition("|")
        tables[name][moment] = tensor
    state = {"state": tables, "param_groups": empty["param_groups"]}
    set_optimizer_state_dict(model, optimizer, cast("Any", state), options=options)
