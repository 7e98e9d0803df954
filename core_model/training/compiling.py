"""Fusing the decoder's layers for training, by torch.compile. Knows the module and no data."""

from __future__ import annotations

import os
import shutil

import torch

from anybind.core_model.training.trainee import Trainee
from anybind.errors import UserError

_SHAPES = 64
"""Variants that torch may keep: packed and plain rows, with and without gradients, short and long."""


def fuse(trainee: Trainee, device: torch.device) -> None:
    """Compile every layer of the decoder, in place, when it is first used.

    Layers are one and the same code, so they share what is compiled; names of parameters and what
    is saved stay as they are. Lengths of rows may change from step to step.

    Raises:
        UserError: on a CPU without a C++ compiler.
    """
    if device.type == "cpu" and not _has_compiler():
        raise UserError(
            "compile: true takes a C++ compiler on a CPU, and there is none (g++, clang++ or $CXX). "
            "Install one, or train without: --set compile=false"
        )
    torch._dynamo.config.cache_size_limit = max(_SHAPES, torch._dynamo.config.cache_size_limit)
    for layer in trainee.decoder.blocks:
        layer.compile(dynamic=True)


def _has_compiler() -> bool:
    named = os.environ.get("CXX")
    return any(shutil.which(name) for name in ([named] if named else ["g++", "clang++"]))
