"""The GPT4Tools scorer against figures that the public evaluation script gave."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from anybind.core_model.training.scoring import bleu1, exact, score, score_records

PARITY = Path(os.environ.get("ANYBIND_PARITY_DIR") or Path(__file__).parents[1] / "data" / "parity")
RECORDS: dict[str, Any] = json.loads((PARITY / "gpt4tools_scorer.json").read_text())
NAMES = {
    "SR_t": "thought", "SR_act": "action", "SR_args": "arguments", "SR": "success",
    "IoU": "overlap",
}  # fmt: skip


@pytest.mark.parametrize("record", RECORDS["records"], ids=lambda r: r["name"])
def test_each_record_scores_as_the_original_does(record: dict[str, Any]) -> None:
    predictions = [{"id": record["id"], "output": record["prediction"]}]
    found = score_records([record], predictions)[1][record["id"]]
    for theirs, ours in NAMES.items():
        assert getattr(found, ours) == pytest.approx(record["expected"][theirs], abs=1e-12), theirs


def test_the_mean_leaves_out_what_has_no_gold() -> None:
    predictions = [{"id": r["id"], "output": r["prediction"]} for r in RECORDS["records"]]
    predictions.append(RECORDS["unmatched_prediction"])
    mean, scores = score_records(RECORDS["records"], predictions)
    assert len(scores) == len(RECORDS["records"])
    for theirs, ours in NAMES.items():
        assert getattr(mean, ours) == pytest.approx(RECORDS["mean"][theirs], abs=1e-12)


def test_bleu_of_the_same_of_nothing_and_of_half() -> None:
    assert bleu1("a red cat", "a red cat") == pytest.approx(1)
    assert bleu1("a red cat", "dogs bark loudly") == pytest.approx(0)
    assert bleu1("red cat", "red red") == pytest.approx(0.5)
    assert bleu1("red cat", "") == 0


CALL = "Thought: Do I need to use a tool? Yes\nAction: Crop\nAction Input: image/a.png, cat\n"


def test_exact_sees_what_the_rates_forgive() -> None:
    other = CALL.replace("image/a.png", "image/b.png")
    assert score(CALL, other).success == 1
    assert not exact(CALL, other)
    assert exact(CALL, CALL.replace(", cat", ",Cat"))
    assert not exact(CALL, CALL + CALL)
    assert exact("Thought: Do I need to use a tool? No\nAI: 2", "Two.")
