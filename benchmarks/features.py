"""What features made once save: an epoch of stage 1 with the encoder in the loop, and from a file.

The same pictures, captions, order, model and steps both times, by turns in one run: nano's image
encoder and decoder, both frozen; bind network, queries and gates learn. `embed` is what the file
costs once. `read` is the data alone, without model. The pictures are made up (photograph-sized
JPEG), since only their size matters here.
Run: `python benchmarks/features.py --json out.json`
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from anybind.assembly import Assembly
from anybind.core_model.adapters import load_bind
from anybind.core_model.bind import BindNetwork
from anybind.core_model.checkpoints import load_with_fields
from anybind.core_model.prompts import LAYOUTS
from anybind.core_model.tokenizer import from_gguf
from anybind.core_model.training.batches import Batcher
from anybind.core_model.training.data import FeatureMaker, Mixer, open_sources
from anybind.core_model.training.data.config import read_data_config
from anybind.core_model.training.data.embedding import embed_sources
from anybind.core_model.training.trainee import Trainee

NOUNS = ("cat", "lighthouse", "bicycle", "teapot", "harbour", "violin", "waterfall", "tractor")


def pictures(folder: Path, count: int) -> None:
    """JPEG files of 640 x 480 with the detail of photographs, and a table of captions."""
    rng = np.random.default_rng(0)
    lines = ["url\tcaption"]
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (15, 20, 3), np.uint8))
        base = np.asarray(coarse.resize((640, 480), Image.Resampling.BICUBIC), np.int16)
        noisy = np.clip(base + rng.integers(-20, 21, base.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{i}.jpg", quality=90)
        noun = NOUNS[i % len(NOUNS)]
        lines.append(f"{i}.jpg\tA photograph of a {noun} in the light of the {i}th morning.")
    (folder / "captions.tsv").write_text("\n".join(lines), encoding="utf-8")


class Stage:
    """Stage 1 of nano on one source."""

    def __init__(self, assembly: Assembly, args: argparse.Namespace) -> None:
        self.args = args
        weights = assembly.bundle.model.weights
        decoder, _, fields = load_with_fields(assembly.weight(weights["decoder"]))
        self.tokenizer = from_gguf(fields)
        torch.manual_seed(0)
        bind = BindNetwork(load_bind(assembly.weight(weights["bind"])).config)
        self.dim = bind.config.joint_dim
        for weight in decoder.parameters():
            weight.requires_grad_(False)
        self.trainee = Trainee(decoder, bind)
        self.start = {k: v.clone() for k, v in bind.state_dict().items()}

    def epoch(self, mix: Mixer) -> dict[str, float]:
        """Seconds of an epoch, those of waiting for data, and its last loss."""
        bind = self.trainee.bind
        bind.load_state_dict(self.start)  # both ways begin alike, so that their losses compare
        optimizer = torch.optim.AdamW(bind.parameters(), lr=1e-4, betas=(0.9, 0.95))
        began = time.perf_counter()
        cpu, data = time.process_time(), 0.0
        loss = torch.zeros(())
        batches = Batcher(
            mix, self.tokenizer, LAYOUTS["chatml"], max_tokens=self.args.max_tokens,
            batch_tokens=self.args.batch_tokens, dim=self.dim,
        )  # fmt: skip
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            data += time.perf_counter() - asked
            if batch is None:
                break
            found = self.trainee(
                batch.tokens, batch.labels, batch.segments, batch.positions, batch.features,
                batch.present,
            )  # fmt: skip
            loss = found.loss / batch.learned
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return {
            "seconds": time.perf_counter() - began,
            "data": data,
            "loss": float(loss.detach()),
            "cpu": time.process_time() - cpu,
        }


def main() -> None:
    """Command line."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--pictures", type=int, default=256)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--batch", type=int, default=16, help="pictures encoded at once")
    p.add_argument("--max-tokens", type=int, default=128)
    p.add_argument("--batch-tokens", type=int, default=1024)
    p.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    p.add_argument("--json", type=Path, help="write the figures here")
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as name, _own_offsets(Path(name)):
        report = measure(Path(name), args)
    show(report)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _own_offsets(folder: Path) -> Iterator[None]:
    """Keep tables of offsets of these files out of the user's folder."""
    from anybind.core_model.training.data import offsets

    real = offsets.home
    offsets.home = lambda: folder / "home"
    try:
        yield
    finally:
        offsets.home = real


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Both ways by turns."""
    pictures(folder, args.pictures)
    assembly = Assembly("nano")
    maker = FeatureMaker.of_bundle("nano", args.batch)
    stage = Stage(assembly, args)
    source: dict[str, Any] = {"format": "tsv", "path": "captions.tsv"}
    seen = read_data_config({"sources": [source], "epochs": 1}, folder)
    fed = read_data_config(
        {"sources": [{**source, "features": "f.safetensors"}], "epochs": 1}, folder
    )
    maker.make([])  # nothing is lazy from here on
    next(iter(open_sources(seen, maker=maker)))
    began = time.perf_counter()
    made = embed_sources(seen, maker, folder / "f.safetensors")
    embed = time.perf_counter() - began
    rows: dict[str, list[dict[str, float]]] = {"encoder": [], "features": []}
    reading: dict[str, list[float]] = {"encoder": [], "features": []}
    for _ in range(args.rounds):
        for way, config in (("encoder", seen), ("features", fed)):
            used = maker if way == "encoder" else None
            began = time.perf_counter()
            count = sum(1 for _ in open_sources(config, maker=used))
            reading[way].append(time.perf_counter() - began)
            assert count == made.rows
            rows[way].append(stage.epoch(open_sources(config, maker=used)))
    maker.close()
    assembly.close()
    middle = {
        way: {k: statistics.median(r[k] for r in found) for k in found[0]}
        | {"read": statistics.median(reading[way])}
        for way, found in rows.items()
    }
    slow, fast = middle["encoder"], middle["features"]
    return {
        "machine": platform.processor() or platform.machine(), "threads": args.threads,
        "torch": torch.__version__, "pictures": args.pictures, "rounds": args.rounds,
        "embed_once": embed, "bytes": made.path.stat().st_size, "epochs": middle,
        "all_epochs": rows, "ratio": slow["seconds"] / fast["seconds"],
        "read_ratio": slow["read"] / fast["read"],
        "three_epochs_ratio": 3 * slow["seconds"] / (embed + 3 * fast["seconds"]),
    }  # fmt: skip


def show(report: dict[str, Any]) -> None:
    """A table."""
    out = io.StringIO()
    print(f"{report['pictures']} pictures, {report['threads']} threads, seconds", file=out)
    print(f"{'':12}{'epoch':>9}{'of it data':>12}{'read alone':>12}{'loss':>8}", file=out)
    for way, row in report["epochs"].items():
        print(
            f"{way:12}{row['seconds']:9.2f}{row['data']:12.2f}{row['read']:12.3f}{row['loss']:8.3f}",
            file=out,
        )
    print(f"made once: {report['embed_once']:.2f} s, {report['bytes']} bytes", file=out)
    print(
        f"an epoch is {report['ratio']:.2f} times cheaper (its data {report['read_ratio']:.0f} times); "
        f"three epochs with making them {report['three_epochs_ratio']:.2f} times",
        file=out,
    )
    print(out.getvalue(), end="")


if __name__ == "__main__":
    main()
