"""The learned match of requests and tools: the file that ships, and what training and running share."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

import anybind.bundles
from anybind.assembly import Assembly
from anybind.core_model.encoders.minilm import MiniLM, TextEncoder, load_text_encoder
from anybind.core_model.tool_matcher import (
    BUCKETS,
    CLAUSES,
    FORMAT,
    READER,
    ToolMatcher,
    asked,
    load_tool_matcher,
    marks,
    tool_texts,
)
from anybind.core_model.training.tool_choice_data import (
    by_hand,
    dress,
    expand,
    read_tools,
    requests,
    talk,
)
from anybind.core_model.training.tool_choice_known import Known, fit, word_rows
from anybind.core_model.training.tool_choice_model import Matcher, relative
from anybind.core_model.training.tool_choice_reader import Reader, ReaderConfig, embedded
from anybind.core_model.training.toolchat import Protocol, held_out
from anybind.errors import ModelError

LETTERS = "abcdefghijklmnopqrstuvwxyz ,.?"
SHIPPED = Path(anybind.bundles.__file__).parent / "nano" / "tool_matcher.safetensors"


@pytest.fixture(scope="module")
def shipped_encoder(nano: Assembly) -> TextEncoder:
    """The text encoder of nano."""
    return load_text_encoder(nano.weight("minilm"), nano.weight("minilm_tokenizer"))


def test_what_of_a_tool_is_looked_at() -> None:
    texts = tool_texts("Mirror_It", "Flip a picture: left and right change places. Or turn, spin.")
    assert texts[0].startswith("Mirror_It: Flip a picture")
    assert texts[1:] == [
        "Mirror It", "Flip a picture", "left", "right change places", "Or turn", "spin",
    ]  # fmt: skip
    assert (
        len(tool_texts("T", "a one, b two, c three, d four, e five, f six, g seven")) == 2 + CLAUSES
    )
    assert len(tool_texts("T", "")) == 3  # a stranger's tool may say nothing of itself
    assert asked("Mirror image/1a2b3c4d.png now") == "Mirror the image now"


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    """A small one with weights drawn at random, for texts of letters."""
    torch.manual_seed(2)
    sizes = {"vocabulary": 60, "width": 16, "hidden": 24, "layers": 2, "positions": 40, "heads": 2}
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0} | {w: i for i, w in enumerate(LETTERS, 1)},
                                           unk_token="[UNK]"))  # fmt: skip
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return TextEncoder(MiniLM(**sizes).eval().requires_grad_(False), tokenizer)


def test_training_and_running_compute_the_same(tmp_path: Path, encoder: TextEncoder) -> None:
    torch.manual_seed(3)
    model = Matcher(16, 4, 3)
    reader = Reader(encoder.model, 4, ReaderConfig(rank=2)).eval()
    for p in [*model.parameters(), *(p for p in reader.parameters() if p.requires_grad)]:
        p.data.normal_()
    known = Known(("a", "b"), torch.randn(16, 4), torch.randn(BUCKETS, 4), torch.randn(4))
    rows = torch.nn.functional.normalize(torch.randn(2, 2 + CLAUSES, 16), dim=-1)
    path = tmp_path / "m.safetensors"
    # The second of the listed tools is the first of the known ones; the first is a stranger.
    described = torch.stack([rows[1, 0], -rows[0, 0]])
    kept = model.tensors(known, reader.answers(), described)
    kept |= {f"{READER}{n}": t for n, t in reader.tensors().items()}
    about = {"format": FORMAT, "config": json.dumps({"space": "s"})}
    save_file({n: t.numpy() for n, t in kept.items()}, path, about)
    matcher = load_tool_matcher(path, encoder)
    assert matcher.space == "s"
    there = torch.ones(2, 2 + CLAUSES, dtype=torch.bool)
    there[1, 4:] = False
    ask = torch.nn.functional.normalize(torch.randn(1, 16), dim=-1)
    text, told = "make the dog disappear, please", ["say something", "take something away"]
    with torch.inference_mode():
        asked_for, *whole = embedded(reader, encoder, [text, *told])
        scores = relative(known.scores(ask, word_rows([text])))
        scores = scores + relative(reader.scores(asked_for[None]))
        learned = torch.stack([scores[0, 0], torch.tensor(9.0), scores[0, 1]])[None]
        matched = (torch.stack(whole) @ asked_for)[None]
        every = torch.ones(1, 2, dtype=torch.bool)
        sure = torch.tensor([[0.0, 1.0]])
        want = model(ask, matched, learned, sure, rows, there, every)[0]
    none, tools = matcher.scores(
        text, ask[0].numpy(), [[t] for t in told], [rows[0].numpy(), rows[1, :4].numpy()]
    )
    np.testing.assert_allclose([none, *tools], want.numpy(), atol=6e-2, rtol=4e-3)


def test_words_are_marked_whole_in_pairs_and_in_parts() -> None:
    assert marks("Remove the dog") == marks("remove THE dog!")
    assert len(set(marks("removing")) & set(marks("remove"))) >= 2  # parts in common
    assert marks("cat dog") != marks("dog cat")  # pairs have an order
    assert marks("?") == [] and all(0 <= m < BUCKETS for m in marks("a few small words"))


def test_what_is_known_of_a_tool_is_learned_from_sentences_and_words() -> None:
    texts = ["gone with it", "away with it", "draw a cat", "draw a cow", "hello there", "hi there"]
    wanted = ["erase", "erase", "draw", "draw", "", ""]
    sentences = torch.zeros(6, 4)  # nothing in them: the words have to tell
    known = fit(sentences, word_rows(texts), wanted, ["draw", "erase"], torch.ones(6), 1e-4, 40)
    scores = known.scores(torch.zeros(3, 4), word_rows(["draw a pig", "it is gone", "hello"]))
    assert scores.argmax(1).tolist() == [2, 3, 0]


@pytest.mark.parametrize("fault", ["format", "old", "missing", "shape", "fit", "reader", "no file"])
def test_a_wrong_file_says_what_is_wrong(
    tmp_path: Path, fault: str, shipped_encoder: TextEncoder
) -> None:
    tensors = load_file(SHIPPED)
    about = {"format": FORMAT, "config": json.dumps({"space": "s"})}
    said = {"format": "no tool matcher", "old": "Train it again", "missing": "lacks", "shape": "has the shape",
            "fit": "don't fit", "reader": "does not fit this text encoder", "no file": "can't be read"}  # fmt: skip
    if fault == "format":
        about["format"] = "other"
    elif fault == "old":
        about["format"] = "anybind-tool-matcher-2"
    elif fault == "missing":
        del tensors["up"]
    elif fault == "shape":
        tensors["weights"] = tensors["weights"][:3]
    elif fault == "fit":
        tensors["up"] = tensors["up"][:-1]
    elif fault == "reader":
        del tensors["reader.layers.0.query.up"]
    path = tmp_path / "m.safetensors"
    if fault != "no file":
        save_file(tensors, path, about)
    with pytest.raises(ModelError, match=said[fault]):
        load_tool_matcher(path, shipped_encoder)


def test_the_shipped_file_is_small_and_of_its_space(shipped_encoder: TextEncoder) -> None:
    matcher = load_tool_matcher(SHIPPED, shipped_encoder)
    assert matcher.space == "minilm-l6-v2"
    assert SHIPPED.stat().st_size < 650_000
    assert isinstance(matcher, ToolMatcher)


@pytest.mark.parametrize(
    ("text", "role", "words"),
    [
        ("Could somebody point me to the blue suitcase?", "object", "blue suitcase"),
        ("Where's the spare key hiding?", "object", "spare key"),
        ("Lose the lamp post behind her, will you", "object", "lamp post"),
        ("I'd rather see a canoe where that rowing boat is", "new", "canoe"),
        ("I'd rather see a canoe where that rowing boat is", "old", "rowing boat"),
        ("Paint me a lighthouse in a thunderstorm", "text", "a lighthouse in a thunderstorm"),
    ],
)
def test_the_shipped_reader_finds_what_a_request_is_about(
    shipped_encoder: TextEncoder, text: str, role: str, words: str
) -> None:
    reader = load_tool_matcher(SHIPPED, shipped_encoder).reader
    assert reader.read(text).words[role] == words


def test_held_out_tools_are_in_no_list() -> None:
    tools = read_tools(Protocol())
    assert not held_out() & set(tools)
    assert {t.name for t in Protocol().tools} - held_out() == {n for n, w in tools.items() if w.own}
    assert all(w.asks and w.descriptions for w in tools.values())


def test_requests_are_the_same_for_a_seed_and_have_no_slot_left() -> None:
    tools = list(read_tools(Protocol()).values())
    made = requests(tools, 2, 0) + talk(2, 0)
    assert made == requests(tools, 2, 0) + talk(2, 0)
    assert made != requests(tools, 2, 1) + talk(2, 1)
    assert not [a.text for a in made if set(a.text) & set("{}|")]
    assert {a.tool for a in made} == {t.name for t in tools} | {""}


def test_politeness_goes_round_commands_only() -> None:
    texts = {dress("erase the dog", "erase the {obj}", random.Random(i)) for i in range(60)}
    assert any(t.lower().startswith("please erase") for t in texts) and len(texts) > 15
    asked_for = {dress("what is it?", "what is it?", random.Random(i)) for i in range(60)}
    assert all("please" not in t.lower() for t in asked_for)
    assert expand("(a|b) {city}", random.Random(0)).split()[0] in ("a", "b", "an")


def test_requests_by_hand_are_many_and_none_is_of_a_held_out_tool_or_the_check_split() -> None:
    tools = read_tools(Protocol())
    made = by_hand(tools)
    own = [n for n, w in tools.items() if w.own]
    assert len(made) > 4000 and all(a.by_hand and a.text == a.pattern for a in made)
    assert min(sum(a.tool == n for a in made) for n in own) >= 140
    assert not held_out() & {a.tool for a in made}
    path = Path(__file__).parents[1] / "data" / "tool_requests_check.jsonl"
    check = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(check) == 200
    assert not {" ".join(marks_of(r["text"])) for r in check} & {
        " ".join(marks_of(a.text)) for a in made
    }


def test_no_request_by_hand_is_nearly_one_that_is_held_out() -> None:
    root = Path(__file__).parents[2] / "benchmarks" / "data"
    held = [
        frozenset(marks_of(json.loads(line)["text"]))
        for name in ("tool_requests.jsonl", "tool_requests_unlike.jsonl")
        for line in (root / name).read_text(encoding="utf-8").splitlines()
    ]
    assert len(held) > 100
    made = [(a.text, frozenset(marks_of(a.text))) for a in by_hand(read_tools(Protocol()))]
    # Short ones may have words in common by chance; they may not be the same.
    near = [
        t
        for t, m in made
        if any(m == h or (len(m) > 3 and len(m & h) > 0.65 * len(m | h)) for h in held)
    ]
    assert not near


def marks_of(text: str) -> list[str]:
    return "".join(c if c.isalpha() else " " for c in text.lower()).split()


def test_the_shipped_file_knows_the_tools_of_anybind_by_their_descriptions() -> None:
    tensors = load_file(SHIPPED)
    own = [n for n, w in read_tools(Protocol()).items() if w.own]
    assert len(tensors["known.tools"]) == len(own)
    assert tensors["known.sentence"].shape[1] == len(own) + 1
