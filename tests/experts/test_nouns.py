"""Noun phrases with the shipped tagger weights, on captions labelled by hand."""

from __future__ import annotations

import gzip
import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nltk")

import anybind.bundles
from anybind.contracts import NounExpert
from anybind.errors import ModelError
from anybind.experts.nouns import NounPhrases, load_tagger, sentences, singular

WEIGHTS = Path(anybind.bundles.__file__).parent / "nano" / "tagger" / "tagger.json.gz"
LABELLED = Path(__file__).parents[1] / "data" / "noun_chunks.jsonl"


@pytest.fixture(scope="module")
def expert() -> NounPhrases:
    return NounPhrases.from_file(WEIGHTS)


def test_f1_on_captions_labelled_by_hand(expert: NounPhrases) -> None:
    right = found = wanted = 0
    for line in LABELLED.read_text(encoding="utf-8").splitlines():
        item = json.loads(line)
        gold = {tuple(span) for span in item["spans"]}
        got = {noun.span for noun in expert.nouns(item["text"])}
        right += len(gold & got)
        found += len(got)
        wanted += len(gold)
    assert wanted > 150
    assert 2 * right / (found + wanted) >= 0.9


def test_the_contract_by_example(expert: NounPhrases) -> None:
    assert isinstance(expert, NounExpert)
    text = "The man holds a tennis racket on a court."
    nouns = expert.nouns(text)
    assert [n.text for n in nouns] == ["The man", "a tennis racket", "a court"]
    assert [n.head for n in nouns] == ["man", "tennis racket", "court"]
    assert all(text[a:b] == n.text for n in nouns for a, b in [n.span])
    chunk = expert.chunks("Two small dogs are running towards the children.")
    assert [(c.head, c.noun, c.lemma) for c in chunk] == [
        ("small dog", "dogs", "dog"), ("child", "children", "child"),
    ]  # fmt: skip


def test_spans_point_into_the_text_across_sentences_and_lines(expert: NounPhrases) -> None:
    text = 'A  dog\tis barking.  "The cat" is asleep.\nMr. Smith\'s ``red`` car is gone!\n\nIs it a bird?'
    chunks = expert.chunks(text)
    assert [text[slice(*c.span)] for c in chunks] == [c.text for c in chunks]
    assert {"dog", "cat", "bird"} <= {c.lemma for c in chunks}
    assert [c.span[0] for c in chunks] == sorted(c.span[0] for c in chunks)


def test_repeated_things_can_be_named_once(expert: NounPhrases) -> None:
    text = "A dog sees a ball. The dog takes the ball."
    assert [c.head for c in expert.chunks(text)] == ["dog", "ball", "dog", "ball"]
    assert [c.head for c in expert.chunks(text, unique=True)] == ["dog", "ball"]
    once = NounPhrases.from_file(WEIGHTS, unique=True)
    assert [n.head for n in once.nouns(text)] == ["dog", "ball"]


def test_texts_without_nouns_give_none(expert: NounPhrases) -> None:
    for text in ("", "   ", "\n\n", "?!", "...", "It is there.", "No one is here."):
        assert expert.nouns(text) == []


def test_words_of_place_are_no_things(expert: NounPhrases) -> None:
    lemmas = [c.lemma for c in expert.chunks("A cat sits on top of a car in front of the house.")]
    assert lemmas == ["cat", "car", "house"]
    assert [c.lemma for c in expert.chunks("He painted the front of the house.")][0] == "front"


def test_any_text_is_survived_with_right_spans(expert: NounPhrases) -> None:
    r = random.Random(0)
    letters = "ab Z\t\n.,;:'\"`()[]{}<>$%&*#@!?-–…’“”é狗🐶0 9/\\"
    for _ in range(150):
        text = "".join(r.choice(letters) for _ in range(r.randint(0, 60)))
        for chunk in expert.chunks(text):
            assert text[slice(*chunk.span)] == chunk.text


def test_long_runs_of_adjectives_do_not_explode(expert: NounPhrases) -> None:
    began = time.perf_counter()
    expert.nouns("the " + "big, red and very old " * 60 + ".")
    expert.nouns("the red " * 200 + "of " * 50)
    assert time.perf_counter() - began < 20


@pytest.mark.parametrize(
    ("plural", "single"),
    [("dogs", "dog"), ("boxes", "box"), ("cherries", "cherry"), ("women", "woman"),
     ("firemen", "fireman"), ("grandchildren", "grandchild"), ("leaves", "leaf"),
     ("horses", "horse"), ("glasses", "glasses"), ("grass", "grass"), ("bus", "bus"),
     ("buses", "bus"), ("dishes", "dish"), ("benches", "bench"), ("potatoes", "potato"),
     ("shoes", "shoe"), ("pies", "pie"), ("sheep", "sheep"), ("tennis", "tennis"),
     ("Cats", "cat"), ("classes", "class"), ("people", "person"), ("geese", "goose")],
)  # fmt: skip
def test_singular(plural: str, single: str) -> None:
    assert singular(plural) == single
    assert singular(single) == single


def test_sentences_are_split_with_their_places() -> None:
    text = "One. Two! Dr. Who came\nFour"
    assert [text[a:b].strip() for a, b in sentences(text)] == [
        "One.", "Two!", "Dr. Who came", "Four",
    ]  # fmt: skip


def test_broken_weights_are_refused(tmp_path: Path) -> None:
    good: dict[str, Any] = {"format": "anybind-tagger-1", "classes": ["NN"], "scale": 1,
                            "tagdict": {}, "weights": {}}  # fmt: skip
    path = tmp_path / "t.json.gz"

    def write(content: object) -> None:
        path.write_bytes(gzip.compress(json.dumps(content).encode()))

    write(good)
    assert load_tagger(path).classes == {"NN"}
    for bad in (
        [], {**good, "format": "x"}, {**good, "weights": {"a": {"3": 1}}},
        {**good, "weights": [1]}, {**good, "tagdict": {"a": "b"}}, {**good, "classes": 3},
        {**good, "scale": "a"},
    ):  # fmt: skip
        write(bad)
        with pytest.raises(ModelError):
            load_tagger(path)
    for data in (b"", b"\x80\x04pickle", gzip.compress(b"{")):
        path.write_bytes(data)
        with pytest.raises(ModelError):
            load_tagger(path)
    path.write_bytes(gzip.compress(b" " * (33 << 20)))
    with pytest.raises(ModelError, match="more than"):
        load_tagger(path)
