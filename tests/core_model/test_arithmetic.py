"""The model alone, on nano: embedding arithmetic as a condition, and batches of questions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from anybind.assembly import Assembly
from anybind.contracts import Sampling
from anybind.core_model import ImageBindLLM
from anybind.errors import UserError

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model(nano: Assembly) -> Iterator[ImageBindLLM]:
    yield ImageBindLLM.from_bundle(nano)


def similar(model: ImageBindLLM, row: np.ndarray, *texts: str) -> list[float]:
    return [float(v) for v in model.embed(*texts) @ row]


def test_a_difference_leaves_what_was_not_taken(model: ImageBindLLM) -> None:
    both = model.add("a dog", "a snowy mountain")
    before = similar(model, both.data, "a dog", "a snowy mountain")
    after = similar(model, model.subtract(both, "a dog").data, "a dog", "a snowy mountain")
    assert min(before) > 0.5
    assert after[1] > before[1] - 0.1 and after[0] < before[0] - 0.4
    ways = [model.interpolate("a dog", "a violin", t).data for t in (0, 0.25, 0.5, 0.75, 1)]
    nearer = [similar(model, row, "a violin")[0] for row in ways]
    assert nearer == sorted(nearer) and nearer[-1] > 0.99


def test_a_result_is_a_condition(model: ImageBindLLM, examples: Path) -> None:
    sampling = Sampling(max_tokens=12)
    picture = next(p for p in sorted(examples.rglob("*")) if p.suffix in (".jpg", ".png"))
    alone = model.generate("What is this?", "a violin", sampling=sampling)
    whole = model.interpolate(picture, "a violin", 1.0)
    assert model.generate("What is this?", whole, sampling=sampling) == alone
    assert "violin" in alone
    several = model.generate("What is this?", picture, picture, sampling=sampling)
    assert several == model.generate("What is this?", picture, sampling=sampling)
    with pytest.raises(UserError, match="cancel"):
        model.subtract("a dog", "a dog")


def test_a_batch_says_what_each_row_says_alone(model: ImageBindLLM) -> None:
    sampling = Sampling(max_tokens=10)
    questions = ["What is this?", "What is the capital of France?", "What do you see here?"]
    things = ["a red bicycle", None, ["a cat", model.add("a cat", "a garden")]]
    together = model.generate_batch(questions, things, sampling=sampling)
    alone = [
        model.generate(questions[0], things[0], sampling=sampling),
        model.generate(questions[1], sampling=sampling),
        model.generate(questions[2], *things[2], sampling=sampling),
    ]
    assert together == alone and "Paris" in together[1]
    assert len(set(together)) == 3
    assert model.generate_batch([]) == []
    with pytest.raises(UserError, match="conditions"):
        model.generate_batch(questions, things[:2])
