"""`anybind embed`: joint embeddings and their similarities."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anybind
from anybind.agent.cli.output import FetchProgress, console, print_json, print_table
from anybind.content import Embedding, Image
from anybind.errors import UserError


def embed(
    things: list[str], bundle: str, out: Path | None, plot: Path | None, as_json: bool
) -> None:
    """Embed, write, print the similarity matrix, draw it."""
    if out is not None and out.suffix != ".safetensors":
        raise UserError(f"{out}: embeddings are written as .safetensors.")
    if plot is not None and plot.suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"{plot}: charts are written as .png, .svg or .pdf.")
    model = anybind.load(bundle, progress=FetchProgress())
    parts = [model.part(thing) for thing in things]
    found = model.embed_parts(parts)
    if out is not None:
        _write(found, things, model.space, out)
    import numpy as np

    rows = np.stack([e.data for e in found])
    similar = rows @ rows.T
    if plot is not None:
        from anybind.plots import similarity

        pictures = [p.data if isinstance(p, Image) else None for p in parts]
        similarity(things, similar, plot, pictures=pictures, title=f"{bundle}: {model.space}")
    if as_json:
        print_json(
            {
                "space": model.space,
                "things": things,
                "shape": list(rows.shape),
                "similarity": [[round(float(v), 4) for v in row] for row in similar],
                "out": str(out) if out else None,
                "plot": str(plot) if plot else None,
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
    for path in (out, plot):
        if path is not None:
            console.print(f"{path} written")


def _write(found: list[Embedding], things: list[str], space: str, out: Path) -> None:
    """`embeddings` [N, C] of unit norm; `raw` and `scaled` where every encoder gives them."""
    import numpy as np
    from safetensors.numpy import save_file  # pyright: ignore[reportUnknownVariableType]

    tensors: dict[str, Any] = {"embeddings": np.stack([e.data for e in found])}
    for name in ("raw", "scaled"):
        rows = [getattr(e, name) for e in found]
        if all(row is not None for row in rows):
            tensors[name] = np.stack(rows)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out, {"labels": json.dumps(things), "space": space})  # pyright: ignore[reportUnknownMemberType]
