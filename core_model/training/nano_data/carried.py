"""What an embedding of pictures carries: colour, number, order, and how two things mix in it.

Linear read-outs, tested on things that they were not fitted on. Training data ask only for what can
be read out; for the rest the right answer is that it can't be told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anybind.core_model.training.nano_data.seen import Row, Seen

Rows = NDArray[np.float32]


def read_out(x: Rows, y: NDArray[np.int64], groups: Sequence[str], ridge: float = 1e-2) -> float:
    """Share of rows whose class a ridge regression finds, in five folds by group.

    Args:
        x: Embeddings [N, C].
        y: Classes [N].
        groups: Rows of one group are never on both sides.
        ridge: Weight of the penalty.
    """
    names = sorted(set(groups))
    fold = {name: i % 5 for i, name in enumerate(names)}
    folds = np.array([fold[g] for g in groups])
    right = 0
    wide = np.concatenate([x - x.mean(0), np.ones((len(x), 1), np.float32)], 1)
    target = np.eye(int(y.max()) + 1, dtype=np.float32)[y]
    for k in range(5):
        seen, new = folds != k, folds == k
        if not seen.any() or not new.any():
            continue
        a = wide[seen]
        weight = np.linalg.solve(
            a.T @ a + ridge * len(a) / 100 * np.eye(a.shape[1]), a.T @ target[seen]
        )
        right += int(((wide[new] @ weight).argmax(1) == y[new]).sum())
    return right / len(x)


def measure(seen: Seen) -> dict[str, Any]:
    """What can be read out, each with its chance level and number of rows; how pairs mix."""
    out: dict[str, Any] = {}
    for what, value in (("colour", lambda r: r.colour), ("count", lambda r: str(r.count))):
        rows: list[Row] = seen.by_what.get(what, [])
        classes = sorted({value(r) for r in rows})
        if len(classes) < 2 or len(rows) < 40:
            continue
        y = np.array([classes.index(value(r)) for r in rows])
        x = seen.features[[r.number for r in rows]]
        share = read_out(x, y, [r.things[0] for r in rows])
        chance = float(np.bincount(y).max() / len(y))
        out[what] = {"right": round(share, 3), "chance": round(chance, 3), "rows": len(rows)}
    pairs = seen.by_what.get("pair", [])
    order: list[float] = []
    turned = {(p.things, p.set): p for p in pairs}
    for pair in pairs:
        other = turned.get((pair.things[::-1], pair.set))
        if other is not None and pair.things < other.things:
            order.append(float(seen.features[pair.number] @ seen.features[other.number]))
    if order:
        out["order"] = {"cosine_of_swapped": round(float(np.mean(order)), 3), "rows": len(order)}
    mixed = mixtures(seen)
    if len(mixed):
        share = mixed[:, 0] / (mixed[:, 0] + mixed[:, 1])
        out["mixture"] = {
            "weights": np.round(mixed, 3).tolist()[:400],
            "larger_share": np.round(
                np.quantile(np.maximum(share, 1 - share), (0.1, 0.5, 0.9)), 3
            ).tolist(),
            "rest": round(float(mixed[:, 2].mean()), 3),
            "rows": len(mixed),
        }
    return out


def mixtures(seen: Seen) -> NDArray[np.float64]:
    """How pairs lie between their things: rows (a, b, rest) of pair = a * one + b * other + rest.

    Weights are not negative; `rest` is the length of what is neither. The embeddings of the single
    things are means over their rows in the same set.
    """
    means: dict[str, NDArray[np.float32]] = {
        thing: seen.features[[r.number for r in rows]].mean(0)
        for thing, rows in seen.of_thing.items()
    }
    out: list[tuple[float, float, float]] = []
    for pair in seen.by_what.get("pair", []):
        if not all(t in means for t in pair.things):
            continue
        basis = np.stack([means[t] / np.linalg.norm(means[t]) for t in pair.things])
        f = seen.features[pair.number]
        weight = np.linalg.solve(basis @ basis.T + 1e-4 * np.eye(2), basis @ f)
        if weight.min() < 0:  # one of them alone fits best
            best = int((basis @ f).argmax())
            weight = np.where(np.arange(2) == best, basis @ f, 0.0)
        out.append((*weight.tolist(), float(np.linalg.norm(f - weight @ basis))))
    return np.array(out).reshape(-1, 3)
