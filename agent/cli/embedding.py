"""`anybind embed`: joint embeddings and their similarities; those of a data set, for training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anybind
from anybind.agent.cli.output import FetchProgress, console, errors, print_json, print_table
from anybind.content import Embedding, Image
from anybind.errors import UserError


def embed(
    things: list[str], bundle: str, out: Path | None, plot: Path | None, as_json: bool
) -> None:
    """Embed, write, print the similarity matrix, draw it."""
    if not things:
        raise UserError("Say what to embed: files, texts, or a data set with --dataset.")
    if out is not None and out.suffix != ".safetensors":
        raise UserError(f"{out}: embeddings are written as .safetensors.")
    if plot is not None and plot.suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"{plot}: charts are written as .png, .svg or .pdf.")
    model = anybind.load(bundle, encoders_only=True, progress=FetchProgress())
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


def embed_dataset(
    dataset: Path,
    things: list[str],
    bundle: str,
    out: Path | None,
    images: Path | None,
    batch: int,
    views: int,
    as_json: bool,
) -> None:
    """Embed what the records of a data set name, once, for training."""
    from anybind.agent.cli.caching import BuildProgress
    from anybind.core_model.training.data.embedding import (
        dataset_augment,
        dataset_config,
        embed_sources,
    )
    from anybind.core_model.training.data.maker import FeatureMaker

    if things:
        raise UserError("Embed single things or a data set, not both at once.")
    if out is None:
        raise UserError("Say where the features go: --out features.safetensors")
    if batch < 1:
        raise UserError(f"A batch has one picture or more, not {batch}.")
    if views < 0:
        raise UserError(f"A picture has 0 augmented views or more, not {views}.")
    config = dataset_config(dataset, images)
    augment = dataset_augment(dataset) if views else None
    maker = FeatureMaker.of_bundle(bundle, batch, FetchProgress(), augment)
    try:
        made = embed_sources(
            config, maker, out, views=views, augment=augment,
            report=lambda line: errors.print(line, style="yellow"),
            progress=BuildProgress(),
        )  # fmt: skip
    finally:
        maker.close()
    if as_json:
        print_json(
            {
                "out": str(made.path), "rows": made.rows, "dim": made.dim, "space": made.space,
                "seconds": round(made.seconds, 2), "resumed": made.resumed, "bad": made.bad,
                "views": made.views, "examples": made.examples,
            }
        )  # fmt: skip
        return
    again = f", {made.resumed} from an earlier run" if made.resumed else ""
    turned = f", {made.views} augmented views a picture among them" if made.views else ""
    console.print(
        f"{made.path}: {made.rows} embeddings of {made.dim} ({made.space}){turned}{again}, {made.bad} bad "
        f"records, {made.seconds:.1f} s"
    )


def _write(found: list[Embedding], things: list[str], space: str, out: Path) -> None:
    """`embeddings` [N, C] of unit norm; `raw` and `scaled` where every encoder gives them."""
    import numpy as np
    from safetensors.numpy import save_file  # pyright: ignore[reportUnknownVariableType]

    from anybind.core_model.training.data.features import NO_CACHE

    tensors: dict[str, Any] = {"embeddings": np.stack([e.data for e in found])}
    for name in ("raw", "scaled"):
        rows = [getattr(e, name) for e in found]
        if all(row is not None for row in rows):
            tensors[name] = np.stack(rows)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out, {"labels": json.dumps(things), "space": space, "cache": NO_CACHE})  # pyright: ignore[reportUnknownMemberType]
