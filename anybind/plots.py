"""Charts with matplotlib (extra `plots`): the similarity matrix of embeddings.

Knows numbers and pictures; where they come from, others know. Draws to files only, never opens a
window.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anybind.optional import require

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image as PILImage

_NUMBERS = 24
"""Up to so many rows the numbers are written into the cells."""
_THUMBNAIL = 96


def similarity(
    labels: Sequence[str],
    matrix: NDArray[np.float32],
    path: Path,
    *,
    pictures: Sequence[PILImage | None] = (),
    title: str = "",
) -> None:
    """Draw a similarity matrix [N, N] with its labels into `path` (png, svg or pdf).

    Args:
        labels: One a row; long ones are shortened in front, where paths are alike.
        matrix: Cosine similarities, -1 to 1.
        path: The file to write.
        pictures: Thumbnails to show at the rows, where a row is a picture.
        title: Above the chart.
    """
    require("matplotlib", "plots")
    from matplotlib.figure import Figure

    n = len(labels)
    side = 2.6 + 0.62 * n
    figure: Any = Figure(figsize=(side + 1.2, side), dpi=100, layout="constrained")
    axes: Any = figure.subplots()
    image = axes.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
    names = [_short(label) for label in labels]
    axes.set_xticks(range(n), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(n), names)
    axes.tick_params(length=0, pad=44 if any(p is not None for p in pictures) else 4)
    axes.tick_params(axis="x", pad=4)
    if n <= _NUMBERS:
        for i in range(n):
            for j in range(n):
                value = float(matrix[i, j])
                ink = "white" if abs(value) > 0.6 else "black"
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=9)
    for row, picture in enumerate(pictures):
        if picture is not None:
            _thumbnail(axes, picture, row)
    figure.colorbar(image, ax=axes, shrink=0.8, label="cosine similarity")
    if title:
        axes.set_title(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _short(label: str) -> str:
    label = " ".join(label.split())
    return label if len(label) <= 28 else "…" + label[-27:]


def _thumbnail(axes: Any, picture: PILImage, row: int) -> None:
    import numpy as np
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    small = picture.copy()
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    # 28 points high whatever the shape, left of the cells.
    box = OffsetImage(np.asarray(small), zoom=28 / max(small.size) * 100 / 72)
    axes.add_artist(
        AnnotationBbox(
            box, (-0.5, row), xybox=(-18, 0), boxcoords="offset points", frameon=False,
            annotation_clip=False,
        )
    )  # fmt: skip
