"""Every format of training data, through `open_sources`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anybind.contracts import Message
from anybind.core_model.training.samples import Span, TrainingSample, spoken
from anybind.errors import UserError
from tests.core_model.training_files import (
    DIM,
    maker,
    npy,
    picture,
    png,
    read,
    talk,
    tar,
    write,
)


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYBIND_HOME", str(tmp_path / "home"))


# ---------------------------------------------------------------- one format after the other


def test_tsv(tmp_path: Path) -> None:
    picture(tmp_path / "pictures/red.png")
    blue = picture(tmp_path / "elsewhere/blue.png", (0, 0, 250))
    (tmp_path / "d.tsv").write_text(
        "url\tcaption\n"
        "red.png\tA red square\r\n"
        "\n"
        f'{blue}\t"A ""blue"" square"\n'
        'red.png\t"Hello" she said\n'
        "gone.png\tNothing\n"
        "http://example.org/a.png\tA picture of the web\n"
        "red.png\ttoo\tmany\n"
        "red.png\t  \n",
        encoding="utf-8",
    )
    told: list[str] = []
    found = read(tmp_path, told, format="tsv", path="d.tsv", images="pictures")
    assert [s.messages[-1].content for s in found] == [
        "A red square", 'A "blue" square', '"Hello" she said',
    ]  # fmt: skip
    assert found[0].messages[0] == Message("user", "Generate caption of this image")
    assert found[0].feature is not None and found[1].feature is not None
    assert found[0].feature.argmax() == 0 and found[1].feature.argmax() == 2
    assert np.isclose(np.linalg.norm(found[0].feature), 1)
    assert found[1].key == "d.tsv, line 4" and found[0].source == "d.tsv"
    # Formats are told when they are read, pictures when they are embedded.
    assert sorted(told) == sorted(
        [
            f"d.tsv, line 6: gone.png: There is no file {tmp_path}/pictures/gone.png. (left out)",
            "d.tsv, line 7: http://example.org/a.png is a URL: nothing is fetched, give the path of "
            "a file (left out)",
            "d.tsv, line 8: 3 columns; there must be two, `url` and `caption` (left out)",
            "d.tsv, line 9: caption is empty (left out)",
        ]
    )


def test_captions_answer_the_prompts_of_their_language(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "d.tsv").write_text("url\tcaption\n" + "a.png\tx\n" * 40, encoding="utf-8")
    chinese = read(tmp_path, format="tsv", path="d.tsv", language="zh")
    assert {s.messages[0].content for s in chinese} == {"生成这张图片的描述"}
    asked = [
        s.messages[0].content
        for s in read(tmp_path, format="tsv", path="d.tsv", prompts=["Say it.", "What is it?"])
    ]
    assert set(asked) == {"Say it.", "What is it?"} and 8 < asked.count("Say it.") < 32


def test_alpaca(tmp_path: Path) -> None:
    records = [
        {"instruction": "Add.", "input": "1 2", "output": "3"},
        {"instruction": "Say hi.", "input": "", "output": " hi\n"},
        {"instruction": "Rest.", "input": "<noinput>", "output": "ok"},
        {"instruction": "你好吗？", "output": "很好。"},
        {"instruction": "No answer.", "input": "", "output": ""},
        {"instruction": ["a", "list"], "output": "x"},
        "no object",
        {"instruction": "half \ud83d", "output": "x"},
    ]
    (tmp_path / "a.json").write_text(json.dumps(records))  # lone surrogates as escapes
    told: list[str] = []
    found = read(tmp_path, told, format="alpaca", path="a.json")
    assert found[0].messages == (Message("user", "Add.", input="1 2"), Message("assistant", "3"))
    assert [talk(s)[1][1] for s in found] == ["3", "hi", "ok", "很好。"]
    assert all(m.input == "" for s in found[1:] for m in s.messages)
    assert all(s.feature is None for s in found)
    assert told == [
        "a.json, record 5: output is empty (left out)",
        "a.json, record 6: instruction is a list (left out)",
        "a.json, record 7: a record is an object, not a text (left out)",
        "a.json, record 8: instruction holds half a character (a lone surrogate) (left out)",
    ]
    # The same, one record a line.
    lines = "".join(json.dumps(r) + "\n" for r in records[:3])
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
    assert [s.messages for s in read(tmp_path, format="alpaca", path="a.jsonl")] == [
        s.messages for s in found[:3]
    ]


def turn(who: str, value: str) -> dict[str, str]:
    return {"from": who, "value": value}


def test_llava_all_turns_and_the_placeholder(tmp_path: Path) -> None:
    picture(tmp_path / "coco/1.png")
    picture(tmp_path / "coco/2.png", (0, 0, 255))
    write(
        tmp_path / "l.json",
        [
            {
                "id": "1", "image": "1.png",
                "conversations": [
                    turn("human", "<image>\nWhat is it?"), turn("gpt", "A square."),
                    turn("human", "Of what colour?"), turn("gpt", "Red. Not an <image>."),
                ],
            },
            {"image": "1.png",
             "conversations": [turn("human", "Look at\n<image>\nclosely."), turn("gpt", "Yes.")]},
            {"image": ["1.png", "2.png"],
             "conversations": [turn("human", "<image>\n<image>\nBoth?"), turn("gpt", "Yes.")]},
            {"conversations": [turn("human", "Just words?"), turn("gpt", "Yes.")]},
            {"conversations": [turn("human", "<image>\nWhat?"), turn("gpt", "No picture!")]},
            {"image": "1.png", "conversations": [turn("human", "<image>"), turn("gpt", "x")]},
            {"image": "1.png", "conversations": [turn("human", "a"), turn("human", "b"), turn("gpt", "c")]},
            {"image": 7, "conversations": [turn("human", "a"), turn("gpt", "c")]},
        ],
    )  # fmt: skip
    told: list[str] = []
    found = read(tmp_path, told, format="llava", path="l.json", images="coco")
    assert talk(found[0]) == [
        ("user", "What is it?"), ("assistant", "A square."),
        ("user", "Of what colour?"), ("assistant", "Red. Not an <image>."),
    ]  # fmt: skip
    assert talk(found[1])[0] == ("user", "Look at\nclosely.")
    assert talk(found[2])[0] == ("user", "Both?")
    red, both, words = found[0].feature, found[2].feature, found[3].feature
    assert words is None and red is not None and both is not None
    # Several pictures are mixed as at run time, which leaves the mix shorter than 1.
    blue = maker().make([_attached(tmp_path / "coco/2.png")])[0]
    assert isinstance(blue, np.ndarray)
    assert np.allclose(both, (red + blue) / (2 + 1e-6), atol=1e-6)
    assert len(told) == 4 and [line.split(":")[0] for line in told] == [
        f"l.json, record {n}" for n in (5, 6, 7, 8)
    ]


def _attached(path: Path) -> Any:
    from anybind.core_model.training.data.records import Attachment

    return Attachment(path.name, str(path))


def test_sharegpt(tmp_path: Path) -> None:
    write(
        tmp_path / "s.json",
        [
            {"id": "a", "conversations": [
                turn("system", "Be kind."), turn("gpt", "Welcome."), turn("human", "Hi"),
                turn("chatgpt", "Hello"), turn("user", "And?"), turn("bing", "Well."),
                turn("human", "unanswered"),
            ]},
            {"conversations": [turn("human", "q"), turn("narrator", "x")]},
            {"conversations": [turn("human", "nobody answers")]},
            {"conversations": None},
            {"items": [turn("human", "q"), turn("gpt", "a")]},
        ],
    )  # fmt: skip
    told: list[str] = []
    found = read(tmp_path, told, format="sharegpt", path="s.json", system="You are a parrot.")
    assert talk(found[0]) == [
        ("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello"), ("user", "And?"),
        ("assistant", "Well."),
    ]  # fmt: skip
    assert talk(found[1])[0] == ("system", "You are a parrot.")
    assert len(told) == 3 and "'narrator'" in told[0]


def test_minigpt4(tmp_path: Path) -> None:
    picture(tmp_path / "image/2.png").rename(tmp_path / "image/2.jpg")
    records = [{"image_id": "2", "caption": "A red field."}, {"image_id": "9", "caption": "Gone."}]
    write(tmp_path / "f.json", {"info": {"annotations": [1]}, "annotations": records})
    told: list[str] = []
    found = read(tmp_path, told, format="minigpt4", path="f.json", images="image")
    assert talk(found[0])[1] == ("assistant", "A red field.") and found[0].feature is not None
    assert len(found) == 1 and "9.jpg" in told[0]
    write(tmp_path / "plain.json", records)
    assert len(read(tmp_path, [], format="minigpt4", path="plain.json", images="image")) == 1


PROMPT = (
    "GPT4Tools ...\n```\nThought: Do I need to use a tool? Yes\nAction: the action to take\n"
    "Action Input: the input\nObservation: the result\n```\nNew input: find the cat\nThink.\n"
)
CALL = "Thought: Do I need to use a tool? Yes\nAction: {}\nAction Input: {}"
END = "Thought: Do I need to use a tool? No\nAI: Result saved as image/b.png"


def test_gpt4tools_learns_calls_and_no_observations(tmp_path: Path) -> None:
    first, second = CALL.format("Detect", "image/a.png, cat"), CALL.format("Remove", "image/b.png")
    trace = (
        f"{first}\nObservation: image/b.png\n{second}\nObservation:\nResult saved as\n c.png\n{END}"
    )
    begun = f"{first}\nObservation: image/b.png\n"
    write(
        tmp_path / "g.json",
        [
            {"instruction": PROMPT, "input": "", "output": trace, "id": 3},
            {"instruction": PROMPT, "input": "", "output": f"{first}\nObservation:"},
            {"instruction": PROMPT + begun, "input": "", "output": END},
            {"instruction": PROMPT, "input": "", "output": END},
        ],
    )
    whole, stopped, resumed, none = read(tmp_path, format="gpt4tools", path="g.json")
    assert said(whole) == [
        f"{first}\nObservation:", f"{second}\nObservation:", END,
    ]  # fmt: skip
    assert whole.messages[1].content == trace
    assert said(stopped) == [f"{first}\nObservation:"] and said(none) == [END]
    # A trace in the prompt is where a reply goes on from at run time.
    assert resumed.messages == (
        Message("user", PROMPT.strip()), Message("assistant", begun + END),
    )  # fmt: skip
    assert said(resumed) == [END]


def said(sample: TrainingSample) -> list[str]:
    content = sample.messages[-1].content
    last = len(sample.messages) - 1
    return [content[a:b] for a, b in spoken(content, last, sample.muted)]


def test_own_format(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    ask, answer = (
        {"role": "user", "content": "q", "input": "ctx"},
        {"role": "assistant", "content": "  one two "},
    )
    good = [
        {"messages": [ask, answer], "attachments": ["a.png"], "words": " cat, dog", "id": "x"},
        {"messages": [ask, {**answer, "learn": False}, ask, answer], "attachments": [{"path": "a.png", "weight": 0.5}]},
        {"messages": [ask, {**answer, "mute": [[0, 6]]}], "feature": [0.0, 3.0, 4.0, 0, 0, 0, 0, 0]},
        {"messages": [{"role": "system", "content": "s"}, ask, answer]},
    ]  # fmt: skip
    bad = [
        {"messages": [ask, answer], "attachements": ["a.png"]},
        {"messages": [ask, {**answer, "mute": [[3, 100]]}]},
        {"messages": [{**ask, "learn": True, "mute": [[0, 1]]}, answer]},
        {"messages": [ask, answer], "feature": [0.0] * DIM},
        {"messages": [ask, answer], "feature": [True] * DIM},
        {"messages": [ask, answer], "feature": [1e400] * DIM},
        {"messages": [ask, answer], "attachments": [{"path": "a.png", "weight": -1}]},
        {"messages": [answer, ask]},
        {"messages": [ask, answer, {"role": "system", "content": "late"}]},
        {"messages": []},
        {"messages": [ask, answer], "words": ["cat"]},
    ]
    lines = [json.dumps(r) for r in good] + ["", "{", *(json.dumps(r) for r in bad)]
    (tmp_path / "o.jsonl").write_text("\n".join(lines), encoding="utf-8")
    told: list[str] = []
    found = read(tmp_path, told, format="jsonl", path="o.jsonl", bad_share=1)
    assert [s.key for s in found] == [f"o.jsonl, line {n}" for n in (1, 2, 3, 4)]
    assert found[0].messages[0].input == "ctx" and said(found[0]) == ["  one two "]  # as written
    assert found[1].muted == (Span(1, 0, 10),) and said(found[1]) == ["  one two "]
    assert said(found[2]) == ["two "]
    assert found[2].feature is not None
    assert np.allclose(found[2].feature[:4], [0, 0.6, 0.8, 0])
    assert found[3].messages[0].role == "system" and found[3].feature is None
    numbers = [int(line.split("line ")[1].split(":")[0]) for line in told]
    assert numbers == [6, *range(7, 18)]
    assert [s.words for s in found] == ["cat, dog", "", "", ""]


def test_webdataset(tmp_path: Path) -> None:
    long = "x" * 150  # needs a header of its own
    own = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    tar(
        tmp_path / "00.tar",
        [
            ("a/1.png", png()), ("a/1.txt", "ein Rotes ü".encode()), ("a/1.cls", b"7"),
            (f"{long}.png", png((0, 0, 255))), (f"{long}.json", b'{"caption": "blue", "url": "u"}'),
            ("3.npy", npy(np.eye(DIM, dtype=np.float16)[2:3] * 5)), ("3.txt", b"an embedding"),
            ("4.png", png()), ("4.json", json.dumps(own).encode()),
            ("5.json", json.dumps(own).encode()),
        ],
    )  # fmt: skip
    tar(
        tmp_path / "01.tar",
        [
            ("1.png", b"\x89PNG\r\n\x1a\nbroken"), ("1.txt", b"x"),
            ("2.png", png()),
            ("3.txt", b"no picture"),
            ("4.npy", npy(np.zeros(DIM, np.float32))), ("4.txt", b"x"),
            ("5.npy", npy(np.ones(DIM, np.float32))[:-3]), ("5.txt", b"x"),
            ("6.npy", b"\x93NUMPY nonsense"), ("6.txt", b"x"),
            ("7.png", png()), ("7.txt", b"the last one"),
        ],
    )  # fmt: skip
    told: list[str] = []
    found = read(tmp_path, told, format="webdataset", path=".", bad_share=1)
    assert [s.messages[-1].content for s in found] == [
        "ein Rotes ü", "blue", "an embedding", "a", "a", "the last one",
    ]  # fmt: skip
    assert found[1].feature is not None and found[1].feature.argmax() == 2
    assert found[2].feature is not None and np.array_equal(found[2].feature, np.eye(DIM)[2])
    assert found[3].feature is not None and found[4].feature is None
    assert sorted(line.split(":")[0] for line in told) == [
        f"01.tar, sample {n}" for n in (1, 2, 3, 4, 5, 6)
    ]


def test_rows_of_embeddings_with_texts(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    rows = np.eye(DIM, dtype=np.float32)[:3]
    about = {"labels": json.dumps(["cat", "", "dog"]), "space": "colours"}
    save_file({"embeddings": rows}, tmp_path / "e.safetensors", about)
    told: list[str] = []
    found = read(tmp_path, told, format="features", path="e.safetensors", prompts="What?")
    assert [talk(s) for s in found] == [
        [("user", "What?"), ("assistant", "cat")], [("user", "What?"), ("assistant", "dog")],
    ]  # fmt: skip
    assert np.array_equal(found[1].feature, rows[2]) and "row 2" in told[0]
    save_file({"embeddings": rows}, tmp_path / "e.safetensors", {**about, "space": "other"})
    with pytest.raises(UserError, match="other"):
        read(tmp_path, format="features", path="e.safetensors")
