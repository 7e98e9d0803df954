"""Damaged files of training data, limits of bad records, and configs that can't be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from anybind.core_model.training.data import open_sources
from anybind.core_model.training.data.config import read_data_config
from anybind.errors import UserError
from tests.core_model.training_files import (
    mixer,
    png,
    read,
    talk,
    tar,
)


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYBIND_HOME", str(tmp_path / "home"))


def test_a_cut_or_spoilt_shard_loses_what_is_damaged_only(tmp_path: Path) -> None:
    members = [(f"{n}.{s}", png() if s == "png" else b"cap") for n in range(5) for s in ("png", "txt")]  # fmt: skip
    tar(tmp_path / "d.tar", members)
    whole = (tmp_path / "d.tar").read_bytes()
    third = whole.index(b"3.png\0")
    told: list[str] = []
    (tmp_path / "d.tar").write_bytes(whole[: third + 700])
    assert len(read(tmp_path, told, format="webdataset", path="d.tar")) == 3
    assert len(told) == 1 and told[0].startswith("d.tar, sample 4:")
    told.clear()
    spoilt = bytearray(whole)
    spoilt[third + 10 : third + 200] = b"\xff" * 190
    (tmp_path / "d.tar").write_bytes(bytes(spoilt))
    assert len(read(tmp_path, told, format="webdataset", path="d.tar")) == 3
    assert len(told) == 1 and "no sound tar" in told[0]


# ---------------------------------------------------------------- damage and limits


def test_damaged_lists_lose_what_is_damaged_only(tmp_path: Path) -> None:
    good = json.dumps({"instruction": 'q "} ],[{ \\', "output": "a"})
    file = tmp_path / "a.json"
    for text, count, bad in [
        (f"[{good},{good},{good[:20]}", 2, 1),  # cut in a text
        (f"[{good},{good}", 2, 0),  # the closing bracket is missing: both are whole
        (f"[{good},,{good}]", 2, 1),
        (f"[{good},{good},]", 2, 0),
        (f"[{good} {good}, {good}]", 1, 1),
        (f'[{good}, {{"a": ]}}, {good}]', 2, 1),
        (f"\ufeff [{good}] trailing", 1, 0),
    ]:
        told: list[str] = []
        file.write_text(text, encoding="utf-8")
        found = read(tmp_path, told, format="alpaca", path="a.json")
        assert (len(found), len(told)) == (count, bad), text
        assert ("could not be told apart" in "".join(told)) == text.endswith(good[:20])
        assert all(talk(s) == [("user", 'q "} ],[{ \\'), ("assistant", "a")] for s in found)
    for text in ("", "{}", "null", '{"a": 1}\n'):
        file.write_text(text)
        with pytest.raises(UserError, match=r"a\.json"):
            read(tmp_path, format="alpaca", path="a.json")


def lines(path: Path, good: int, bad: int) -> None:
    entry = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    path.write_text("oops\n" * bad + (json.dumps(entry) + "\n") * good, encoding="utf-8")


def test_bad_records_are_counted_up_to_a_limit(tmp_path: Path) -> None:
    lines(tmp_path / "o.jsonl", 380, 19)
    told: list[str] = []
    mix = mixer(tmp_path, told, format="jsonl", path="o.jsonl", shuffle="full")
    assert len(list(mix)) == 380
    summary = mix.summary()[0]
    assert summary["bad"] == 19 and summary["read"] == 399 and len(summary["examples"]) == 19
    assert len(told) == 19
    lines(tmp_path / "o.jsonl", 300, 60)
    with pytest.raises(UserError, match=r"more than the 5 % allowed.*line \d+: no JSON.*bad_limit"):
        read(tmp_path, format="jsonl", path="o.jsonl", shuffle="full")
    with pytest.raises(UserError, match="more than the 30 allowed"):
        read(tmp_path, format="jsonl", path="o.jsonl", bad_share=1, bad_limit=30)
    assert len(read(tmp_path, [], format="jsonl", path="o.jsonl", bad_share=1)) == 300
    # Few records: no share to speak of, but none at all that is good is an error.
    lines(tmp_path / "o.jsonl", 1, 5)
    assert len(read(tmp_path, [], format="jsonl", path="o.jsonl")) == 1
    lines(tmp_path / "o.jsonl", 0, 5)
    with pytest.raises(UserError, match="none of its 5 records"):
        read(tmp_path, format="jsonl", path="o.jsonl")


def test_a_log_of_bad_records_ends(tmp_path: Path) -> None:
    lines(tmp_path / "o.jsonl", 10, 50)
    told: list[str] = []
    read(tmp_path, told, format="jsonl", path="o.jsonl", bad_share=1)
    assert len(told) == 21 and "counted, not told" in told[-1]


def test_pictures_need_an_encoder_or_features(tmp_path: Path) -> None:
    (tmp_path / "d.tsv").write_text("url\tcaption\na.png\tx\n")
    config = read_data_config({"sources": [{"format": "tsv", "path": "d.tsv"}]}, tmp_path)
    with pytest.raises(UserError, match="anybind embed --dataset"):
        next(open_sources(config))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"sources": []}, "sources"),
        ({"sources": [{"format": "csv", "path": "a"}]}, "sources.0.format"),
        ({"sources": [{"format": "tsv"}]}, "sources.0.path"),
        ({"sources": [{"format": "tsv", "path": "a", "wieght": 1}]}, "wieght"),
        ({"sources": [{"format": "alpaca", "path": "a", "features": "f"}]}, "features"),
        ({"sources": [{"format": "alpaca", "path": "a", "prompts": "f"}]}, "prompts"),
        ({"sources": [{"format": "tsv", "path": "a", "weight": 0}]}, "weight"),
        ({"sources": [{"format": "tsv", "path": "a"}] * 2}, "name"),
        (
            {"sources": [{"format": "tsv", "path": "a", "weight": 1}, {"format": "tsv", "path": "b"}]},
            "weight",
        ),
        ({"sources": [{"format": "tsv", "path": "a"}], "seed": -1}, "seed"),
        ([], "data"),
    ],
)  # fmt: skip
def test_a_config_is_checked(tmp_path: Path, data: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_data_config(data, tmp_path)


def test_files_that_are_not_there_or_packed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no file"):
        read(tmp_path, format="jsonl", path="no.jsonl")
    with pytest.raises(UserError, match="There is no file"):
        read(tmp_path, format="jsonl", path="no*.jsonl")
    (tmp_path / "a.json.gz").write_bytes(b"x")
    with pytest.raises(UserError, match="unpack"):
        read(tmp_path, format="alpaca", path="a.json.gz")
