"""`anybind embed`: joint embeddings and their similarities."""

from __future__ import annotations

from pathlib import Path

import anybind
from anybind.agent.cli.output import FetchProgress, print_json, print_table
from anybind.errors import UserError


def embed(things: list[str], bundle: str, out: Path | None, as_json: bool) -> None:
    """Embed, write, print the similarity matrix."""
    if out is not None and out.suffix != ".safetensors":
        raise UserError(f"{out}: embeddings are written as .safetensors.")
    model = anybind.load(bundle, progress=FetchProgress())
    rows = model.embed(*things)
    if out is not None:
        import json

        from safetensors.numpy import save_file  # pyright: ignore[reportUnknownVariableType]

        out.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"labels": json.dumps(things), "space": model.space}
        save_file({"embeddings": rows}, out, metadata)  # pyright: ignore[reportUnknownMemberType]
    similar = rows @ rows.T
    if as_json:
        print_json(
            {
                "space": model.space,
                "things": things,
                "shape": list(rows.shape),
                "similarity": [[round(float(v), 4) for v in row] for row in similar],
                "out": str(out) if out else None,
            }
        )
        return
    names = [t if len(t) <= 28 else "..." + t[-25:] for t in things]
    print_table(
        ["", *(str(i + 1) for i in range(len(names)))],
        [
            [f"{i + 1} {n}", *(f"{v:.2f}" for v in row)]
            for i, (n, row) in enumerate(zip(names, similar, strict=True))
        ],
    )
