"""What a stage would take, before it is begun: parameters, tokens, memory, time.

Counts and measures; trains nothing. Time is measured on steps of the real model where it is small,
else reckoned from its operations and what this machine does of them in a second.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from anybind.core_model.training.building import Parts, build_hollow, build_parts, group_of
from anybind.core_model.training.cache_config import CacheConfig
from anybind.core_model.training.config import TrainConfig
from anybind.core_model.training.feed import Feed
from anybind.core_model.training.feeding import StageBatches
from anybind.core_model.training.trainee import Trainee
from anybind.errors import AnybindError, MissingWeights, UserError

MEASURED = 1_000_000_000
"""Parameters up to which steps are measured."""
_LOOKED_AT = 8
"""Batches looked at for the number of tokens in a sample."""
_USE = 0.5
"""Share of a bare matrix product's speed that training reaches."""


@dataclass(frozen=True)
class Estimate:
    """What a stage would take. Bytes, seconds, numbers of parameters."""

    stage: str
    trainable: dict[str, int]
    """By group."""
    frozen: int
    memory: dict[str, int]
    """Of one process: weights, gradients, optimiser, activations."""
    available: int
    """Bytes of the device (or this machine's memory) that are free."""
    samples: int | None
    """Of one epoch."""
    tokens_a_sample: float | None
    tokens: int | None
    """Of one epoch."""
    steps: int | None
    step_seconds: float
    seconds: float | None
    """Of the whole run on this machine, one process."""
    how: str
    """Where the time comes from."""
    notes: list[str] = field(default_factory=list[str])

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def estimate(config: TrainConfig) -> Estimate:
    """Look at a stage.

    Raises:
        UserError: neither the decoder nor its sizes are there, or the config does not fit it.
    """
    notes: list[str] = []
    parts, trainee = _model(config, notes)
    if config.images.augment is not None:
        said = config.images.augment.model_dump(mode="json").items()
        notes.append(f"Pictures are augmented: {', '.join(f'{k} {v}' for k, v in said)}.")
    groups: Counter[str] = Counter()
    frozen = 0
    for name, parameter in trainee.named_parameters():
        if parameter.requires_grad:
            groups[group_of(name)] += parameter.numel()
        else:
            frozen += parameter.numel()
    batches = _batches(config, parts, notes)
    samples = share = None
    try:
        if batches is not None:
            samples = sum(s.count for s in batches.mixer.sources)
            share = _tokens_a_sample(batches)
        if config.cache is not None:
            notes.append(_cache_note(config.cache, batches))
        steps = _steps(config, samples, share)
        if parts is not None and frozen + groups.total() <= MEASURED:
            step_seconds = _measured(config, trainee, batches)
            how = "measured on two steps" + (" of made-up tokens" if batches is None else "")
        else:
            step_seconds, how = _reckoned(config, trainee)
    finally:
        if batches is not None:
            batches.close()
    return Estimate(
        stage=config.stage,
        trainable=dict(groups),
        frozen=frozen,
        memory=_memory(config, trainee),
        available=_available(),
        samples=samples,
        tokens_a_sample=share,
        tokens=round(samples * share) if samples is not None and share is not None else None,
        steps=steps,
        step_seconds=step_seconds,
        seconds=steps * step_seconds if steps is not None else None,
        how=how,
        notes=notes,
    )


def _model(config: TrainConfig, notes: list[str]) -> tuple[Parts | None, Trainee]:
    try:
        parts = build_parts(config)
    except (MissingWeights, UserError) as error:
        if config.model.shape is None:
            raise
        notes.append(f"Reckoned from model.shape, for the model can't be built yet: {error}")
        return None, build_hollow(config)
    return parts, parts.trainee


def _batches(config: TrainConfig, parts: Parts | None, notes: list[str]) -> StageBatches | None:
    if parts is None:
        return None
    try:
        return StageBatches(config, parts)
    except AnybindError as error:
        notes.append(f"The data can't be read yet: {error}")
        return None


def _cache_note(cache: CacheConfig, batches: StageBatches | None) -> str:
    """That embeddings pass a cache, and how many of those looked at it took."""
    said = f"Embeddings pass {cache.title} before they are fed"
    if batches is None:
        return f"{said}; it was not opened."
    mixer = batches.mixer
    return (
        f"{said} ({mixer.finish}): it took {mixer.pulled} of the {mixer.seen} that were looked at."
    )


def _tokens_a_sample(batches: StageBatches) -> float | None:
    place = batches.state()
    tokens = samples = 0
    for _, batch in zip(range(_LOOKED_AT), batches, strict=False):
        tokens += int((batch.segments >= 0).sum())
        samples += batch.samples
    batches.restore(place)
    return tokens / samples if samples else None


def _steps(config: TrainConfig, samples: int | None, share: float | None) -> int | None:
    if config.steps is not None or samples is None or not share:
        return config.steps
    batch = config.batch
    total = samples * (config.data.epochs or 1) * share
    # Packed rows are nearly full, others about three quarters.
    used = batch.tokens * batch.accumulation * (0.95 if batch.packing else 0.75)
    return max(1, round(total / used))


def _measured(config: TrainConfig, trainee: Trainee, batches: StageBatches | None) -> float:
    """Seconds of a step: two micro-batches behind one to warm up, times the accumulation."""
    device = _device()
    trainee.to(device)
    feed = Feed(batches, accumulation=1) if batches is not None else None
    seconds: list[float] = []
    while len(seconds) < 3:
        taken = feed.take() if feed is not None else None
        if feed is not None and taken is None:
            break
        (batch,) = taken.mine if taken is not None else (_made_up(config, trainee),)
        moved = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
        began = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            losses = trainee(**moved)
            loss = losses.loss + config.alignment.weight * losses.distance
        loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        trainee.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - began)
    later = seconds[1:] or seconds
    return config.batch.accumulation * sum(later) / max(len(later), 1)


def _made_up(config: TrainConfig, trainee: Trainee) -> dict[str, Any]:
    """A batch as long as the config's: a sample a row, a third of it learned."""
    batch = config.batch
    shape = (max(1, batch.tokens // batch.max_tokens), batch.max_tokens)
    tokens = torch.randint(0, trainee.decoder.config.vocab_size, shape)
    labels = torch.where(torch.arange(shape[1]) * 3 >= 2 * shape[1], tokens, -100)
    rows, columns = torch.arange(shape[0])[:, None], torch.arange(shape[1])[None]
    return {
        "tokens": tokens, "labels": labels, "segments": rows.expand(shape),
        "positions": columns.expand(shape),
        "features": torch.randn(shape[0], trainee.bind.config.joint_dim),
        "present": torch.ones(shape[0], dtype=torch.bool), "packed": batch.packing,
        "words": tokens[:, :4], "shares": torch.full((shape[0], 4), 0.25),
    }  # fmt: skip


def _reckoned(config: TrainConfig, trainee: Trainee) -> tuple[float, str]:
    matrices = sum(p.numel() for n, p in trainee.decoder.named_parameters() if p.ndim == 2)
    matrices -= trainee.decoder.tok_embeddings.weight.numel()
    trained = sum(p.numel() for p in trainee.decoder.parameters() if p.requires_grad)
    bind = sum(p.numel() for p in trainee.bind.parameters())
    batch, c = config.batch, trainee.decoder.config
    tokens = batch.tokens * batch.accumulation
    # Forward, and backward to the activations; weights only where they are trained.
    passes = 3 if config.activation_checkpointing else 2
    attention = 2 * c.n_layers * c.dim * batch.max_tokens
    work = tokens * (2 * passes * (matrices + attention) + 2 * trained)
    work += 6 * bind * tokens / max(batch.max_tokens / 4, 1)
    rate = _rate(config)
    return work / (
        rate * _USE
    ), f"reckoned: {work:.2e} operations a step at {rate * _USE:.2e} a second"


def _rate(config: TrainConfig) -> float:
    """Operations a second of a bare matrix product."""
    device = _device()
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    n = 4096 if device.type == "cuda" else 512
    a = torch.randn(n, n, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(30):  # the fastest: others may be at work on this machine
        began = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2 * n**3 / best


def _memory(config: TrainConfig, trainee: Trainee) -> dict[str, int]:
    weights = {
        id(p): p.numel() * (4 if p.requires_grad else p.element_size())
        for p in trainee.parameters()
    }
    trained = sum(p.numel() for p in trainee.parameters() if p.requires_grad)
    c, batch = trainee.decoder.config, config.batch
    size = 2 if config.precision == "bf16" else 4
    kv = 2 * c.n_kv_heads * c.head_dim
    # Of each layer: inputs of two norms and of the linear layers, queries, keys, values, what
    # attention gives, three widths of the feed-forward; float32 copies in the norms.
    layer = batch.tokens * (size * (4 * c.dim + 2 * c.dim + kv + 4 * c.ffn_dim) + 4 * 2 * c.dim)
    kept = layer * c.n_layers
    if config.activation_checkpointing:
        kept = batch.tokens * c.dim * size * c.n_layers + layer
    # Logits of the answers, a third of the tokens or so, in float32, with their gradient.
    kept += batch.tokens // 3 * c.vocab_size * 4 * 2
    return {
        "weights": sum(weights.values()), "gradients": 4 * trained, "optimizer": 8 * trained,
        "activations": int(kept),
    }  # fmt: skip


def _available() -> int:
    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    from anybind.optional import require

    return int(require("psutil", "training").virtual_memory().available)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
