"""Trains the head that brings sounds into the joint space.

Two steps, both seeded, the first resumable: `prepare` renders every source, augments it and keeps
the pooled features of Whisper's encoder, one file a source; `fit` trains the head on them and
measures it. The targets are the hub's embeddings of what people would say of a sound.

    python -m anybind.core_model.training.audio_events all [--whisper FILE --hub FOLDER] \\
        --gm FILE --gs FILE --sonic FOLDER --runs FOLDER --out FILE
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from anybind.core_model.encoders.audio_events import (
    FORMAT,
    EventHead,
    WindowFeatures,
    windows,
)
from anybind.core_model.encoders.whisper import load_whisper
from anybind.core_model.training import audio_events_sources as sources
from anybind.core_model.training.audio_events_augment import augment
from anybind.core_model.training.audio_events_words import phrases

Samples = NDArray[np.float32]
COPIES = {"gm": 2, "gs": 3, "sonic": 6, "synth": 2, "voice": 2, "played": 1}
"""Augmented copies of each training clip, by source. Held-out clips are used once, as they are."""
SYNTH_EACH = 24
PLAYED_EACH = 24
VOICES = 144
SPACE = "minilm-l6-v2"
LAYERS = (0, 2, 3)


@dataclass
class Table:
    """Features with their labels, as kept on disk."""

    features: NDArray[np.float16]
    labels: list[str]
    held_out: NDArray[np.bool_]


def prepare(
    name: str, clips: Iterator[sources.Clip], features: WindowFeatures, folder: Path, seed: int
) -> None:
    """Features of one source into `folder/NAME.npz`; does nothing if the file is there."""
    path = folder / f"{name}.npz"
    if path.exists():
        return
    r = np.random.default_rng([seed, *name.encode()])
    rows: list[NDArray[np.float16]] = []
    labels: list[str] = []
    held: list[bool] = []
    others: list[Samples] = []
    batch: list[Samples] = []
    began = time.time()

    def flush() -> None:
        if batch:
            rows.append(features(batch).half().numpy())
            batch.clear()

    for clip in clips:
        copies = 1 if clip.held_out else COPIES[name]
        for _ in range(copies):
            if clip.held_out:
                batch.append(windows(clip.samples)[0])
            else:
                mixed = others if clip.label != "silence" else []
                batch.append(augment(clip.samples, r, mixed))
            labels.append(clip.label)
            held.append(clip.held_out)
            if len(batch) == 16:
                flush()
        if not clip.held_out and clip.label != "silence":
            others.append(clip.samples)
            if len(others) > 200:
                others.pop(int(r.integers(200)))
    flush()
    part = folder / f"{name}.part.npz"
    np.savez(part, features=np.concatenate(rows), labels=np.array(labels), held=np.array(held))
    part.replace(path)
    print(f"{name}: {len(labels)} rows, {time.time() - began:.0f} s", flush=True)


def read(folder: Path) -> dict[str, Table]:
    """The tables that `prepare` left, by source."""
    tables: dict[str, Table] = {}
    for name in sources.SOURCES:
        with np.load(folder / f"{name}.npz") as data:
            tables[name] = Table(data["features"], [str(x) for x in data["labels"]], data["held"])
    return tables


def _columns(width: int, layers: tuple[int, ...]) -> NDArray[np.int64]:
    """Which columns of the kept features (all `LAYERS`) belong to some of the layers."""
    block = width // len(LAYERS)
    return np.concatenate([np.arange(LAYERS.index(x) * block, (LAYERS.index(x) + 1) * block)
                           for x in layers])  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """How the head is trained."""

    layers: tuple[int, ...] = LAYERS
    hidden: int = 160
    steps: int = 1500
    batch: int = 128
    rate: float = 2e-3
    seed: int = 0
    unseen: tuple[str, ...] = ()
    """Sources kept out of training altogether, to measure on."""


def _rows(tables: dict[str, Table], keep: Callable[[str, bool], bool]) -> tuple[Tensor, list[str]]:
    parts: list[NDArray[np.float16]] = []
    labels: list[str] = []
    for name, table in tables.items():
        rows = np.array([keep(name, bool(held)) for held in table.held_out])
        parts.append(table.features[rows])
        labels += [label for label, row in zip(table.labels, rows, strict=True) if row]
    return torch.from_numpy(np.concatenate(parts)).float(), labels


class Targets:
    """The hub's embeddings of every label's phrases."""

    def __init__(self, labels: list[str], embed: Callable[[list[str]], NDArray[np.float32]]):
        self.names = sorted(set(labels))
        said = [phrases(name) for name in self.names]
        flat = torch.from_numpy(embed([phrase for group in said for phrase in group]))
        groups = flat.split([len(group) for group in said])
        normal = nn.functional.normalize
        self.plain = torch.stack([normal(group[0], dim=-1) for group in groups])
        self.mean = torch.stack([normal(group.mean(0) + group[0], dim=-1) for group in groups])
        self.counts = torch.tensor([len(group) for group in groups])
        self.said = nn.utils.rnn.pad_sequence(list(groups), batch_first=True)

    def index(self, labels: list[str]) -> Tensor:
        """Row numbers of labels."""
        at = {name: i for i, name in enumerate(self.names)}
        return torch.tensor([at[label] for label in labels])


def fit(tables: dict[str, Table], targets: Targets, settings: Settings) -> EventHead:
    """Train a head: cosine to the phrases of its label, and told apart from the other labels."""
    torch.manual_seed(settings.seed)
    x, labels = _rows(tables, lambda name, held: not held and name not in settings.unseen)
    x = x[:, _columns(x.shape[1], settings.layers)]
    y = targets.index(labels)
    head = EventHead(x.shape[1], settings.hidden, targets.mean.shape[1])
    head.mean.copy_(x.mean(0))
    head.scale.copy_(1 / (x.std(0) + 1e-3))
    # every label is drawn equally often, whatever the number of its clips
    weight = 1 / torch.bincount(y, minlength=len(targets.names)).clamp(min=1).float().sqrt()[y]
    optimiser = torch.optim.AdamW(head.parameters(), lr=settings.rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.rate, settings.steps)
    head.train()
    for step in range(settings.steps):
        rows = torch.multinomial(weight, settings.batch, replacement=True)
        lam = torch.rand(settings.batch, 1) * 0.15  # a little mixing of features, same row order
        mixed = x[rows] * (1 - lam) + x[rows[torch.randperm(len(rows))]] * lam
        raw = head(mixed)
        unit = nn.functional.normalize(raw, dim=-1)
        pick = (torch.rand(len(rows)) * targets.counts[y[rows]]).long()
        said = targets.said[y[rows], pick]
        near = (unit * targets.mean[y[rows]]).sum(-1) + 0.5 * (unit * said).sum(-1)
        apart = nn.functional.cross_entropy(unit @ targets.mean.T / 0.07, y[rows])
        length = (raw.norm(dim=-1) - 1).square().mean()  # keeps raw near the hub's own length
        loss = -near.mean() + 0.3 * apart + 0.1 * length
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 500 == 0:
            print(f"step {step} loss {loss.item():.3f} cos {near.mean().item() / 1.5:.3f}",
                  flush=True)  # fmt: skip
    return head.eval()


@torch.inference_mode()
def measure(
    head: EventHead, x: Tensor, labels: list[str], targets: Targets, settings: Settings
) -> dict[str, float]:
    """Retrieval of the plain name among all labels, and mean cosine to it."""
    unit = nn.functional.normalize(head(x[:, _columns(x.shape[1], settings.layers)]), dim=-1)
    y = targets.index(labels)
    score = unit @ targets.plain.T
    rank = (score > score.gather(1, y[:, None])).sum(1)
    return {
        "clips": len(labels),
        "labels": len(targets.names),
        "top1": round(float((rank == 0).float().mean()), 3),
        "top5": round(float((rank < 5).float().mean()), 3),
        "cosine": round(float(score.gather(1, y[:, None]).mean()), 3),
    }


def evaluate(
    head: EventHead, tables: dict[str, Table], targets: Targets, settings: Settings
) -> dict[str, dict[str, float]]:
    """Held-out clips of every source; also of sources that training never saw, where it knows
    the label from elsewhere."""
    out: dict[str, dict[str, float]] = {}
    known = {
        label for name, t in tables.items() if name not in settings.unseen for label in t.labels
    }
    for name, table in tables.items():
        x, labels = _rows({name: table}, lambda _, held: held)
        rows = [i for i, label in enumerate(labels) if label in known]
        if rows:
            key = f"{name} ({'unseen source' if name in settings.unseen else 'held-out clips'})"
            out[key] = measure(head, x[rows], [labels[i] for i in rows], targets, settings)
    return out


def save(head: EventHead, settings: Settings, path: Path) -> None:
    """The head in float16 with its settings."""
    meta = {"layers": settings.layers, "hidden": settings.hidden,
            "dim": head.outer.out_features, "space": SPACE}  # fmt: skip
    state = {name: value.half().contiguous() for name, value in head.state_dict().items()}
    save_file(state, path, metadata={"format": FORMAT, "settings": json.dumps(meta)})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=("prepare", "fit", "all"))
    parser.add_argument("--whisper", type=Path, help="nano's own, if not given")
    parser.add_argument("--hub", type=Path, help="folder of the text encoder; nano's, if not given")
    parser.add_argument("--gm", type=Path, default=Path("/usr/share/sounds/sf2/FluidR3_GM.sf2"))
    parser.add_argument("--gs", type=Path, default=Path("/usr/share/sounds/sf2/FluidR3_GS.sf2"))
    parser.add_argument("--sonic", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    from anybind.assembly import Assembly

    nano = Assembly("nano")
    torch.set_num_threads(1)
    args.runs.mkdir(parents=True, exist_ok=True)
    if args.step != "fit":
        features = WindowFeatures(
            load_whisper(args.whisper or nano.weight("whisper")).encoder, LAYERS
        )
        clips: dict[str, Callable[[], Iterator[sources.Clip]]] = {
            "voice": lambda: sources.voice_clips(VOICES, args.seed),
            "sonic": lambda: sources.sonic_clips(args.sonic),
            "gs": lambda: sources.gs_clips(args.gs, args.seed),
            "gm": lambda: sources.gm_clips(args.gm, args.seed),
            "synth": lambda: sources.synth_clips(SYNTH_EACH, args.seed),
            "played": lambda: sources.played_clips(PLAYED_EACH, args.seed),
        }  # fmt: skip
        for name, make in clips.items():
            prepare(name, make(), features, args.runs, args.seed)
    if args.step != "prepare":
        from anybind.core_model.encoders.minilm import load_text_encoder

        tables = read(args.runs)
        if args.hub is None:
            hub = load_text_encoder(nano.weight("minilm"), nano.weight("minilm_tokenizer"))
        else:
            hub = load_text_encoder(args.hub / "model.safetensors", args.hub / "tokenizer.json")
        labels = [label for table in tables.values() for label in table.labels]
        targets = Targets(labels, lambda texts: hub.unit(texts).numpy())
        report = {}
        for unseen in ((), ("sonic",)):
            settings = Settings(seed=args.seed, unseen=unseen)
            head = fit(tables, targets, settings)
            if not unseen:
                save(head, settings, args.out)
            report[f"unseen={','.join(unseen)}"] = evaluate(head, tables, targets, settings)
            print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
