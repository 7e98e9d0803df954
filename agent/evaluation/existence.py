"""Yes or no: is a thing in the picture? Questions after POPE (Li et al. 2023), balanced.

For each thing seen, one question about it (yes), one about a thing drawn at random (no) and one
about the thing that is nearest to it in the joint space and not there (no, adversarial). "Not there"
leaves out whatever shares a name within two levels of WordNet with anything labelled or listed as
seen. A reply that is neither yes nor no is wrong; POPE's own rule, which takes every reply without a
"no" for a yes, is reported beside it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from anybind.agent.evaluation.bench import Bench, Row
from anybind.agent.evaluation.naming import WordNet, accepted_names, mentions, related
from anybind.agent.evaluation.scenes import compose, plan_scenes
from anybind.agent.evaluation.statistics import bootstrap, by, share
from anybind.content import Text

SCENES = 60
Kind = Literal["present", "random", "adversarial"]
_YES = re.compile(r"\W*yes\b", re.IGNORECASE)
_NO = re.compile(r"\W*no\b|\bthere (?:is|are|isn't|aren't) (?:no|not)\b|\bnot in\b|n't\b", re.I)
_POPE_NO = re.compile(r"\b(?:no|not)\b", re.IGNORECASE)
_MASS = frozenset(
    (
        "coffee",
        "soup",
        "sushi",
        "candy",
        "chocolate",
        "fruit",
        "fruit salad",
        "bread",
        "butter",
        "corn",
    )
)


@dataclass(frozen=True, slots=True)
class Question:
    """One question and its right answer."""

    thing: str
    kind: Kind

    @property
    def right(self) -> bool:
        """Whether the thing is there."""
        return self.kind == "present"

    @property
    def text(self) -> str:
        """The question in words."""
        word = self.thing
        if word in _MASS or word.endswith(" food"):
            return f"Is there any {word} in the picture?"
        if word.endswith("s") and not word.endswith(("ss", "us", "bus", "lens")):
            return f"Are there {word} in the picture?"
        article = "an" if word[0].lower() in "aeiou" else "a"
        return f"Is there {article} {word} in the picture?"


def draw_questions(
    present: Sequence[str],
    absent: Sequence[str],
    similarity: Callable[[str, str], float],
    r: random.Random,
) -> list[Question]:
    """Questions about one picture: as many negatives of each kind as there are things present.

    Args:
        present: Things that are there.
        absent: Things that surely are not; at least twice as many as `present`.
        similarity: How near two things are; decides the adversarial negatives.
        r: Draws the random negatives.
    """
    questions: list[Question] = []
    used: set[str] = set()
    for thing in present:
        left = [a for a in absent if a not in used]
        near = max(left, key=lambda a: (similarity(thing, a), a))
        far = r.choice([a for a in left if a != near])
        used |= {near, far}
        questions += [
            Question(thing, "present"), Question(far, "random"), Question(near, "adversarial")
        ]  # fmt: skip
    return questions


def verdict(answer: str) -> bool | None:
    """What a reply says: yes, no, or neither."""
    if _YES.match(answer):
        return True
    return False if _NO.search(answer) else None


def absent_things(
    vocabulary: Mapping[str, Sequence[str]],
    synsets: Sequence[str],
    seen: Sequence[str],
    wordnet: WordNet,
) -> list[str]:
    """The labels of a vocabulary (label -> synsets) that neither the synsets nor the words that
    were listed as seen could stand for.
    """
    said = " . ".join(seen)
    return [
        label
        for label, ids in vocabulary.items()
        if not related(ids, synsets, wordnet)
        and not mentions(said, accepted_names(ids, wordnet) | {label.lower()}, wordnet)
    ]


def existence(bench: Bench) -> Iterator[Row]:
    """Photographs, then scenes of two drawings."""
    wordnet, records = bench.data.wordnet, bench.data.records
    photos = records("photos/photos.jsonl")
    drawings = records("pictures/pictures.jsonl")
    captions = {c["id"]: c for c in records("captions.jsonl") if c["id"]}
    near = _Nearness(bench)
    words = {p["label"]: p["synsets"] for p in photos}
    for photo in bench.some(photos):
        r = random.Random(f"existence {bench.seed} {photo['id']}")
        caption = captions[photo["id"]]
        seen = [*caption["also"], caption["caption"]]
        absent = absent_things(words, photo["synsets"], seen, wordnet)
        questions = draw_questions([photo["label"]], absent, near, r)
        yield from _asked(bench, "photographs", photo["id"], photo["file"], questions)
    drawn = {d["label"]: d["synsets"] for d in drawings}
    for scene in bench.some(plan_scenes(drawings, photos, SCENES, bench.seed + 1, wordnet)):
        r = random.Random(f"existence {bench.seed} {scene.id}")
        both = [scene.left, scene.right]
        absent = absent_things(drawn, [s for t in both for s in t["synsets"]], (), wordnet)
        questions = draw_questions([t["label"] for t in both], absent, near, r)
        # One of each kind and both things: as many yes as no.
        chosen = [q for q in questions[:3] if q.kind != "adversarial"]
        chosen += [q for q in questions[3:] if q.kind != "random"]
        yield from _asked(bench, "scenes", scene.id, compose(scene), chosen)


class _Nearness:
    """Cosine of two words in the joint space of the bundle."""

    def __init__(self, bench: Bench) -> None:
        self._model: Any = bench.runtime.model
        self._kept: dict[str, Any] = {}

    def __call__(self, one: str, other: str) -> float:
        for word in (one, other):
            if word not in self._kept:
                self._kept[word] = self._model.embed_parts([Text.of(word)])[0].data
        return float(self._kept[one] @ self._kept[other])


def _asked(
    bench: Bench, part: str, key: str, picture: Any, questions: Sequence[Question]
) -> Iterator[Row]:
    for number, question in enumerate(questions):
        answer = bench.ask(question.text, picture, tools=False).text
        said = verdict(answer)
        pope = not _POPE_NO.search(answer)
        yield {
            "id": f"{key}:{number}", "part": part, "kind": question.kind,
            "question": question.text, "right": question.right, "answer": answer, "said": said,
            "hit": said == question.right, "pope_hit": pope == question.right,
        }  # fmt: skip


def f1(rows: Sequence[Row]) -> float:
    """F1 of "yes"."""
    true = sum(r["right"] and r["said"] is True for r in rows)
    said = sum(r["said"] is True for r in rows)
    right = sum(r["right"] for r in rows)
    return 2 * true / (said + right) if said + right else 0.0


def sum_existence(rows: list[Row]) -> dict[str, Any]:
    """Balanced accuracy over both kinds of negatives; accuracy, F1 and yes-rate of each.

    Photographs have one yes to two kinds of no: each kind is judged with the same positives, and
    the overall figure is the mean of the two, with a bootstrap interval over pictures.
    """
    pictures: dict[str, list[Row]] = {}
    for row in rows:
        pictures.setdefault(row["id"].rpartition(":")[0], []).append(row)

    def balanced(groups: Sequence[Sequence[Row]]) -> float:
        flat = [r for group in groups for r in group]
        sides = [[r["hit"] for r in flat if r["right"] is right] for right in (True, False)]
        return sum(sum(s) / len(s) for s in sides if s) / 2

    found: dict[str, Any] = bootstrap(list(pictures.values()), balanced)
    found["questions"] = len(rows)
    for kind in ("random", "adversarial"):
        some = [r for r in rows if r["kind"] in ("present", kind)]
        groups = [[r for r in g if r["kind"] in ("present", kind)] for g in pictures.values()]
        found[kind] = {
            "accuracy": bootstrap(groups, balanced),
            "F1": round(f1(some), 4),
            "accuracy by POPE's rule": share([r["pope_hit"] for r in some]),
        }
    found["yes-rate"] = share([r["said"] is True for r in rows])
    found["neither yes nor no"] = share([r["said"] is None for r in rows])
    found["by kind"] = by(rows, "kind")
    found["by part"] = by(rows, "part")
    return found
