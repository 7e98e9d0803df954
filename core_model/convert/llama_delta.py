"""A delta added to a base: how Open-Chinese-LLaMA is published.

new = float16(float32(base) + float32(delta)), tensor by tensor. Reads safetensors that the
converter `llama-meta` wrote and writes one of the same kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor

from anybind.core_model.checkpoints.meta import FORMAT, is_rope
from anybind.core_model.checkpoints.report import compare
from anybind.core_model.convert.writing import stream_safetensors
from anybind.core_model.identity import identifying, identity
from anybind.errors import ModelError


def merge_delta(base: Path, delta: Path, target: Path) -> str:
    """Write base + delta to `target` (whole or not at all); the identity of the result.

    Raises:
        ModelError: one of the two is no converted LLaMA, or they differ in names, shapes or sizes.
    """
    from safetensors import SafetensorError, safe_open

    scratch = target.with_name(target.name + ".part")
    try:
        with ExitStack() as stack:
            files = [stack.enter_context(safe_open(p, "pt")) for p in (base, delta)]
            for path, file in zip((base, delta), files, strict=True):
                if (file.metadata() or {}).get("format") != FORMAT:
                    raise ModelError(f"{path.name} is not a LLaMA that llama-meta converted.")
            metadata = dict(files[0].metadata() or {})
            shapes = [
                {n: tuple(f.get_slice(n).get_shape()) for n in f.keys() if not is_rope(n)}
                for f in files
            ]
            compare(f"{delta.name} (for {base.name})", shapes[1], shapes[0])

            def summed(name: str) -> Tensor:
                one, other = (f.get_tensor(name).float() for f in files)
                return (one + other).half()

            def each() -> Iterator[tuple[str, Tensor]]:
                for name in shapes[0]:
                    yield name, summed(name)

            mark = identity({n: summed(n) for n in identifying(shapes[0])})
            metadata["identity"] = mark
            metadata["source"] = f"{base.name} + {delta.name}"
            plan = {n: (torch.float16, s) for n, s in shapes[0].items()}
            stream_safetensors(scratch, plan, each(), metadata)
        scratch.replace(target)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"The delta can't be merged: {error}") from error
    finally:
        scratch.unlink(missing_ok=True)
    return mark
