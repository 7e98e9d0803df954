"""How the answers to held-out sounds are summed up."""

from __future__ import annotations

from anybind.agent.evaluation.hearing import sum_sounds


def row(source: str, label: str, hit: bool) -> dict[str, object]:
    return {"id": f"{source} {label} {hit}", "source": source, "label": label, "hit": hit}


def test_recordings_never_heard_are_summed_apart_and_by_class() -> None:
    rows = [
        row("packages", "bird", True),
        row("packages", "bird", True),
        row("packages", "bird", True),
        row("musescore", "harp", False),
        row("sonic-pi", "bell", True),
        row("recipes", "rain", True),
        row("fluidr3", "harp", True),
    ]
    figures = sum_sounds(rows)
    assert figures["classes"] == 4
    assert figures["value"] == round(6 / 7, 4)
    assert figures["unseen recordings"]["total"] == 5
    assert figures["unseen recordings"]["hits"] == 4
    assert figures["classes of unseen recordings"] == 3
    assert figures["unseen recordings, mean over classes"] == round(2 / 3, 4)
    assert figures["mean over classes"] == round((1 + 0.5 + 1 + 1) / 4, 4)


def test_without_recordings_there_is_no_mean_over_classes() -> None:
    figures = sum_sounds([row("recipes", "rain", True)])
    assert figures["unseen recordings, mean over classes"] is None
    assert figures["classes of unseen recordings"] == 0
