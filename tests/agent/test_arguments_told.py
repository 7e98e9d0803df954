"""Right arguments for requests in people's own words, by the reader and the noun parser that ship."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import anybind.bundles
from anybind.agent.arguments import candidates
from anybind.agent.artifacts import ArtifactStore
from anybind.agent.choice import steps
from anybind.agent.evaluation.requests import plain
from anybind.assembly import Assembly
from anybind.content import Image
from anybind.contracts import Parameter
from anybind.core_model.encoders.minilm import load_text_encoder
from anybind.core_model.request_reader import RequestReader
from anybind.core_model.tool_matcher import load_tool_matcher
from anybind.core_model.training.toolchat import Protocol
from anybind.experts.nouns import NounPhrases, load_tagger
from anybind.tooling import FunctionTool
from tests.fakes import picture

DATA = Path(__file__).parents[1] / "data"
TAGGER = Path(anybind.bundles.__file__).parent / "nano" / "tagger" / "tagger.json.gz"


@pytest.fixture(scope="module")
def nouns() -> NounPhrases:
    return NounPhrases(load_tagger(TAGGER))


def tools() -> dict[str, FunctionTool]:
    return {
        t.name: FunctionTool(
            t.name,
            t.description,
            tuple(Parameter(*a) for a in t.arguments),
            (),
            str,
            False,
        )
        for t in Protocol().tools
    }


@pytest.fixture(scope="module")
def reader(nano: Assembly) -> RequestReader:
    encoder = load_text_encoder(nano.weight("minilm"), nano.weight("minilm_tokenizer"))
    return load_tool_matcher(nano.weight("tool_matcher"), encoder).reader


def told(
    row: dict[str, Any], artifacts: ArtifactStore, nouns: NounPhrases, reader: RequestReader
) -> bool:
    """Whether the first candidate of each text argument is one of those that are right."""
    tool = tools()[row["right"][0]]
    piece = ". ".join(steps(row["text"]))
    words = {**reader.read(row["text"]).words, **reader.read(piece).words}
    found = candidates(
        tool, piece, row["text"], artifacts, nouns,
        attached=artifacts.names(), produced=[], told=words,
    )  # fmt: skip
    texts = [f for p, f in zip(tool.parameters, found, strict=True) if p.kind == "text"]
    said = [f if isinstance(f, str) else f[0] for f in texts]
    return all(
        plain(s) in {plain(w) for w in wanted} for s, wanted in zip(said, row["args"], strict=True)
    )


@pytest.mark.parametrize(("name", "least"), [("check", 64), ("arguments", 56)])
def test_arguments_are_those_that_people_mean(
    name: str, least: int, tmp_path: Path, nouns: NounPhrases, reader: RequestReader
) -> None:
    file = {"check": "tool_requests_check.jsonl", "arguments": "tool_arguments.jsonl"}[name]
    lines = (DATA / file).read_text(encoding="utf-8").splitlines()
    rows = [r for r in map(json.loads, lines) if r["args"]]
    store = ArtifactStore(tmp_path)
    store.add(Image.of(picture(1)))
    missed = [r["text"] for r in rows if not told(r, store, nouns, reader)]
    assert len(rows) - len(missed) >= least, missed


@pytest.mark.parametrize(
    ("said", "tool", "wanted"),
    [
        ("Away with the rug, in with a mat", "Replace Something From The Photo", ["rug", "mat"]),
        (
            "Could a nurse step in for the clown?",
            "Replace Something From The Photo",
            ["clown", "nurse"],
        ),
        ("Is there any trace of a badger?", "Detect the Give Object", ["badger"]),
        ("Tell my aunt where the kettle went", "Detect the Give Object", ["kettle"]),
        ("Lay a soft tint over the melon", "Segment the given object", ["melon"]),
    ],
)
def test_other_words_of_the_same_making(
    said: str,
    tool: str,
    wanted: list[str],
    tmp_path: Path,
    nouns: NounPhrases,
    reader: RequestReader,
) -> None:
    store = ArtifactStore(tmp_path)
    store.add(Image.of(picture(1)))
    row = {"text": said, "right": [tool], "args": [[w] for w in wanted]}
    assert told(row, store, nouns, reader)
