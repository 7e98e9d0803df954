"""Hostile and damaged files of training data: samples or our own errors, nothing else, and nothing
lost without a word."""

from __future__ import annotations

import io
import json
import os
import random
import tarfile
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from anybind.core_model.training.data import open_sources
from anybind.core_model.training.data.config import read_data_config
from anybind.core_model.training.data.offsets import scan_list
from anybind.core_model.training.samples import TrainingSample
from anybind.errors import UserError

JSON_FORMATS = ("alpaca", "llava", "sharegpt", "minigpt4", "gpt4tools")
FAST = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYBIND_HOME", str(tmp_path / "home"))


def gone_through(path: Path, form: str) -> tuple[list[TrainingSample], int, int]:
    """Samples, records read and bad ones of a file."""
    source = {"format": form, "path": path.name, "bad_share": 1, "bad_limit": 10**6}
    config = read_data_config({"sources": [source], "epochs": 1}, path.parent)
    from anybind.core_model.training.data import FeatureMaker

    class Blind:
        def encode(self, parts: Any) -> Any:
            return type("Made", (), {"unit": np.ones((len(parts), 4), np.float32) / 2})

    maker = FeatureMaker(lambda kind: Blind(), "s", 4)  # pyright: ignore
    mix = open_sources(config, maker=maker, report=lambda line: None)
    samples = list(mix)
    for sample in samples:
        assert sample.messages[-1].role == "assistant"
        assert all(m.content and m.content.encode() for m in sample.messages)
        assert all(
            0 <= s.start < s.end <= len(sample.messages[s.message].content) for s in sample.muted
        )
    summary = mix.summary()[0]
    assert len(samples) + summary["bad"] == summary["read"] == summary["records"]
    return samples, summary["read"], summary["bad"]


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from(["<image>", "a\nObservation: b", "\ud800", "human", "gpt", "user", "assistant", "x.png", "depth:x.png", "http://x"]),
)  # fmt: skip
KEYS = st.sampled_from(
    ["instruction", "input", "output", "image", "conversations", "from", "value", "image_id", "caption",
     "messages", "role", "content", "attachments", "feature", "mute", "learn", "path", "weight", "x"]
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=5)),
    max_leaves=14,
)


TALK = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
ASKED = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
FINE: dict[str, dict[str, Any]] = {
    "alpaca": {"instruction": "q", "output": "a"},
    "llava": {"conversations": TALK},
    "sharegpt": {"conversations": TALK},
    "minigpt4": {"image_id": "x", "caption": "a"},
    "gpt4tools": {"instruction": "q", "output": "a"},
    "jsonl": {"messages": ASKED},
}
"""A record of each format that can be used, so that a file is never all bad."""


@FAST
@given(
    st.lists(st.dictionaries(KEYS, VALUES, max_size=5), max_size=4), st.sampled_from(JSON_FORMATS)
)
def test_any_records_in_a_list(tmp_path: Path, records: list[Any], form: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([*records, FINE[form]]))
    Image.new("RGB", (40, 40)).save(tmp_path / "x.jpg")
    samples, read, _ = gone_through(path, form)
    assert samples and read == len(records) + 1


@FAST
@given(st.lists(st.dictionaries(KEYS, VALUES, max_size=5), max_size=4))
def test_any_records_in_lines(tmp_path: Path, records: list[Any]) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps(r) for r in [*records, FINE["jsonl"]]))
    samples, read, _ = gone_through(path, "jsonl")
    assert samples and read == len(records) + 1


@FAST
@given(
    st.binary(max_size=200),
    st.sampled_from([*JSON_FORMATS, "jsonl", "tsv", "webdataset", "features"]),
)
@example(b"[" * 200, "alpaca")
@example(b'["\\', "alpaca")
@example(b'[{"a":"\\u0000"}', "llava")
@example(b"\xff\xfe", "jsonl")
@example(b"\0" * 200, "webdataset")
def test_any_bytes(tmp_path: Path, data: bytes, form: str) -> None:
    suffix = {"tsv": "tsv", "webdataset": "tar", "jsonl": "jsonl", "features": "safetensors"}
    path = tmp_path / f"a.{suffix.get(form, 'json')}"
    path.write_bytes(data)
    from anybind.errors import AnybindError

    try:
        gone_through(path, form)
    except AnybindError:
        pass


GOOD = [
    {"instruction": 'say "hi" [now], {you}', "input": "", "output": f"tab\t line\n {{{i}}} \\"}
    for i in range(12)
]


@FAST
@given(st.integers(0, 10**6), st.integers(1, 8), st.integers(0, 3))
def test_damage_in_a_list_is_counted(tmp_path: Path, seed: int, hits: int, kind: int) -> None:
    """Single bytes spoilt, cut out, put in, or the end cut off: never a sample that nobody wrote."""
    rng = random.Random(seed)
    data = bytearray(json.dumps(GOOD).encode())
    for _ in range(hits):
        at = rng.randrange(1, len(data))
        if kind == 0:
            data[at] = rng.randrange(256)
        elif kind == 1:
            del data[at]
        elif kind == 2:
            data.insert(at, rng.choice(b'"\\[]{},'))
        else:
            del data[at:]
        if len(data) < 2:
            return
    path = tmp_path / "a.json"
    path.write_bytes(bytes(data))
    try:
        samples, read, bad = gone_through(path, "alpaca")
    except UserError:
        return
    if kind == 3:
        whole = {g["output"].strip() for g in GOOD}
        assert {s.messages[-1].content for s in samples} <= whole
        assert len(samples) == read - bad and (bad == 1 or len(samples) == len(GOOD) or bytes(data).endswith(b"}"))  # fmt: skip


def shard(path: Path) -> bytes:
    with tarfile.open(path, "w") as out:
        for i in range(6):
            for suffix, data in (("npy", _npy()), ("txt", f"caption {i}".encode())):
                info = tarfile.TarInfo(f"{'d' * 120 if i == 3 else 'd'}/{i}.{suffix}")
                info.size = len(data)
                out.addfile(info, io.BytesIO(data))
    return path.read_bytes()


def _npy() -> bytes:
    sink = io.BytesIO()
    np.save(sink, np.ones(4, np.float32))
    return sink.getvalue()


@FAST
@given(st.integers(0, 10**6), st.integers(1, 6), st.booleans())
def test_damage_in_a_shard(tmp_path: Path, seed: int, hits: int, cut: bool) -> None:
    rng = random.Random(seed)
    path = tmp_path / "a.tar"
    data = bytearray(shard(path))
    headers = [i for i in range(0, len(data), 512) if data[i : i + 1] in (b"d", b".")]
    for _ in range(hits):
        at = rng.choice(headers) + rng.randrange(512) if rng.random() < 0.7 else rng.randrange(len(data))  # fmt: skip
        data[at % len(data)] = rng.randrange(256)
    if cut:
        del data[rng.randrange(len(data)) :]
    path.write_bytes(bytes(data))
    try:
        samples, _, bad = gone_through(path, "webdataset")
    except UserError:
        return
    if cut and len(data) < 10 * 512:
        assert len(samples) < 6


def test_hostile_sizes_take_no_memory(tmp_path: Path) -> None:
    """A header may claim what it likes."""
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as out:
        for name, size in (("0.npy", 8 << 30), ("1.png", 1 << 40)):
            info = tarfile.TarInfo(name)
            info.size = size
            out.fileobj.write(info.tobuf())  # pyright: ignore
    huge = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(117) + b"\n"  # fmt: skip
    with tarfile.open(tmp_path / "b.tar", "w") as out:
        info = tarfile.TarInfo("0.npy")
        info.size = len(huge)
        out.addfile(info, io.BytesIO(huge))
    tracemalloc.start()
    for file in (path, tmp_path / "b.tar"):
        with pytest.raises(UserError):
            gone_through(file, "webdataset")
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()


def test_deep_and_unclosed_json_takes_no_time(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text in (
        "[" * 2_000_000,
        '[{"a":' * 200_000,
        '["' + "\\" * 2_000_000,
        '["' + 'a\\"' * 700_000,
        "[" + '"' * 1_000_001,
        "[" + "," * 300_000 + "]",
    ):
        path.write_text(text)
        began = time.perf_counter()
        found = scan_list(path)
        assert time.perf_counter() - began < 8, text[:20]
        assert len(found) and (found[:, 0] <= found[:, 1]).all()
    path.write_text("[" * 100_000)
    with pytest.raises(UserError, match="coded badly"):
        gone_through(path, "alpaca")


def test_offsets_agree_with_the_json_library(tmp_path: Path) -> None:
    rng = random.Random(0)

    def value(depth: int) -> Any:
        kind = rng.randrange(6 if depth else 4)
        if kind == 4:
            return [value(depth - 1) for _ in range(rng.randrange(4))]
        if kind == 5:
            return {value(0).__repr__(): value(depth - 1) for _ in range(rng.randrange(4))}
        return rng.choice([None, True, 1.5, -3, "", 'q"[]{},\\', "é\n", "\\\\"])

    path = tmp_path / "a.json"
    for _ in range(200):
        values = [value(3) for _ in range(rng.randrange(6))]
        text = json.dumps(values, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, 2]))
        path.write_text(text, encoding="utf-8")
        data = path.read_bytes()
        table = scan_list(path)
        assert [json.loads(data[a:b]) for a, b, _ in table] == values
        assert table[:, 2].tolist() == list(range(1, len(values) + 1))


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    line = json.dumps({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a" * 50}]})  # fmt: skip
    path.write_text((line + "\n") * 40)
    config = read_data_config(
        {"sources": [{"format": "jsonl", "path": "a.jsonl", "shuffle": "none", "bad_share": 1}], "epochs": 1},
        tmp_path,
    )  # fmt: skip
    told: list[str] = []
    mix = open_sources(config, report=told.append)
    next(mix)
    os.truncate(path, 10 * (len(line) + 1))
    assert len(list(mix)) == 9 and "line 11: the file has become shorter" in told[0]
