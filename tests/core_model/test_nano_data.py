"""Nano's training data: right by its own things, balanced, repeatable, free of held-out pictures."""

from __future__ import annotations

import hashlib
import io
import json
import random
import re
import subprocess
import tarfile
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from anybind.core_model.training.data.features import FeatureFile
from anybind.core_model.training.data.own import own
from anybind.core_model.training.data.records import Reading
from anybind.core_model.training.nano_data import (
    asking,
    carried,
    drawings,
    english,
    making,
    naming,
    scenes,
    sounds,
)
from anybind.core_model.training.nano_data.looks import Bank, Looks
from anybind.core_model.training.nano_data.replay import answered, prompts, whole_sentences
from anybind.core_model.training.nano_data.seen import Row, Seen, joined
from anybind.core_model.training.nano_data.world import Thing, World, called, phrase, related
from anybind.core_model.training.toolchat import Protocol
from anybind.errors import UserError

DIM = 48
# name, basic, kinds, group, gloss
_THINGS = (
    ("beagle", "dog", ("mammal", "animal"), "animal", "a small short-legged smooth-coated breed of hound"),
    ("tabby", "cat", ("mammal", "animal"), "animal", "a cat with a grey or tawny coat"),
    ("robin", "bird", ("animal",), "animal", "small Old World songbird with a reddish breast"),
    ("hammer", "", ("tool",), "thing", "a hand tool with a heavy rigid head; used to deliver an impulsive force"),
    ("scissors", "", ("tool",), "thing", "an edge tool having two crossed pivoting blades"),
    ("harp", "", ("musical instrument",), "thing", "a chordophone that has a triangular frame"),
    ("apple", "", ("fruit", "food"), "food", "fruit with red or yellow or green skin"),
    ("broccoli", "", ("vegetable", "food"), "food", "plant with dense clusters of tight green flower buds"),
    ("sloop", "boat", ("vehicle",), "vehicle", "a sailing vessel with a single mast"),
    ("barn", "", ("building",), "building", "an outlying farm building for storing grain"),
    ("oak", "tree", ("plant",), "plant", "a deciduous tree of the genus Quercus"),
    ("umbrella", "", (), "thing", "a lightweight handheld collapsible canopy used for protection from rain"),
    ("clock", "", ("timepiece",), "thing", "a timepiece that shows the time of day"),
    ("candle", "", (), "thing", "stick of wax with a wick in the middle"),
    ("boot", "", ("thing to wear on the foot",), "thing", "footwear that covers the whole foot"),
    ("teapot", "", ("container",), "thing", "pot for brewing tea; usually has a spout and handle"),
)  # fmt: skip


def _world() -> World:
    things = [
        Thing(
            f"n{i:08d}", name, (name,), basic, kinds, (f"n{i:08d}", f"up{i}", f"upper{i}"), gloss,
            5, group, i if i < 8 else -1, i % 2 == 0, "钟" if name == "clock" else "",
        )
        for i, (name, basic, kinds, group, gloss) in enumerate(_THINGS)
    ]  # fmt: skip
    return World(things)


def _embed(texts):
    rows = [
        np.random.default_rng(
            int(hashlib.sha256(t.split()[-1].encode()).hexdigest()[:12], 16)
        ).standard_normal(DIM)
        for t in texts
    ]
    return np.stack([r / np.linalg.norm(r) for r in rows]).astype(np.float32)


def _seen(world: World) -> Seen:
    """Drawings of the drawn things, two of each, and pairs that lean to their first."""
    rows, features = [], []

    def add(what, things, feature, **more):
        rows.append(Row(len(rows), what, tuple(t.id for t in things), set="noto", **more))
        features.append(feature / np.linalg.norm(feature))

    drawn = [t for t in world.things if t.drawn]
    alone = {t.id: _embed([t.name])[0] for t in drawn}
    rng = np.random.default_rng(0)
    for thing in drawn:
        for _ in range(2):
            add("one", [thing], alone[thing.id] + 0.02 * rng.standard_normal(DIM))
    for a in drawn:
        for b in drawn:
            if a is not b:
                add("pair", [a, b], 0.7 * alone[a.id] + 0.3 * alone[b.id])
    return Seen(rows, np.array(features, np.float32))


@pytest.fixture(scope="module")
def world():
    return _world()


@pytest.fixture(scope="module")
def looks(world):
    names = [n for t in world.things for n in (t.name, called(t))]
    bank = Bank([*names, *sounds.all_words()], _embed)

    def simulate(number: int, seed: int):
        noise = np.random.default_rng(seed).standard_normal(DIM) * 0.05
        row = _embed([world.eye[number].name])[0] + noise
        return (row / np.linalg.norm(row)).astype(np.float32)

    return Looks(world, bank, simulate=simulate, seen=_seen(world))


@pytest.fixture(scope="module")
def kit(looks):
    return making.Kit(
        looks, {"Say hello.": "Hello!", "What is music?": "Music is sound."}, Protocol(), "test"
    )


def _answer(sample):
    return sample.messages[-1].content


# ---------------------------------------------------------------- English


@pytest.mark.parametrize(
    ("name", "one", "many"),
    [
        ("dog", "a dog", "dogs"), ("apple", "an apple", "apples"), ("unicorn", "a unicorn", "unicorns"),
        ("hourglass", "an hourglass", "hourglasses"), ("scissors", "scissors", "scissors"),
        ("broccoli", "broccoli", "broccoli"), ("mouse", "a mouse", "mice"), ("knife", "a knife", "knives"),
        ("glass of milk", "a glass of milk", "glasses of milk"), ("bus", "a bus", "buses"),
        ("cherry", "a cherry", "cherries"), ("fireman", "a fireman", "firemen"), ("octopus", "an octopus", "octopuses"),
        ("usb stick", "a usb stick", "usb sticks"), ("caiman", "a caiman", "caimans"), ("compass", "a compass", "compasses"),
    ],
)  # fmt: skip
def test_articles_and_plurals(name, one, many):
    assert (english.article(name), english.plural(name)) == (one, many)


def test_sentences_keep_file_names():
    assert (
        english.sentences("look. image/ab.png is it. and then?")
        == "Look. image/ab.png is it. And then?"
    )
    assert (
        english.articles("a old cat and an new hat, a hour") == "an old cat and a new hat, an hour"
    )
    assert english.listed(["a", "b", "c"], "or") == "a, b or c"


# ---------------------------------------------------------------- all kinds


@pytest.mark.parametrize("kind", list(making.SHARES))
def test_every_kind_is_sound_and_repeats(kind, kit):
    made = list(islice(making.samples(kind, kit, seed=5), 150))
    again = list(islice(making.samples(kind, kit, seed=5, start=100), 50))
    other = list(islice(making.samples(kind, kit, seed=6), 150))
    for a, b in zip(made[100:], again, strict=True):
        assert a.messages == b.messages and a.key == b.key
        assert (a.feature is None) == (b.feature is None)
        assert a.feature is None or np.array_equal(a.feature, b.feature)
    assert [s.messages for s in made] != [s.messages for s in other]
    for s in made:
        assert [m.role for m in s.messages] == ["user", "assistant"] * (len(s.messages) // 2)
        assert all(m.content.strip() for m in s.messages) and making.is_unit(s)
        if s.feature is not None:
            assert s.feature.shape == (DIM,) and s.feature.dtype == np.float32
        if kind == "tools":
            continue
        for m in s.messages:
            text = f"{m.content} {m.input}"
            assert not re.search(r"\{|\}|  |\ba [aeio]\w|\ban [bcdfg]|\?\?|\.\.|None", text), text
            if m.role == "assistant":
                assert m.content[-1] in ".!?。" or m.input or kind in ("context", "dialogue"), (
                    m.content
                )


def test_kinds_that_do_not_exist_or_lack_something_are_told(kit):
    with pytest.raises(UserError, match="no kind 'captoin'"):
        next(making.samples("captoin", kit))
    with pytest.raises(UserError, match="--replies"):
        next(making.samples("replay", replace(kit, replies={})))
    with pytest.raises(UserError, match="things to look at"):
        next(making.samples("caption", making.Kit(None, {})))


# ---------------------------------------------------------------- what is said is right


def _nearest(looks, feature):
    names = [t.name for t in looks.world.things]
    rows = np.stack([looks.bank.of(n) for n in names])
    return looks.world.by_name[names[int((rows @ feature).argmax())]]


def test_captions_name_what_the_embedding_is_of(kit, looks):
    right = total = 0
    for s in islice(making.samples("caption", kit), 300):
        thing = _nearest(looks, s.feature)
        total += 1
        right += called(thing) in _answer(s).lower() or thing.name in _answer(s).lower()
    assert right / total > 0.8  # words are moved on purpose


def test_yes_and_no_are_balanced_and_true(kit, looks):
    said = Counter()
    hard = 0
    for number in range(600):
        rng = random.Random(number)
        thing = looks.thing(rng)
        yes = number % 2 == 0
        asked, answer = asking.exists_turn(thing, looks, rng, yes=yes)
        assert answer.startswith("Yes") is yes and answer.startswith("No") is not yes
        own = [w for w in (called(thing), thing.name, *thing.kinds, thing.group) if w in asked]
        if yes:
            assert own, (asked, thing)
        else:
            assert not re.search(rf"\b{re.escape(called(thing))}\b", asked)
            hard += any(re.search(rf"\b{re.escape(n)}\b", asked) for n in looks.near(thing)[:6])
    for s in islice(making.samples("exists", kit, seed=1), 600):
        said[_answer(s).split()[0].rstrip(",.")] += 1
    assert 0.43 < said["Yes"] / 600 < 0.57 and said["Yes"] + said["No"] == 600
    assert hard > 100


def test_nothing_is_its_own_negative(looks, world):
    for thing in world.things:
        assert looks.near(thing)
        for name in looks.near(thing):
            assert name not in thing.said and not related(thing, world.by_name[name])


def test_choices_hold_the_right_one_once(looks):
    for number in range(200):
        rng = random.Random(number)
        thing = looks.thing(rng)
        asked, answer = asking.choice_turn(thing, looks, rng)
        assert english.article(called(thing)) in asked and english.article(called(thing)) in answer


def test_glosses_make_sentences():
    by = {t.name: t for t in _world().things}
    assert naming.definition(by["harp"]) == "A harp is a chordophone that has a triangular frame."
    assert (
        naming.definition(by["robin"])
        == "A robin is a small Old World songbird with a reddish breast."
    )
    assert naming.definition(by["scissors"]) == ""
    assert asking.use_of(by["hammer"]) == "to deliver an impulsive force"
    assert asking.use_of(by["umbrella"]) == "for protection from rain"
    assert asking.use_of(by["beagle"]) == ""
    assert phrase(by["beagle"]) == "a dog, probably a beagle" and phrase(by["harp"]) == "a harp"


# ---------------------------------------------------------------- scenes


def test_scenes_name_what_is_carried_and_no_side(kit, looks):
    both = 0
    for s in islice(making.samples("scene", kit), 400):
        asked, answer = s.messages[0].content, _answer(s)
        assert not re.search(r"\b(left|right|above|below)\b", answer)
        if re.search(r"\bleft\b|\bright\b|above|nearer|Where exactly", asked, re.I):
            assert "can't tell" in answer or "not where" in answer
        both += " and " in answer
    assert both > 100


def test_a_thing_that_is_hardly_in_the_embedding_is_not_named(looks, world):
    a, b = world.by_name["beagle"], world.by_name["apple"]
    row = looks.seen.by_what["pair"][0]
    strong, weak = (world.by_id[t] for t in row.things)
    assert scenes._carried(
        [strong, weak], scenes._shares(looks, [strong, weak], looks.seen.features[row.number])
    ) == [strong, weak]
    assert scenes._carried([a, b], [0.95, 0.05]) == [a]
    assert scenes._carried([a, b], [0.05, 0.95]) == [b]


def test_mixtures_are_measured_as_they_were_made(world):
    seen = _seen(world)
    mixed = carried.mixtures(seen)
    share = mixed[:, 0] / (mixed[:, 0] + mixed[:, 1])
    assert abs(float(np.median(share)) - 0.7) < 0.03 and float(mixed[:, 2].max()) < 0.3


def test_colour_and_number_are_spoken_of_only_if_carried(kit, looks, world):
    for kind in ("colour", "count"):
        for s in islice(making.samples(kind, kit), 60):
            assert "can't" in _answer(s)
    rng = np.random.default_rng(1)
    names, rows, features = ["red", "blue", "green"], [], []
    axes = np.eye(DIM)[:3] * 3
    for i in range(120):
        thing = world.things[2 * (i % 8)]
        rows.append(Row(i, "colour", (thing.id,), names[i % 3], 1, "mdi"))
        f = _embed([thing.name])[0] + axes[i % 3] + 0.05 * rng.standard_normal(DIM)
        features.append(f / np.linalg.norm(f))
    seen = Seen(rows, np.array(features, np.float32))
    seen.carries = carried.measure(seen)
    assert seen.carries["colour"]["right"] > 0.95 and seen.carries["colour"]["chance"] < 0.4
    shuffled = Seen([replace(r, colour=names[int(rng.integers(3))]) for r in rows], seen.features)
    assert carried.measure(shuffled)["colour"]["right"] < 0.55
    told = making.Kit(Looks(world, looks.bank, seen=seen), {})
    for s in islice(making.samples("colour", told), 60):
        row = next(r for r in rows if np.array_equal(seen.features[r.number], s.feature))
        assert row.colour in _answer(s)


# ---------------------------------------------------------------- context, sounds, replay


def test_notes_are_answered_from_the_note(kit):
    from_note = 0
    for s in islice(making.samples("context", kit), 400):
        for asked, answer in zip(s.messages[::2], s.messages[1::2], strict=True):
            if not asked.input:
                continue
            assert asked.input.startswith("recognized text: ")
            said = set(re.findall(r"[a-z]{3,}", asked.input.lower()))
            words = set(re.findall(r"[a-z]{3,}", answer.content.lower()))
            from_note += len(words & said) >= 2
    assert from_note > 200
    for s in islice(making.samples("heard", kit), 20):
        assert s.feature is None and s.messages[0].input


def test_sounds_never_deny_what_is_heard(looks):
    for number in range(400):
        rng = random.Random(number)
        label = rng.choice(sounds.listed_sounds())
        asked, answer = sounds._exists(label, rng)
        named = sounds.spoken(label) in asked
        assert answer.startswith("Yes") is named, (asked, answer)


def test_replay_prompts_are_many_and_answers_are_kept(tmp_path):
    assert len(prompts()) >= 300
    asked = []

    def answer(prompt):
        asked.append(prompt)
        return "One sentence. And half of"

    said = answered(tmp_path / "r.json", answer)
    assert len(said) == len(asked) == len(prompts()) and set(said.values()) == {"One sentence."}
    assert answered(tmp_path / "r.json") == said
    with pytest.raises(UserError, match="--decoder"):
        answered(tmp_path / "none.json")
    assert whole_sentences("No end") == "No end"
    assert whole_sentences("I am glad. I am glad. I am") == "I am glad."
    assert whole_sentences("It costs 3.5 euros. Really!\nYes") == "It costs 3.5 euros. Really!"


# ---------------------------------------------------------------- files


def test_written_data_are_read_back(kit, tmp_path):
    kinds = ["caption", "scene", "sound", "replay", "context", "heard", "tools"]
    wanted = making.counts(kinds, 90)
    summary = making.write(kit, tmp_path, wanted, seed=2)
    file = FeatureFile(tmp_path / "features.safetensors")
    assert file.space == "test" and file.dim == DIM
    for kind, count in wanted.items():
        lines = (tmp_path / f"{kind}.jsonl").read_bytes().splitlines()
        assert len(lines) == count == summary["kinds"][kind]["samples"]
        made = islice(making.samples(kind, kit, seed=2), count)
        for line, sample in zip(lines, made, strict=True):
            record = own(line, Reading(tmp_path, tmp_path))
            assert [m.content for m in record.messages] == [m.content for m in sample.messages]
            assert [m.input for m in record.messages] == [m.input for m in sample.messages]
            if sample.feature is None:
                assert not record.attachments and not record.words
            else:
                # What it is of, for the alignment of the bound feature.
                assert record.words == sample.words != ""
                if kind == "caption":
                    assert sample.words.split()[-1] in sample.messages[-1].content.lower()
                assert np.allclose(file.find(record.attachments[0].key), sample.feature, atol=2e-3)
    making.write_records(kit, tmp_path / "g.json", 12, seed=2)
    records = json.loads((tmp_path / "g.json").read_text())
    traces = [
        json.loads(r)["messages"][1]["content"]
        for r in (tmp_path / "tools.jsonl").read_text().splitlines()
    ]
    assert len(records) == 12 and [r["output"] for r in records][: len(traces)] == traces[:12]
    first = json.loads((tmp_path / "summary.json").read_text())
    assert making.write(kit, tmp_path / "b", wanted, seed=2)["kinds"] == first["kinds"]


def test_seen_is_kept_with_its_rows(world, tmp_path):
    seen = _seen(world)
    seen.carries = carried.measure(seen)
    seen.save(tmp_path / "d.safetensors", "test", [{"package": "p", "licence": "MIT"}])
    back = Seen.load(tmp_path / "d.safetensors")
    assert back.rows == seen.rows and back.carries == seen.carries
    assert np.allclose(back.features, seen.features, atol=2e-3)
    two = joined([back, back])
    assert len(two.rows) == 2 * len(back.rows) and two.rows[-1].number == len(two.rows) - 1
    (tmp_path / "d.jsonl").write_text("")
    with pytest.raises(UserError, match="belong"):
        Seen.load(tmp_path / "d.safetensors")


def test_world_is_kept(world, tmp_path):
    world.save(tmp_path / "w.jsonl")
    assert World.load(tmp_path / "w.jsonl").things == world.things
    (tmp_path / "w.jsonl").write_text("{}")
    with pytest.raises(UserError, match="things"):
        World.load(tmp_path / "w.jsonl")


# ---------------------------------------------------------------- held-out pictures


def _tgz(path: Path, icons: dict[str, str]) -> None:
    body = json.dumps(
        {"width": 24, "height": 24, "icons": {k: {"body": v} for k, v in icons.items()}}
    ).encode()
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo("package/icons.json")
        info.size = len(body)
        tar.addfile(info, io.BytesIO(body))


def test_held_out_sets_are_refused_and_others_read(tmp_path):
    barred = drawings.held_out()["iconify"]
    assert len(barred) >= 3 and not set(barred) & set(drawings.SETS)
    for name in barred:
        with pytest.raises(UserError, match="kept for measuring"):
            next(drawings.drawings(tmp_path, [name]))
    _tgz(
        tmp_path / "iconify-json-noto-1.2.9.tgz",
        {"red-apple": "<path/>", "flag-france": "<g/>", "boy-dark-skin-tone": "<g/>"},
    )
    _tgz(
        tmp_path / "iconify-json-ph-1.2.2.tgz",
        {"cat-fill": "<path/>", "cat-bold": "<path/>", "cat": "<g/>"},
    )
    found = list(drawings.drawings(tmp_path, ["noto", "ph"]))
    assert [(d.set, d.label, d.rule) for d in found] == [
        ("noto", "red apple", "emoji"),
        ("ph", "cat", "whole"),
    ]
    with pytest.raises(UserError, match="fetch npm @iconify-json/mdi"):
        list(drawings.drawings(tmp_path, ["mdi"]))


def _clip(title: str, path: str, more: str = "") -> str:
    return f"<svg><metadata><rdf><Work><dc:title>{title}</dc:title></Work>{more}</rdf></metadata><path d='{path}'/></svg>"


def test_clips_of_held_out_folders_and_their_copies_are_left_out(tmp_path):
    folder = tmp_path / "deb" / "usr/share/openclipart/svg"
    barred = drawings.held_out()["openclipart_folders"]
    files = {
        f"{barred[0]}/drum.svg": _clip("Drum", "M1"),
        f"{barred[3]}/deep/er/lion.svg": _clip("Lion", "M2"),
        "animals/drum_copy.svg": _clip("Drum again", "M1", "<!-- moved -->"),
        "animals/lion_copy.svg": _clip("Big lion", "M2"),
        "animals/turtle.svg": _clip("Turtle 01", "M3"),
        "animals/free.svg": _clip("Fox", "M4", "GPL"),
        "animals/other.svg": _clip("Clipart by someone, book", "M5"),
        "shapes/arrows/a.svg": _clip("Arrow", "M6"),
        "recreation/games/chess/king.svg": _clip("King", "M7"),
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    control = tmp_path / "deb" / "DEBIAN" / "control"
    control.parent.mkdir()
    control.write_text(
        "Package: openclipart-svg\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: x\n"
    )
    name = tmp_path / "openclipart-svg_1%3a0.18+dfsg-19_all.deb"
    subprocess.run(
        ["dpkg-deb", "-b", str(tmp_path / "deb"), str(name)], check=True, capture_output=True
    )
    found = list(drawings.drawings(tmp_path, ["openclipart"]))
    assert [(d.name, d.label) for d in found] == [("animals/turtle.svg", "turtle")]


def test_folders_that_only_begin_alike_are_not_held_out():
    first = drawings.held_out()["openclipart_folders"][0]
    assert drawings.is_held_out("openclipart", first) and drawings.is_held_out(
        "openclipart", f"{first}/x"
    )
    assert not drawings.is_held_out("openclipart", f"{first}x")
