"""The reader of requests: training and running agree, spans stay inside the text, marks are read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from anybind.core_model.encoders.minilm import MiniLM, TextEncoder
from anybind.core_model.request_reader import (
    LONGEST,
    ROLES,
    RequestReader,
    Span,
    apart,
    best_spans,
)
from anybind.core_model.training.tool_choice_data import by_hand, read_tools, roles, unmarked
from anybind.core_model.training.tool_choice_reader import (
    Reader,
    ReaderConfig,
    Request,
    embedded,
    train_reader,
)
from anybind.core_model.training.toolchat import Protocol
from anybind.errors import ModelError

WORDS = "[PAD] [UNK] [CLS] [SEP] find the a cat dog fox hat near draw hello you are gone".split()
CONFIG = ReaderConfig(rank=4, epochs=60, batch=8, rate=5e-3, dropout=0.0, smoothing=0.0)


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    """A small one with weights drawn at random."""
    torch.manual_seed(5)
    model = MiniLM(
        vocabulary=len(WORDS), width=64, hidden=96, layers=2, positions=40, heads=2
    ).eval()
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return TextEncoder(model.requires_grad_(False), words)


@pytest.fixture(scope="module")
def trained(encoder: TextEncoder) -> Reader:
    """Knows two things to do: find something, draw something; small talk is neither."""
    return taught(encoder, CONFIG)


def taught(encoder: TextEncoder, config: ReaderConfig) -> Reader:
    requests: list[Request] = []
    for thing in ("cat", "dog", "hat"):
        for article in ("a", "the"):
            words = f"{article} {thing}"
            at = (len("find the "), len("find the ") + len(thing))
            requests.append(Request(f"find the {thing}", 2, 1.0, {"object": at}, "look"))
            drawn = {"text": (5, 5 + len(words))}
            requests.append(Request(f"draw {words}", 3, 1.0, drawn, "paint"))
    requests += [Request("hello you", 0, 1.0), Request("you are gone", 0, 1.0)]
    requests.append(Request("find you", 2, 1.0, {"object": (0, 0)}, "look"))
    described = {"look": ["find near", "near a cat"], "paint": ["draw a fox", "fox draw"]}
    return train_reader(encoder, requests, described, 4, config, 0, lambda told: None)


def test_what_is_trained_is_what_is_read(encoder: TextEncoder, trained: Reader) -> None:
    reader = RequestReader(encoder, trained.tensors())
    weights, bias = trained.answers()
    texts = ["find the cat", "draw a dog near the hat", "hello"]
    rows = embedded(trained, encoder, texts)
    want = trained.scores(rows).detach().numpy()
    for text, scores in zip(texts, want, strict=True):
        found = reader.read(text)
        assert np.linalg.norm(found.embedding) == pytest.approx(1, abs=1e-5)
        got = found.embedding @ weights.numpy() + bias.numpy()
        np.testing.assert_allclose(got, scores, atol=0.05)  # half precision between them
        np.testing.assert_allclose(found.embedding, rows[texts.index(text)].numpy(), atol=5e-3)
    assert np.argmax(want, 1).tolist() == [2, 3, 0]


def test_a_request_is_near_the_description_of_its_tool(
    encoder: TextEncoder, trained: Reader
) -> None:
    told = embedded(trained, encoder, ["find near", "draw a fox"])
    asked = embedded(trained, encoder, ["find the hat", "draw the cat"])
    assert (asked @ told.T).argmax(1).tolist() == [0, 1]


def test_words_are_found_where_they_stand(encoder: TextEncoder, trained: Reader) -> None:
    reader = RequestReader(encoder, trained.tensors())
    assert reader.read("Find the DOG").words["object"] == "DOG"  # as it was written
    assert reader.read("draw  the cat").words["text"] == "the cat"
    assert "object" not in reader.read("find you").words


def test_the_same_seed_gives_the_same_reader(encoder: TextEncoder) -> None:
    torch.set_num_threads(1)
    short = replace(CONFIG, epochs=2, dropout=0.1)
    one, two = (taught(encoder, short).tensors() for _ in range(2))
    assert one.keys() == two.keys() and all(torch.equal(one[n], two[n]) for n in one)


def test_the_encoder_stays_as_it_was(encoder: TextEncoder, trained: Reader) -> None:
    before = encoder.unit(["find the cat"])
    reader = RequestReader(encoder, trained.tensors())
    assert torch.equal(before, encoder.unit(["find the cat"]))
    assert reader.model.words is encoder.model.words  # no second copy of the largest part
    assert reader.model.layers[0] is not encoder.model.layers[0]


@pytest.mark.parametrize("fault", ["missing", "shape", "layer", "roles"])
def test_updates_of_another_encoder_are_refused(
    encoder: TextEncoder, trained: Reader, fault: str
) -> None:
    tensors = trained.tensors()
    if fault == "missing":
        del tensors["layers.1.narrow.up"]
    elif fault == "shape":
        tensors["layers.0.query.down"] = tensors["layers.0.query.down"][:, :-1]
    elif fault == "layer":
        tensors["layers.7.query.down"] = tensors["layers.0.query.down"]
    else:
        tensors["span.weight"] = tensors["span.weight"][:, :2]
    with pytest.raises(ModelError, match="reader"):
        RequestReader(encoder, tensors)


@given(
    st.integers(2, 40).flatmap(
        lambda n: st.tuples(
            *[arrays.arrays(np.float32, n, elements=st.floats(-30, 30, width=32)) for _ in range(2)]
        )
    )
)
def test_spans_lie_inside_and_the_best_is_first(ends: tuple[np.ndarray, np.ndarray]) -> None:
    first, last = ends
    found = best_spans(first, last)
    pairs = {
        (i, j): float(first[i] + last[j] - (first[0] + last[0]))
        for i in range(1, len(first) - 1)
        for j in range(i, min(len(first) - 1, i + LONGEST))
    }
    likely = sorted((odds for odds in pairs.values() if odds > 0), reverse=True)
    assert [s.odds for s in found] == pytest.approx(likely[:12])
    assert all((s.first, s.last) in pairs for s in found)


def test_a_thing_and_what_takes_its_place_have_no_word_in_common() -> None:
    wide, old, new, late = Span(1, 5, 9.0), Span(1, 2, 8.0), Span(4, 5, 7.0), Span(5, 5, 1.0)
    assert apart([wide, old], [new, late]) == ([old], [new])
    assert apart([wide], [new]) == ([wide], [])  # the likelier one keeps its words
    assert apart([Span(1, 5, 2.0)], [new]) == ([], [new])
    assert apart([], [new]) == ([], [new]) and apart([old], []) == ([old], [])


def test_an_empty_text_is_about_nothing(encoder: TextEncoder, trained: Reader) -> None:
    reader = RequestReader(encoder, trained.tensors())
    assert reader.read("").words == {}
    assert len(reader.read("cat " * 500).embedding) == encoder.dim  # too long: cut


def test_marks_are_taken_out_and_told() -> None:
    assert unmarked("Find [the cat] now", ("object",)) == ("Find the cat now", {"object": (5, 12)})
    text, said = unmarked("I'd put [a fox] where {my hat} is", ("old", "new"))
    assert text == "I'd put a fox where my hat is" and said is not None
    assert {r: text[a:b] for r, (a, b) in said.items()} == {"new": "a fox", "old": "my hat"}
    assert unmarked("Take it away", ("object",))[1] == {"object": (0, 0)}
    assert unmarked("Nice!", ()) == ("Nice!", None)
    for line, known in (("a [b]", ()), ("a [b] [c]", ("object",)), ("a {b}", ("object",))):
        with pytest.raises(ValueError, match="marks"):
            unmarked(line, known)


def test_most_requests_by_hand_say_what_they_are_about() -> None:
    tools = read_tools(Protocol())
    asked = [a for a in by_hand(tools) if a.tool and roles(tools[a.tool])]
    assert {r for a in asked for r in a.said or ()} == set(ROLES)
    told = [a for a in asked if any(end for _, end in (a.said or {}).values())]
    assert len(told) > 0.95 * len(asked) > 3000
    assert not [a.text for a in asked if set(a.text) & set("[]{}")]
    for ask in told:
        for begin, end in (ask.said or {}).values():
            assert ask.text[begin:end] == ask.text[begin:end].strip()
