"""Faster decoders behind one word, `precision`: 4- and 8-bit weights on a CPU, graphs on a GPU.

`with_precision` makes the twin of a loaded decoder, `from_gguf` reads a file without building the
float decoder first. All of them fit `core_model.decoder.Decoder`.

| precision | weights | where | computed in |
|---|---|---|---|
| float32 | 4 bytes | CPU, GPU | float32 |
| bfloat16, float16 | 2 bytes | CPU, GPU (single steps as a CUDA graph) | that type |
| int8 | 1.125 bytes | CPU | 16-bit activations, float32 sums |
| int4 | 0.625 bytes; embedding and head as int8 | CPU | the same |
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from anybind.errors import UserError

if TYPE_CHECKING:
    import torch

    from anybind.core_model.decoder import Decoder
    from anybind.core_model.fast.decoder import QuantisedLlama
    from anybind.core_model.llama import Llama

FLOATS = ("float32", "bfloat16", "float16")
INTEGERS = ("int8", "int4")
PRECISIONS = FLOATS + INTEGERS


def check_precision(precision: str, device: str = "cpu") -> None:
    """Refuse a precision that does not exist, or not there.

    Raises:
        UserError: it says which there are.
    """
    if precision not in PRECISIONS:
        raise UserError(f"There is no precision {precision!r}; choose {', '.join(PRECISIONS)}.")
    if precision in INTEGERS and not device.startswith("cpu"):
        raise UserError(f"{precision} runs on the CPU only; on {device} use bfloat16.")


def with_precision(
    model: Llama, precision: str, device: str | torch.device | None = None
) -> Decoder:
    """A decoder over the weights of `model` in another precision.

    For the float types the model itself is cast and moved (no copy is made if nothing changes);
    for int8 and int4 it is left as it is and may be dropped.

    Args:
        model: A decoder; low-rank updates must be merged for int8 and int4.
        precision: One of `PRECISIONS`.
        device: Where it shall run; None is where the model is.

    Raises:
        UserError: no such precision on this device.
        ModelError: sizes that int8 and int4 can't do.
        MissingExtra: numba is not installed.
    """
    where = str(model.device if device is None else device)
    check_precision(precision, where)
    if precision in INTEGERS:
        return quantise(model, precision)
    import torch

    from anybind.core_model.fast.graphs import GraphedLlama

    model = model.to(device=torch.device(where), dtype=getattr(torch, precision))
    # The rotary tables stay exact: positions beyond 256 don't fit the 8 bits of bfloat16.
    model.cos, model.sin = _tables(model)
    return GraphedLlama(model) if where.startswith("cuda") else model


def quantise(model: Llama, precision: str) -> QuantisedLlama:
    """The int8 or int4 twin of a float decoder, for the CPU.

    Raises:
        UserError: another precision.
        ModelError: sizes that the kernels can't do, or unmerged low-rank updates.
        MissingExtra: numba is not installed.
    """
    from anybind.core_model.fast.loading import from_llama

    _check_integer(precision)
    return from_llama(model, precision)


def from_gguf(path: Path, precision: str) -> tuple[QuantisedLlama, dict[str, Any]]:
    """A quantised decoder straight from a GGUF file, and the file's metadata.

    Q4_1 and Q4_0 (int4) and Q8_0 (int8, and the head in either) are taken over bit for bit.

    Raises:
        UserError: another precision.
        ModelError: not a LLaMA, damaged, or sizes that the kernels can't do.
        MissingExtra: numba is not installed.
    """
    from anybind.core_model.fast.loading import from_gguf as load

    _check_integer(precision)
    return load(path, precision)


def _check_integer(precision: str) -> None:
    if precision not in INTEGERS:
        raise UserError(f"Quantised decoders are int8 or int4, not {precision!r}.")


def _tables(model: Llama) -> tuple[Any, Any]:
    from dataclasses import replace

    from anybind.core_model.llama import Llama

    small = Llama(replace(model.config, n_layers=0, vocab_size=1, lora_rank=0))
    return small.cos.to(model.device), small.sin.to(model.device)
