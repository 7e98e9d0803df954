"""Makes nano's trained parts again, from the declared sources to a bundle: `make nano`.

    python scripts/nano.py --work DIR [--only STEP ...] [--list]

Every step leaves something in DIR and is skipped when that is there, so a run that was stopped goes on
where it was; a training stage goes on from its last checkpoint. The bundle comes to DIR/bundle. What it
then reaches is measured by `anybind eval all --bundle DIR/bundle/bundle.json`; the figures to expect are
those of docs/nano.md. Downloads about 200 MB; takes about three hours on two cores.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
NANO = REPO / "anybind/bundles/nano"
DATA = "anybind.core_model.training.nano_data"
BUNDLE = "bundle/bundle.json"
STAGES = ("nano-align", "nano-pretrain", "nano-instruct")


@dataclass(frozen=True)
class Step:
    """One command, and the files that tell that it has run."""

    name: str
    makes: tuple[str, ...]
    command: tuple[str, ...]
    minutes: float
    """On two cores, about."""


def module(name: str, *options: str) -> tuple[str, ...]:
    """A command that runs a module."""
    return (sys.executable, "-m", name, *options)


def pictures(out: str, *options: str) -> tuple[str, ...]:
    """A command that makes and encodes pictures."""
    return module(
        f"{DATA}.pictures", "--archives", "packages", "--world", "data/nano/world.jsonl", "--out", out, *options
    )  # fmt: skip


FOLDS = ("data/nano/fold0.safetensors", "data/nano/fold1.safetensors")
_NO_GROUPS = ("--pairs", "0", "--triples", "0")
_NO_OTHERS = ("--views", "0", "--colours", "0", "--counts", "0")
PICTURES = {
    "data/nano/pictures-ones.safetensors": ("--views", "3", *_NO_GROUPS),
    "data/nano/pictures-groups.safetensors": (
        "--figures", "--pairs", "2500", "--triples", "400", *_NO_OTHERS,
    ),
    "data/nano/figures-ones.safetensors": (
        "--figures", "--views", "1", "--limit", "2500", "--colours", "100", "--counts", "100",
        *_NO_GROUPS,
    ),
}  # fmt: skip


def steps() -> list[Step]:
    """All, in order; paths start from the work folder."""
    out = [
        Step("wordnet", ("wordnet/data.noun",), (sys.executable, str(REPO / "benchmarks/wordnet.py"), "--out", "wordnet"), 1),
        Step("sources", ("packages/imagenet", "packages/emojibase-data"), (sys.executable, str(REPO / "scripts/nano_sources.py"), "--out", "packages"), 2),
        Step(
            "world", ("data/nano/world.jsonl",),
            module(DATA, "--kinds", "world", "--wordnet", "wordnet", "--imagenet", "packages/imagenet", "--emojibase",
                   "packages/emojibase-data", "--archives", "packages", "--out", "data/nano"), 1,
        ),
    ]  # fmt: skip
    for name, options in PICTURES.items():
        out.append(Step(Path(name).stem, (name,), pictures(name, *options), 12))
    out += [
        Step("bundle", (BUNDLE,), (), 0),
        *[
            Step(
                f"fold{n}", (FOLDS[n],),
                module("anybind.core_model.training.image_head", "--pictures", *PICTURES, "--world", "data/nano/world.jsonl",
                       "--hub", str(NANO / "image_hub.safetensors"), "--noise-out", f"data/nano/fold{n}-noise.safetensors",
                       "--out", FOLDS[n], "--fold", str(n), "--steps", "1200"), 4,
            )
            for n in (0, 1)
        ],
        Step(
            "head", ("data/nano/eye_noise.safetensors", "bundle/image_hub.new"),
            module("anybind.core_model.training.image_head", "--pictures", *PICTURES, "--world", "data/nano/world.jsonl",
                   "--hub", str(NANO / "image_hub.safetensors"), "--noise-out", "data/nano/eye_noise.safetensors",
                   "--folds", *FOLDS, "--out", "bundle/image_hub.new"), 7,
        ),
        Step("eye", ("bundle/image_hub.safetensors",), (), 0),
        Step(
            "drawings", ("data/nano/drawings.safetensors",),
            module(f"{DATA}.encode", "drawings", "--bundle", BUNDLE, "--pictures", *PICTURES, "--folds", *FOLDS,
                   "--out", "data/nano/drawings.safetensors"), 1,
        ),
        Step("sounds", ("data/nano/sounds.safetensors",), module(f"{DATA}.encode", "sounds", "--bundle", BUNDLE, "--out", "data/nano/sounds.safetensors"), 2),
        Step(
            "conversations", ("data/nano/summary.json",),
            module(DATA, "--bundle", BUNDLE, "--out", "data/nano", "--count", "120000", "--eye-noise",
                   "data/nano/eye_noise.safetensors", "--seen", "data/nano/drawings.safetensors",
                   "data/nano/sounds.safetensors", "--replies", "data/nano/replies.json", "--decoder"), 12,
        ),
    ]  # fmt: skip
    for stage, minutes in zip(STAGES, (3, 15, 45), strict=True):
        command = (str(Path(sys.executable).parent / "anybind"), "train", stage)
        out.append(Step(stage, (f"runs/{stage}/done",), command, minutes))
    out.append(
        Step("export", ("bundle/bind.new",), (str(Path(sys.executable).parent / "anybind"), "export", f"runs/{STAGES[-1]}", "--as", "bind", "--out", "bundle/bind.new"), 1)
    )  # fmt: skip
    return [*out, Step("bind", ("bundle/bind.safetensors",), (), 0)]


def run(step: Step, work: Path) -> None:
    """Make what a step makes."""
    if step.name == "bundle":
        bundle_without_trained(work / "bundle")
        return
    if not step.command:  # the last command's result takes its place
        (made,) = step.makes
        shutil.copyfile((work / made).with_suffix(".new"), work / made)
        return
    command = list(step.command)
    stage = work / "runs" / step.name
    if step.name in STAGES:
        command += [
            "--out",
            str(stage),
            *(["--resume"] if any(stage.glob("checkpoints/step-*")) else []),
        ]
    subprocess.run(command, cwd=work, check=True)
    if step.name in STAGES:
        (stage / "done").touch()


def bundle_without_trained(folder: Path) -> None:
    """A copy of nano's bundle without what is made here."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in NANO.iterdir():
        if path.is_dir():
            shutil.copytree(path, folder / path.name, dirs_exist_ok=True)
        elif path.name not in ("bind.safetensors", "image_hub.safetensors", "bundle.json"):
            shutil.copyfile(path, folder / path.name)
    shutil.copyfile(
        NANO / "bundle.json", folder / "bundle.json"
    )  # last: it tells that all is there


def main() -> None:
    """Command line."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--work", type=Path, required=True, help="folder for everything that is made")
    p.add_argument("--only", nargs="*", help="these steps, even if they have run")
    p.add_argument("--list", action="store_true", help="say what there is to do")
    args = p.parse_args()
    work: Path = args.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    every = steps()
    if unknown := set(args.only or []) - {s.name for s in every}:
        p.error(f"no step {', '.join(sorted(unknown))}; steps: {', '.join(s.name for s in every)}")
    times = work / "times.json"
    took: dict[str, float] = json.loads(times.read_text()) if times.exists() else {}
    for step in every:
        there = all((work / made).exists() for made in step.makes)
        todo = step.name in args.only if args.only else not there
        state = "to do" if todo else "done" if there else "left out"
        print(f"{step.name:16} {state}, about {step.minutes:g} min", flush=True)
        if args.list or not todo:
            continue
        began = time.time()
        run(step, work)
        took[step.name] = round((time.time() - began) / 60, 1)
        times.write_text(json.dumps(took, indent=1))


if __name__ == "__main__":
    main()
