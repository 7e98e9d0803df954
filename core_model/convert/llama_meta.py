"""Meta's LLaMA release into one safetensors file, under the same names.

Takes `consolidated.00.pth` or its folder (`consolidated.*.pth`, `params.json`). Shards of model
parallelism are merged; along which dimension is told by the full shapes that params.json implies:
wq, wk, wv, w1, w3 and output are split by rows, wo and w2 by columns, tok_embeddings by columns
in LLaMA 1 and 2 and by rows in LLaMA 3, norms are copies. Rotary buffers are left out. The
metadata holds params.json, the names left out and the identity of the weights.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anybind.core_model.checkpoints import LoadReport, compare
from anybind.core_model.checkpoints.meta import FORMAT, is_rope, meta_config
from anybind.core_model.convert.pickles import load_pickle, tensors_of
from anybind.core_model.convert.writing import stream_safetensors
from anybind.core_model.identity import identifying, identity
from anybind.core_model.llama import Llama, LlamaConfig
from anybind.errors import ModelError

Shards = Sequence[Mapping[str, Tensor]]


def convert(source: Path, target: Path) -> None:
    """Write `target`, and `tokenizer.model` beside it if Meta's is found and none is there.

    Raises:
        ModelError: files are missing or don't make up a LLaMA; the message names the tensors.
    """
    folder = source if source.is_dir() else source.parent
    params = read_params(folder)
    shards, ignored = read_shards(source)
    plan = plan_of(params, shards, source.name)[1]
    parts = ((name, merged(name, [s[name] for s in shards], plan[name])) for name in plan)
    sampled = {n: merged(n, [s[n] for s in shards], plan[n]) for n in identifying(plan)}
    metadata = {
        "format": FORMAT,
        "params": json.dumps(params),
        "ignored": json.dumps(ignored),
        "identity": identity(sampled),
        "source": f"{source.name}, {len(shards)} shard(s)",
    }
    del sampled
    dtype = shards[0]["norm.weight"].dtype
    stream_safetensors(target, {n: (dtype, s) for n, s in plan.items()}, parts, metadata)
    _bring_tokenizer(folder, target.parent)


def read_params(folder: Path) -> dict[str, Any]:
    """`params.json` of a folder.

    Raises:
        ModelError: missing or no JSON object.
    """
    path = folder / "params.json"
    try:
        params = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} can't be read: {error}") from error
    if not isinstance(params, dict):
        raise ModelError(f"{path} holds no table of sizes.")
    return params


def read_shards(source: Path) -> tuple[list[dict[str, Tensor]], list[str]]:
    """State dicts of all shards in order, without rotary buffers, and the names of those.

    Raises:
        ModelError: none there, one lost in between, or not state dicts of the same names.
    """
    folder = source if source.is_dir() else source.parent
    files = sorted(folder.glob("consolidated.*.pth"))
    if not source.is_dir() and (source not in files or source.name != "consolidated.00.pth"):
        files = [source]
    wanted = [f"consolidated.{i:02d}.pth" for i in range(len(files))]
    if not files or (len(files) > 1 and [f.name for f in files] != wanted):
        have = ", ".join(f.name for f in files) or "none"
        raise ModelError(f"{folder} must hold consolidated.00.pth and on; found: {have}.")
    shards: list[dict[str, Tensor]] = []
    ignored: list[str] = []
    for file in files:
        state = tensors_of(file, load_pickle(file))
        ignored = [n for n in state if is_rope(n)]
        shards.append({n: t for n, t in state.items() if not is_rope(n)})
        if set(shards[-1]) != set(shards[0]):
            odd = sorted(set(shards[-1]) ^ set(shards[0]))[:5]
            raise ModelError(f"{file.name} and {files[0].name} differ in their tensors: {odd}.")
    return shards, ignored


def plan_of(
    params: Mapping[str, Any], shards: Shards, name: str
) -> tuple[LlamaConfig, dict[str, tuple[int, ...]]]:
    """The config, and the full shape of every tensor in the order they are written.

    Raises:
        ModelError: params.json is senseless, or tensors are missing, unexpected or of shapes
            that don't add up.
    """
    head = shards[0].get("output.weight")
    if head is None or head.dim() != 2:
        raise ModelError(f"{name} holds no output.weight.")
    config = meta_config(params, head.shape[0] * len(shards))
    with torch.device("meta"):
        wanted = {n: tuple(t.shape) for n, t in Llama(config).state_dict().items()}
    whole = {n: _whole(t, wanted.get(n), len(shards)) for n, t in shards[0].items()}
    compare(name, whole, wanted)
    for n in wanted:
        if any(s[n].shape != shards[0][n].shape for s in shards):
            raise ModelError(f"{name}: the shards of {n} have different shapes.")
    return config, wanted


def _whole(part: Tensor, full: tuple[int, ...] | None, count: int) -> tuple[int, ...]:
    """`full` if `count` such parts make it up; else the part's own shape, for the error."""
    shape = tuple(part.shape)
    return full if full is not None and _split_dim(shape, full, count) is not None else shape


def _split_dim(shape: tuple[int, ...], full: tuple[int, ...], count: int) -> int | None:
    """Along which dimension parts of `shape` make `full`: -1 for copies, None if they don't."""
    if shape == full:
        return -1
    if len(shape) == len(full):
        for dim in range(len(full)):
            grown = (*shape[:dim], shape[dim] * count, *shape[dim + 1 :])
            if grown == full:
                return dim
    return None


def merged(name: str, parts: Sequence[Tensor], full: tuple[int, ...]) -> Tensor:
    """One tensor of its shards.

    Raises:
        ModelError: copies that should agree are of different models.
    """
    dim = _split_dim(tuple(parts[0].shape), full, len(parts))
    if len(parts) == 1:
        return parts[0]
    if dim is None:
        raise ModelError(f"The shards of {name} don't add up to {full}.")
    if dim >= 0:
        return torch.cat(list(parts), dim)
    first = parts[0].float()
    for other in parts[1:]:
        if not torch.allclose(first, other.float(), rtol=0.02, atol=0.02):
            raise ModelError(f"The shards are of different models: they disagree on {name}.")
    return parts[0]


def check(params: Mapping[str, Any], shards: Shards, name: str = "The checkpoint") -> LoadReport:
    """What a conversion would take, without writing anything."""
    _, plan = plan_of(params, shards, name)
    return LoadReport(len(plan))


def _bring_tokenizer(folder: Path, target: Path) -> None:
    """Copy `tokenizer.model` from the folder or the one above it (where Meta puts it)."""
    for place in (folder, folder.parent):
        found = place / "tokenizer.model"
        if found.is_file():
            if not (target / found.name).exists():
                shutil.copyfile(found, target / found.name)
            return
