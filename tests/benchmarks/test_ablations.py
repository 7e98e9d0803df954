"""The ablation study: equal data for all arms, gates as they say, resumable, drawn from its files."""

from __future__ import annotations

import copy
import importlib
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from anybind.core_model.training.data.features import write_features
from anybind.core_model.training.feed import Feed
from anybind.core_model.training.feeding import StageBatches
from anybind.errors import UserError
from tests.core_model.train_tiny import DIM, JOINT, LAYERS, write_base

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")
WORDS = ("cat", "dog", "harp", "boat", "pear", "lamp", "drum", "frog", "coat", "bell")


@pytest.fixture(scope="module", autouse=True)
def modules() -> Iterator[None]:
    """The scripts lie beside one another and import one another by name, as when they are run."""
    torch.set_num_threads(1)
    sys.path.insert(0, BENCHMARKS)
    yield
    sys.path.remove(BENCHMARKS)
    for name in [n for n in sys.modules if n.startswith("ablation")]:
        del sys.modules[name]


def module(name: str) -> Any:
    return importlib.import_module(name)


def vector(word: str, noise: int = 0) -> np.ndarray:
    rng = np.random.default_rng([WORDS.index(word), 7])
    row = rng.standard_normal(JOINT) + 0.05 * np.random.default_rng(noise).standard_normal(JOINT)
    return (row / np.linalg.norm(row)).astype(np.float32)


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("ablations")
    base = write_base(folder / "base")
    shape = json.loads((base / "config.json").read_text())
    # A token a letter: ChatML's own marks are most of a row.
    (base / "config.json").write_text(json.dumps(shape | {"max_position_embeddings": 256}))
    data = folder / "data"
    data.mkdir()
    rng = random.Random(0)
    lines: list[str] = []
    rows: list[np.ndarray] = []
    for i in range(400):
        word = rng.choice(WORDS)
        answer = rng.choice(["The picture shows a {}.", "This is a {}.", "{}."]).format(word)
        talk = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": answer}]
        lines.append(json.dumps({"id": f"c/{i}", "messages": talk, "attachments": [f"c/{i}"]}))
        rows.append(vector(word, i))
    (data / "caption.jsonl").write_text("\n".join(lines))
    (data / "rows").write_bytes(np.stack(rows).astype("<f2").tobytes())
    keys = [f"c/{i}" for i in range(400)]
    write_features(data / "features.safetensors", data / "rows", JOINT, keys, "tiny", {})

    def embed(texts: list[str]) -> np.ndarray:
        return np.stack([vector(t.split()[-1]) for t in texts])

    told: list[str] = []
    held = module("ablation_data").split(data, folder / "out", embed, each=12, say=told.append)
    assert len(told) == 3  # drawings, sounds, eye
    return module("ablation_runs").Setting(
        out=folder / "out", split=held, steps=3, tokens=256, rates=(1e-3, 1e-2), seeds=(0, 1),
        model={"decoder": str(base), "chat": "chatml", "space": "tiny"},
        sizes={"joint_dim": JOINT, "hidden_dim": 16, "n_blocks": 1}, precision="float32",
    )  # fmt: skip


def built(setting: Any, arm: str) -> Any:
    config = module("ablation_runs").stage(setting, arm, 0, 1e-3)
    return module("ablation_arms").build(module("ablation_arms").ARMS[arm], config)


def steps(setting: Any, arm: str, seed: int, count: int = 3) -> list[dict[str, Any]]:
    config = module("ablation_runs").stage(setting, arm, seed, 1e-3)
    batches = StageBatches(config, built(setting, arm))
    feed = Feed(batches, accumulation=1)
    taken = [feed.take() for _ in range(count)]
    batches.close()
    return [row for step in taken if step is not None for row in step.mine]


def features(count: int = 3) -> Tensor:
    return torch.from_numpy(np.stack([vector(w) for w in WORDS[:count]]))


# ---------------------------------------------------------------- data


def test_held_out_rows_and_things_are_never_trained_on(setting: Any) -> None:
    data = module("ablation_data")
    held = setting.split
    trained = [json.loads(line) for line in held.train.read_text().splitlines()]
    assert len(trained) == held.count == len(held.trained)
    names = {data.name_of(data.said_in(r["messages"][1]["content"])) for r in trained}
    assert names and "" not in names
    assert not names & {w for w in WORDS if data.bucket("thing:" + w) < data.THINGS}
    assert all(data.bucket("row:" + r["id"]) >= 2 * data.ROWS for r in trained)
    for name in ("rows", "dev"):
        assert set(held.sets[name].names) <= names
        close = held.sets[name].features @ held.trained.T
        assert close.max() < 1 - 1e-6  # none is a row of training itself
    assert set(held.sets["text"].names) == names


def test_rows_made_of_a_held_out_drawing_are_left_out() -> None:
    data = module("ablation_data")
    seen = importlib.import_module("anybind.core_model.training.nano_data.seen")
    one, other = vector("cat"), vector("dog")
    table = seen.Seen([seen.Row(0, "one", ("x",))], one[None])
    near = data._near([one, vector("cat", 3), other], table, table.rows)
    assert near == [True, True, False]


def test_the_commonest_things_are_kept_and_none_of_them_fills_the_rest() -> None:
    data = module("ablation_data")
    counts = {"a dog": 90, "a cat": 40, "a hat": 7, "an owl": 5, "a fox": 5}
    records = [
        ("", {"id": f"{said}/{i}"}, said, np.zeros(1))
        for said, n in counts.items()
        for i in range(n)
    ]
    kept = data._commonest(records, 4)
    names = [data.name_of(r[2]) for r in kept]
    most = data.MOST_OF_A_THING
    # Of owl and fox, equally common, the first by name.
    assert {n: names.count(n) for n in names} == {"dog": most, "cat": most, "hat": 7, "fox": 5}
    random.Random(1).shuffle(records)
    assert {r[1]["id"] for r in data._commonest(records, 4)} == {r[1]["id"] for r in kept}


@pytest.mark.parametrize(
    ("answer", "said", "name"),
    [
        ("This is a dog, probably a beagle.", "a dog, probably a beagle", "dog"),
        ("The photo shows an owl.", "an owl", "owl"),
        ("I see bread.", "bread", "bread"),
        ("A beagle.", "", ""),
        ("This is", "", ""),
    ],
)
def test_names_are_read_out_of_answers(answer: str, said: str, name: str) -> None:
    data = module("ablation_data")
    assert data.said_in(answer) == said and data.name_of(data.said_in(answer)) == name


def test_arms_have_equal_data_in_equal_order(setting: Any) -> None:
    arms = list(module("ablation_arms").ARMS)
    first = steps(setting, arms[0], 0)
    for arm in arms[1:]:
        for one, two in zip(first, steps(setting, arm, 0), strict=True):
            for key in ("tokens", "labels", "segments", "features"):
                assert torch.equal(one[key], two[key]), arm
    other = steps(setting, arms[0], 1)
    assert not all(torch.equal(a["tokens"], b["tokens"]) for a, b in zip(first, other, strict=True))


# ---------------------------------------------------------------- arms


def test_gates_start_at_what_they_say(setting: Any) -> None:
    for name, arm in module("ablation_arms").ARMS.items():
        gate = built(setting, name).trainee.bind.gate
        assert torch.equal(gate, torch.full_like(gate, arm.gate)), name


def test_at_shut_gates_only_the_prompt_token_disturbs_the_decoder(setting: Any) -> None:
    examiner, rows = module("ablation_measures").Examiner, features().numpy()
    for name in module("ablation_arms").ARMS:
        asked = examiner(built(setting, name))
        alone, under = asked.plain(rows, under=False), asked.plain(rows)
        shut = name in ("bind", "linear", "attention-output", "prefix")
        assert (abs(alone - under) < 1e-6) == shut, name


def test_a_prefix_of_one_vector_is_attention_output(setting: Any) -> None:
    """A softmax over one key is 1: then both ways are the same sum."""
    arms = module("ablation_arms")
    plain = built(setting, "attention-output").trainee
    other = built(setting, "prefix").trainee
    with torch.no_grad():
        plain.bind.gate.fill_(0.7)
        other.bind.gate.fill_(0.7)
        other.bind.query = torch.nn.Parameter(plain.bind.query[:, None].clone())
        other.bind.proj, other.bind.blocks = plain.bind.proj, plain.bind.blocks
    assert isinstance(other, arms.GatedPrefix) and other.bind.query.shape == (LAYERS, 1, DIM)
    batch = steps(setting, "prefix", 0, 1)[0]
    assert torch.allclose(plain(**batch).loss, other(**batch).loss, rtol=1e-5)
    with other.under(features()) as given:
        assert given == {}
    assert all(layer.attention.prefix is None for layer in other.decoder.blocks)


def test_the_prompt_token_is_the_bound_feature_in_front_of_the_question(setting: Any) -> None:
    trainee = built(setting, "prompt-token").trainee
    tokens = torch.arange(30).expand(3, -1)
    wide = trainee.laid(tokens, 0)
    assert wide.shape == (3, 31) and wide[:, trainee.at + 1 :].equal(tokens[:, trainee.at :])
    with torch.no_grad(), trainee.under(features()):
        rows = trainee.decoder.tok_embeddings(wide)
        assert torch.allclose(rows[:, trainee.at], trainee.bind.bind(features()) * trainee.size)
        assert trainee.decoder.tok_embeddings(wide[:, :1]).equal(rows[:, :1])  # a later step
    assert not trainee.decoder.tok_embeddings._forward_hooks


@pytest.mark.parametrize("arm", ["bind", "prompt-token", "prefix", "linear", "attention-output"])
def test_replies_are_those_of_the_whole_sequence(setting: Any, arm: str) -> None:
    """With kept keys and one batch, the first two tokens are the likeliest of plain passes."""
    trainee = (parts := built(setting, arm)).trainee
    with torch.no_grad():
        trainee.bind.gate += 1.0
    asked = module("ablation_measures").Examiner(parts)
    asked.tokenizer = copy.copy(asked.tokenizer)
    said: list[list[int]] = []
    asked.tokenizer.decode = lambda ids: said.append(list(ids)) or ""
    asked.replies(features().numpy())
    for row, feature in zip(said, features(), strict=True):
        ids = list(asked.prompt)
        for token in row[:2]:
            with torch.no_grad(), trainee.under(feature[None]) as given:
                wide = trainee.laid(torch.tensor([ids]), 0)
                logits = trainee.decoder.output(trainee.decoder.features(wide, **given))
            assert int(logits[0, -1].argmax()) == token
            ids.append(token)


def test_the_loss_that_is_trained_is_the_loss_that_is_measured(setting: Any) -> None:
    """Padded batch through the pipeline's forward pass, against each row alone by way of `under`."""
    for name in module("ablation_arms").ARMS:
        trainee = built(setting, name).trainee
        with torch.no_grad():
            trainee.bind.gate += 0.5
            batch = steps(setting, name, 0, 1)[0]
            alone = 0.0
            for row, segments in enumerate(batch["segments"]):
                here = slice(0, int((segments >= 0).sum()))
                tokens = trainee.laid(batch["tokens"][row : row + 1, here], 0)
                labels = trainee.laid(batch["labels"][row : row + 1, here], -100)
                with trainee.under(batch["features"][segments[:1]]) as given:
                    logits = trainee.decoder.output(trainee.decoder.features(tokens, **given))
                alone += float(
                    torch.nn.functional.cross_entropy(
                        logits[0, :-1], labels[0, 1:], ignore_index=-100, reduction="sum"
                    )
                )
            assert float(trainee(**batch).loss) == pytest.approx(alone, rel=1e-4), name


def test_every_arm_learns(setting: Any) -> None:
    for name in module("ablation_arms").ARMS:
        parts = built(setting, name)
        batch = steps(setting, name, 0, 1)[0]
        optimizer = torch.optim.AdamW(parts.trainables.values(), lr=3e-2)
        losses: list[float] = []
        for _ in range(30):
            loss = parts.trainee(**batch).loss
            losses.append(float(loss.detach()))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert losses[-1] < 0.97 * losses[0], name
        assert not any(n.startswith("decoder.") for n in parts.trainables), name


# ---------------------------------------------------------------- runs


def test_runs_go_on_where_they_stopped(setting: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = module("ablation_runs")
    caches = {"classes": np.stack([vector(w) for w in WORDS]), "training": setting.split.trained}
    only = ["bind", "prompt-token", "cache", "mixing"]
    monkeypatch.setattr(runs, "QUERIES", {"text": "text", "rows": "picture"})
    runs.all_runs(setting, only, lambda: caches)
    files = {p.name: p.stat().st_mtime_ns for p in setting.out.glob("*.json")}
    assert len(files) == 2 * (2 + 1) + 4
    one = json.loads((setting.out / "bind-s0-r0.001.json").read_text())
    two = json.loads((setting.out / "prompt-token-s0-r0.001.json").read_text())
    assert one["samples"] == two["samples"] > 0 and len(one["curve"]) == setting.steps
    assert one["curve"][0] != one["curve"][-1] and set(one["sets"]) >= {"rows", "text"}
    mixed = json.loads((setting.out / "mixing-s1.json").read_text())["with"]["text"]
    assert [row["ratio"] for row in mixed] == list(runs.RATIOS)

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("made again")

    monkeypatch.setattr(runs, "train", never)
    runs.all_runs(setting, only, lambda: caches)
    assert files == {p.name: p.stat().st_mtime_ns for p in setting.out.glob("*.json")}
    (setting.out / "prompt-token-s1-r0.001.json").unlink(missing_ok=True)
    (setting.out / "prompt-token-s1-r0.01.json").unlink(missing_ok=True)
    with pytest.raises(AssertionError, match="made again"):
        runs.all_runs(setting, only, lambda: caches)
    longer = runs.Setting(**{**vars(setting), "steps": 4})
    with pytest.raises(UserError, match="other settings"):
        runs.all_runs(longer, only, lambda: caches)
    with pytest.raises(UserError, match="needed first"):
        runs.best_rate(setting, "linear")


# ---------------------------------------------------------------- tables and figure


def fake(folder: Path) -> None:
    arms, runs = module("ablation_arms"), module("ablation_runs")
    figure = module("ablation_figure")
    shared = {"setting": {"steps": 3}, "seconds": 1.0}

    def put(name: str, result: dict[str, Any]) -> None:
        (folder / f"{name}.json").write_text(json.dumps({"name": name, **shared, **result}))

    for number, arm in enumerate(arms.ARMS):
        for seed, rate in ((0, 0.001), (0, 0.003), (1, 0.003), (2, 0.003)):
            sets = {
                s: {"loss": 1 + number + 0.01 * seed, "tokens": 0.5, "exact": 0.9 - 0.1 * number}
                for s in figure.SETS
            }
            put(
                runs.run_name(arm, seed, rate),
                {"arm": arm, "seed": seed, "rate": rate, "parameters": 10, "sets": sets,
                 "dev": 1 / rate, "plain": {"alone": 3.0, "before": 3.0 + arms.ARMS[arm].gate,
                 "after": 3.1}, "curve": [3.0, 2.5, 2.0 + seed], "step_seconds": 0.5},
            )  # fmt: skip
    for seed in range(3):
        grid = [(k, 0.5) for k in runs.TOP_K] + [(5, w) for w in runs.WEIGHTS if w != 0.5]
        rows = [{"set": s, "cache": "", "exact": 0.5} for s in runs.QUERIES]
        rows += [
            {"set": s, "cache": c, "k": k, "weight": w, "exact": 0.2 + w + 0.001 * seed}
            for s in runs.QUERIES for c in figure.CACHES for k, w in grid
        ]  # fmt: skip
        put(f"cache-s{seed}", {"seed": seed, "rows": rows})
        line = [{"ratio": r, "a": r, "b": 1 - r, "both": 0.1, "pairs": 9} for r in runs.RATIOS]
        put(f"mixing-s{seed}", {"seed": seed, "with": {"sound": line, "text": line}})


def test_table_judgements_and_figure_come_from_the_files(tmp_path: Path) -> None:
    figure = module("ablation_figure")
    fake(tmp_path)
    results = figure.read(tmp_path)
    assert all({e["rate"] for e in es} == {0.003} for es in results.arms.values())
    text = figure.table(results)
    assert "| one linear layer, residual | 10 | 0.003 | 3 | 2.010 ± 0.010 |" in text
    assert "| classes, top-k 5, weight 0.9 | 1.101 ± 0.001 |" in text
    said = figure.judgements(results)
    assert (
        "beats one linear layer (loss, seen things: 1.010 ± 0.010 against 2.010 ± 0.010): **holds"
        in said
    )
    assert "a cache of classes helps text queries (0.201 ± 0.001 more are named than" in said
    assert said.count("without): **holds**") == 6
    assert "gate-1 do not (3.000 ± 0.000 against 4.000 ± 0.000): **holds**" in said
    figure.draw(results, tmp_path / "figure.png")
    from PIL import Image

    with Image.open(tmp_path / "figure.png") as picture:
        assert picture.width > 1500 and len(set(picture.convert("L").tobytes())) > 50


def test_what_differs_less_than_the_spread_is_not_decided() -> None:
    judge = module("ablation_figure").judge
    assert judge([1.0, 1.2, 1.4], [1.3, 1.5, 1.1], small=True).startswith("NOT DECIDED")
    assert judge([2.0, 2.1], [1.0, 1.1], small=True).startswith("DOES NOT HOLD")
    assert judge([2.0, 2.1], [1.0, 1.1], small=False) == "holds"
    assert judge([2.0], [1.0, 1.1], small=False) == "too few seeds"
    gain = module("ablation_figure").judge_gain
    assert gain([0.2, 0.21, 0.19]) == "holds" and gain([0.1, 0.0, 0.01]).startswith("NOT DECIDED")
    assert gain([-0.2, -0.21]).startswith("DOES NOT HOLD") and gain([0.3]) == "too few seeds"


def test_results_of_different_settings_are_not_set_side_by_side(tmp_path: Path) -> None:
    figure = module("ablation_figure")
    with pytest.raises(UserError, match="no results"):
        figure.read(tmp_path)
    fake(tmp_path)
    path = tmp_path / "cache-s0.json"
    path.write_text(path.read_text().replace('"steps": 3', '"steps": 4'))
    with pytest.raises(UserError, match="different settings"):
        figure.read(tmp_path)
