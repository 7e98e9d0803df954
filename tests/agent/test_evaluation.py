"""Measures on held-out data: figures, balance, scenes, requests and the runner, on small stand-ins."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from anybind.agent.cli.app import app
from anybind.agent.evaluation import existence, measures, requests, retrieval, scenes, toolchat
from anybind.agent.evaluation.bench import Bench
from anybind.agent.evaluation.data import Data
from anybind.agent.evaluation.measures import MEASURES, chosen, evaluate, table
from anybind.agent.evaluation.speech import edits, rate
from anybind.agent.evaluation.statistics import bootstrap, share, wilson
from anybind.core_model.training.scoring import exact, score
from anybind.errors import UserError

# ---------------------------------------------------------------- figures


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    # Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29 (Wilson without correction)
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611), (1, 29, 0.0061, 0.1718)],
)  # fmt: skip
def test_wilson_gives_the_published_intervals(
    hits: int, total: int, low: float, high: float
) -> None:
    assert wilson(hits, total) == pytest.approx((low, high), abs=5e-5)


def test_wilson_refuses_what_is_no_share() -> None:
    for hits, total in ((1, 0), (-1, 5), (6, 5)):
        with pytest.raises(ValueError, match="no share"):
            wilson(hits, total)


def test_nothing_measured_is_no_zero() -> None:
    assert share([])["value"] is None
    assert bootstrap([], len)["value"] is None


def test_bootstrap_is_near_wilson_for_a_share_and_the_same_each_time() -> None:
    rows = [True] * 60 + [False] * 40
    found = bootstrap(rows, lambda some: sum(some) / len(some))
    assert found == bootstrap(rows, lambda some: sum(some) / len(some))
    assert found["value"] == 0.6
    assert found["interval"] == pytest.approx(wilson(60, 100), abs=0.02)


# ---------------------------------------------------------------- a WordNet of single words


@dataclass(eq=False)
class One:
    """A synset: one name, and what is above it."""

    name: str
    up: tuple[One, ...] = ()

    def lemma_names(self) -> Sequence[str]:
        return [self.name]

    def hypernyms(self) -> Sequence[One]:
        return self.up

    def instance_hypernyms(self) -> Sequence[One]:
        return ()


class Words:
    """`x.n.01` is a thing called x; cat and tiger are felines."""

    def synset(self, name: str) -> One:
        word = name.split(".")[0]
        return One(word, (One("feline"),) if word in ("cat", "tiger", "kitten") else ())

    def morphy(self, form: str, pos: str | None = None) -> str | None:
        return form.removesuffix("s")


def drawing(folder: Path, word: str, colour: str) -> dict[str, Any]:
    Image.new("RGBA", (60, 40), colour).save(folder / f"{word}.png")
    path = str(folder / f"{word}.png")
    return {"id": word, "label": word, "synsets": [f"{word}.n.01"], "file": path, "cut": path}


@pytest.fixture
def things(tmp_path: Path) -> list[dict[str, Any]]:
    colours = {"cat": "red", "tree": "green", "feline": "blue", "cup": "black", "bus": "orange"}
    return [drawing(tmp_path, word, colour) for word, colour in colours.items()]


# ---------------------------------------------------------------- scenes


def test_scenes_are_the_same_for_a_seed_and_never_of_related_things(
    things: list[dict[str, Any]],
) -> None:
    planned = scenes.plan_scenes(things, things[:1], 40, 7, Words())
    assert planned == scenes.plan_scenes(things, things[:1], 40, 7, Words())
    assert planned != scenes.plan_scenes(things, things[:1], 40, 8, Words())
    assert all({s.left["label"], s.right["label"]} != {"cat", "feline"} for s in planned)
    assert Counter(s.ground.kind for s in planned) == {"plain": 20, "photograph": 20}
    for scene in planned[:4]:
        first, second = scenes.compose(scene), scenes.compose(scene)
        assert first.size == scenes.SIZE
        assert np.array_equal(np.asarray(first), np.asarray(second))


def test_left_is_left(things: list[dict[str, Any]]) -> None:
    ground = scenes.Ground("plain", "#ffffff")
    scene = scenes.Scene("s", things[0], things[1], ground, (0.5, 0.5, 0.5, 0.5))
    pixels = np.asarray(scenes.compose(scene)).astype(int)
    red = (pixels[..., 0] > 200) & (pixels[..., 1] < 50)
    green = (pixels[..., 1] > 100) & (pixels[..., 0] < 50)
    assert red.any() and green.any()
    assert np.nonzero(red)[1].max() < scenes.SIZE[0] // 2 < np.nonzero(green)[1].min()


# ---------------------------------------------------------------- yes or no


def near(one: str, other: str) -> float:
    return float(one[0] == other[0])


def test_as_many_negatives_of_each_kind_as_things_and_none_twice() -> None:
    absent = ["bat", "cow", "dove", "elk", "fox", "gnu"]
    drawn = existence.draw_questions(["cat", "elephant"], absent, near, random.Random(1))
    assert Counter(q.kind for q in drawn) == {"present": 2, "random": 2, "adversarial": 2}
    negatives = [q.thing for q in drawn if not q.right]
    assert len(set(negatives)) == 4 and set(negatives) <= set(absent)
    assert drawn == existence.draw_questions(["cat", "elephant"], absent, near, random.Random(1))
    assert next(q.thing for q in drawn if q.kind == "adversarial") == "cow"


def test_what_may_be_in_the_picture_is_no_negative() -> None:
    words = {w: [f"{w}.n.01"] for w in ("cat", "feline", "tree", "cup", "bus")}
    found = existence.absent_things(words, ["cat.n.01"], ["trees", "A cat sits."], Words())
    assert found == ["cup", "bus"]


@pytest.mark.parametrize(
    ("thing", "text"),
    [
        ("cat", "Is there a cat in the picture?"), ("owl", "Is there an owl in the picture?"),
        ("headphones", "Are there headphones in the picture?"), ("bus", "Is there a bus in the picture?"),
        ("soup", "Is there any soup in the picture?"), ("glass", "Is there a glass in the picture?"),
    ],
)  # fmt: skip
def test_questions_are_english(thing: str, text: str) -> None:
    assert existence.Question(thing, "random").text == text


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("Yes, there is a cat.", True), ("yes", True), ("No.", False), ("No, I see a dog.", False),
        ("There is no cat in the picture.", False), ("There isn't a cat.", False),
        ("The picture shows a cat.", None), ("", None), ("A notebook, it knows.", None),
    ],
)  # fmt: skip
def test_what_a_reply_says(answer: str, said: bool | None) -> None:
    assert existence.verdict(answer) is said


def reply(kind: str, said: bool | None, picture: str = "p") -> dict[str, Any]:
    right = kind == "present"
    return {
        "id": f"{picture}:{kind}", "part": "photographs", "kind": kind, "right": right, "said": said,
        "hit": said == right, "pope_hit": (said is not False) == right,
    }  # fmt: skip


def test_always_yes_is_chance_and_never_answering_is_nothing() -> None:
    kinds = ("present", "random", "adversarial")
    always = [reply(k, True, str(i)) for i in range(5) for k in kinds]
    found = existence.sum_existence(always)
    assert found["value"] == 0.5 and found["yes-rate"]["value"] == 1
    assert found["random"]["F1"] == pytest.approx(2 / 3, abs=1e-4)
    assert existence.sum_existence([reply(k, None) for k in kinds])["value"] == 0
    assert existence.sum_existence([reply(k, k == "present") for k in kinds])["value"] == 1


# ---------------------------------------------------------------- requests


@dataclass(frozen=True)
class FakeParameter:
    name: str
    kind: str


@dataclass
class FakeTool:
    name: str
    parameters: tuple[FakeParameter, ...]
    description: str = ""
    requires: tuple[str, ...] = field(default=())


CROP = FakeTool("Crop", (FakeParameter("image", "image"), FakeParameter("thing", "text")))


@pytest.mark.parametrize(
    ("row", "calls", "found"),
    [
        ({"right": ["Crop"], "args": [["cat"]]}, [("Crop", ("image/a.png", "The cat"))], (True, True)),
        ({"right": ["Crop"], "args": [["cat"]]}, [("Crop", ("image/a.png", "dog"))], (True, False)),
        ({"right": ["Crop"], "args": [["cat"]]}, [("Crop", ("a.png", "cat"))], (True, False)),
        ({"right": ["Crop"], "args": [["cat"]]}, [("Crop", ("image/a.png",))], (True, False)),
        ({"right": ["Crop"], "args": [["cat"]]}, [("", ())], (False, False)),
        ({"right": [""], "args": []}, [("", ()), ("", ())], (True, True)),
        ({"right": [""], "args": []}, [("", ()), ("Crop", ("image/a.png", "cat"))], (False, False)),
        ({"right": ["Crop"]}, [("Crop", ("image/a.png", "dog"))], (True, None)),
        ({"steps": [["Crop"], [""]]}, [("Crop", ()), ("", ())], (True, None)),
        ({"steps": [["Crop"], ["Crop"]]}, [("Crop", ())], (False, None)),
    ],
)  # fmt: skip
def test_the_judge(row: dict[str, Any], calls: Any, found: tuple[bool, bool | None]) -> None:
    assert requests.judge(row, calls, {"Crop": CROP}) == found  # type: ignore[dict-item]


def test_numbers_are_compared_without_brackets() -> None:
    assert requests.plain("[10, 20, 30, 40]") == requests.plain("10,20, 30 40")


NAMES = (
    "Detect the Give Object", "Crop Image", "Crop the Given Object", "Assess the Image Quality",
    "Replace Something From The Photo", "Generate Image From User Input Text", "Mirror The Image",
)  # fmt: skip


def test_tool_conversations_are_seeded_split_and_scored_right_by_their_own_gold() -> None:
    items = toolchat.make_items(3, NAMES)
    assert items == toolchat.make_items(3, NAMES)
    assert items != toolchat.make_items(4, NAMES)
    unseen = toolchat.held_out()
    assert len(unseen) == 8
    for item in items:
        assert all((name in unseen) == (item.split == "unseen") for name, _ in item.calls)
        assert {name for name, _ in item.calls} <= set(item.listed) <= set(NAMES)
        assert "{" not in item.request
        assert all(arg in item.request for _, args in item.calls for arg in args)
        gold = toolchat.gold_text(item, "image/0123abcd.png")
        assert score(gold, gold).success == 1 and exact(gold, gold)
        if item.calls:
            assert score(gold, toolchat.ABSENT).success == 0
        else:
            assert not unseen & set(item.listed)
    counts = Counter(item.split for item in items)
    assert counts == {"seen": 3 * 6 + 16, "unseen": 3 * 12}
    assert len({item.id for item in items}) == len(items)


# ---------------------------------------------------------------- speech, retrieval


def test_edits_and_rate() -> None:
    assert edits("a b c".split(), "a x c d".split()) == 2
    assert edits([], "a b".split()) == 2
    assert rate([{"errors": 1, "words": 4}, {"errors": 2, "words": 6}]) == 0.3


def test_retrieval_counts_ranks() -> None:
    rows = [{"rank": r, "rank_cached": 1, "of": 9} for r in (1, 2, 6, 11)]
    found = retrieval.sum_captions(rows)
    assert found["value"] == 0.25 and found["captions"] == 9
    assert (found["R@5"]["hits"], found["R@10"]["hits"]) == (2, 3)
    assert found["R@1 through the cache"]["value"] == 1


# ---------------------------------------------------------------- running


def test_data_that_is_not_there_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="prepare.py"):
        Data(tmp_path / "nothing")
    with pytest.raises(UserError, match="prepare.py"):
        Data(tmp_path).records("photos/photos.jsonl")
    with pytest.raises(UserError, match="wordnet.py"):
        _ = Data(tmp_path).wordnet
    (tmp_path / "x.jsonl").write_text('{"id": 1, "file": "a.png"}\n\nbroken\n')
    with pytest.raises(UserError, match="line 3"):
        Data(tmp_path).records("x.jsonl")


def test_unknown_measures_are_named() -> None:
    assert len(chosen(["all"])) == len(MEASURES) == 9
    with pytest.raises(UserError, match="smell"):
        chosen(["sounds", "smell"])


class FakeRuntime:
    class bundle:
        reference = "fake"


def test_a_run_keeps_every_row_and_merges_the_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tens(bench: Bench) -> Iterator[dict[str, Any]]:
        for number in bench.some(range(10)):
            yield {"id": str(number), "hit": number % 2 == 0}

    monkeypatch.setattr(
        measures.import_module("anybind.agent.evaluation.seeing"), "photographs", tens
    )
    monkeypatch.setattr(
        measures.import_module("anybind.agent.evaluation.seeing"), "sum_photographs",
        lambda rows: share([r["hit"] for r in rows]),
    )  # fmt: skip
    (tmp_path / "summary.json").write_text('{"speech": {"value": 0.1}}')
    bench = Bench(FakeRuntime(), Data(tmp_path))  # type: ignore[arg-type]
    found = evaluate(MEASURES["photographs"], bench, tmp_path)
    assert (found["value"], found["total"], found["bundle"]) == (0.5, 10, "fake")
    rows = [json.loads(x) for x in (tmp_path / "photographs.jsonl").read_text().splitlines()]
    assert [r["id"] for r in rows] == [str(i) for i in range(10)]
    assert list(json.loads((tmp_path / "summary.json").read_text())) == ["photographs", "speech"]
    assert "5 of 10 = 0.500 | 0.24 to 0.76" in table({"photographs": found})
    few = Bench(FakeRuntime(), Data(tmp_path), limit=4)  # type: ignore[arg-type]
    assert evaluate(MEASURES["photographs"], few, None)["total"] == 4
    assert few.some(range(10)) == few.some(range(10)) == sorted(few.some(range(10)))


def test_the_command_lists_measures_and_names_missing_data(tmp_path: Path) -> None:
    runner = CliRunner()
    listed = runner.invoke(app, ["eval", "--list", "--json"])
    assert [m["name"] for m in json.loads(listed.output)] == list(MEASURES)
    missing = runner.invoke(app, ["eval", "sounds", "--data", str(tmp_path / "none")])
    assert isinstance(missing.exception, UserError)
    assert runner.invoke(app, ["eval"]).exit_code == 2
