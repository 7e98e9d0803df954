"""Content, errors and optional imports."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest

from anybind import errors
from anybind.content import KINDS, Audio, Boxes, Embedding, Image, Lazy, Part, Text, Waveform
from anybind.optional import require


def test_a_lazy_value_is_made_once_and_on_demand() -> None:
    made: list[int] = []

    def make() -> int:
        made.append(1)
        return 7

    lazy = Lazy(make)
    assert "not decoded" in repr(lazy) and not made
    assert (lazy.get(), lazy.get(), made) == (7, 7, [1])
    assert "int" in repr(lazy)


def test_a_lazy_value_of_nothing_is_a_value() -> None:
    assert Lazy(value=None).get() is None
    for wrong in ({}, {"make": lambda: 1, "value": 1}):
        with pytest.raises(ValueError, match="Lazy"):
            Lazy(**wrong)


def test_a_failed_decoding_is_tried_again() -> None:
    answers = iter([OSError("busy"), 5])

    def make() -> int:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    lazy = Lazy(make)
    with pytest.raises(OSError, match="busy"):
        lazy.get()
    assert lazy.get() == 5


def test_a_part_is_a_value_with_a_kind_and_a_maker() -> None:
    part = Text.of("x", made_by="tool:T", sources=["a"])
    assert (part.kind, part.data, part.media_type) == ("text", "x", "text/plain")
    assert (part.provenance.made_by, part.provenance.sources) == ("tool:T", ("a",))
    named = part.named("text/1a2b3c4d.txt", "d", Path("/x"))
    assert (named.name, named.digest, named.path, named.data) == (
        "text/1a2b3c4d.txt", "d", Path("/x"), "x",
    )  # fmt: skip
    assert part.name == ""
    with pytest.raises(FrozenInstanceError):
        part.name = "other"  # type: ignore[misc]


def test_showing_a_part_does_not_decode_it() -> None:
    def fail() -> str:
        raise AssertionError("decoded")

    assert "text/plain" in repr(Text(lazy=Lazy(fail), media_type="text/plain"))


def test_every_kind_is_listed_under_its_name() -> None:
    assert all(issubclass(cls, Part) and cls.kind == kind for kind, cls in KINDS.items())
    assert {KINDS[k] for k in ("image", "audio", "text", "boxes")} == {Image, Audio, Text, Boxes}


def test_duration_and_embedding() -> None:
    assert Waveform(np.zeros((2, 4000), np.float32), 8000).seconds == 0.5
    assert Embedding.of(np.zeros(3, np.float32)).media_type == "application/x-safetensors"


# ---------------------------------------------------------------- errors


def test_one_root() -> None:
    family = [v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, Exception)]
    assert len(family) > 8 and all(issubclass(e, errors.AnybindError) for e in family)


def test_errors_survive_a_process_boundary() -> None:
    back = pickle.loads(pickle.dumps(errors.LimitExceeded("too long", {"text": "so far"})))
    assert (str(back), back.partial) == ("too long", {"text": "so far"})
    again = pickle.loads(pickle.dumps(errors.UserError("wrong")))
    assert str(again) == "wrong" and type(again) is errors.UserError


def test_a_missing_library_names_the_exact_command() -> None:
    with pytest.raises(errors.MissingExtra) as caught:
        require("no_such_library_at_all", "speech")
    assert 'pip install "anybind[speech]"' in str(caught.value)
    assert "no_such_library_at_all" in str(caught.value)
    assert require("json", "x").dumps([1]) == "[1]"
