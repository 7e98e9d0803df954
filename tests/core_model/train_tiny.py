"""A tiny model and made-up batches for tests of training; also a program, for runs in processes
of their own: `python train_tiny.py RUN [KEY=VALUE…] [--resume] [--slow]`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from anybind.core_model.training.config import TrainConfig, apply_change

VOCAB, DIM, LAYERS, JOINT = 64, 32, 4, 6


def write_base(folder: Path, *, tied: bool = False, kv_heads: int = 2) -> Path:
    """A Hugging Face LLaMA folder with random weights and a tokenizer of letters."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder.mkdir(parents=True, exist_ok=True)
    ffn, head = 48, DIM // 4
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": VOCAB,
        "hidden_size": DIM, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
        "num_key_value_heads": kv_heads, "intermediate_size": ffn, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 64, "tie_word_embeddings": tied, "hidden_act": "silu",
        "bos_token_id": 1, "eos_token_id": 2, "rope_theta": 10000.0, "torch_dtype": "float32",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {"model.embed_tokens": (VOCAB, DIM), "model.norm": (DIM,)}
    if not tied:
        shapes["lm_head"] = (VOCAB, DIM)
    for i in range(LAYERS):
        at = f"model.layers.{i}"
        shapes |= {f"{at}.self_attn.{n}_proj": (DIM, DIM) for n in "qo"}
        shapes |= {f"{at}.self_attn.{n}_proj": (kv_heads * head, DIM) for n in "kv"}
        shapes |= {f"{at}.mlp.{n}_proj": (ffn, DIM) for n in ("gate", "up")}
        shapes |= {f"{at}.mlp.down_proj": (DIM, ffn)}
        shapes |= {f"{at}.{n}_layernorm": (DIM,) for n in ("input", "post_attention")}
    rng = torch.Generator().manual_seed(0)
    state = {
        f"{n}.weight": torch.ones(s) if len(s) == 1 else torch.randn(s, generator=rng) * 0.15
        for n, s in shapes.items()
    }
    save_file(state, folder / "model.safetensors")
    words = {"<unk>": 0, "<s>": 1, "</s>": 2} | {chr(97 + i): 3 + i for i in range(26)}
    words |= {chr(65 + i): 29 + i for i in range(26)}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<s>", "eos_token": "</s>"})
    )
    return folder


def settings(base: Path, **changes: Any) -> dict[str, Any]:
    """The table of a small stage; keys of `changes` use `__` for dots."""
    tree: dict[str, Any] = {
        "stage": "tiny",
        "model": {
            "decoder": str(base), "space": "tiny",
            "bind": {"joint_dim": JOINT, "hidden_dim": 16, "n_blocks": 1, "input_scale": 2.0},
        },
        "trainables": {"groups": ["bind", "queries", "gates"]},
        "data": {"sources": [{"format": "jsonl", "path": "none.jsonl"}]},
        "batch": {"max_tokens": 32, "tokens": 64, "accumulation": 2},
        "optimizer": {"lr": 0.01, "gate_pace": 5.0},
        "steps": 8,
        "save": {"every": 2, "keep": 2},
    }  # fmt: skip
    for key, value in changes.items():
        apply_change(tree, f"{key.replace('__', '.')}={json.dumps(value)}")
    return tree


def stage(base: Path, **changes: Any) -> TrainConfig:
    """The same, checked."""
    return TrainConfig.model_validate(settings(base, **changes))


@dataclass
class TinyBatch:
    tokens: Tensor
    labels: Tensor
    segments: Tensor
    positions: Tensor
    features: Tensor
    present: Tensor
    samples: int
    words: Tensor
    shares: Tensor


class TinyBatches:
    """Packed rows: in each, two samples whose answer tells which feature they have, and padding."""

    def __init__(
        self, count: int | None = None, *, poison: tuple[int, ...] = (), slow: float = 0.0
    ):
        self.count, self.poison, self.slow, self.at = count, poison, slow, 0
        self.total = None if count is None else 4 * count

    def __iter__(self) -> Iterator[TinyBatch]:
        while self.count is None or self.at < self.count:
            self.at += 1
            if self.slow:
                time.sleep(self.slow)
            yield make_batch(self.at, poison=self.at in self.poison)

    def state(self) -> dict[str, Any]:
        return {"at": self.at}

    def restore(self, state: dict[str, Any]) -> None:
        self.at = state["at"]


def make_batch(number: int, *, poison: bool = False) -> TinyBatch:
    """Two rows of two samples; batch `number` is always the same."""
    rng = torch.Generator().manual_seed(number)
    tokens, labels = torch.full((2, 24), 2), torch.full((2, 24), -100)
    segments, positions = torch.full((2, 24), -1), torch.zeros(2, 24, dtype=torch.long)
    kinds = torch.randint(0, JOINT, (4,), generator=rng)
    features = torch.nn.functional.one_hot(kinds, JOINT).float()
    present = torch.tensor([True, True, number % 3 != 0, True])
    for row in range(2):
        at = 0
        for half in range(2):
            sample = 2 * row + half
            prompt = 3 + int(torch.randint(0, 5, (1,), generator=rng))
            answer = 2 + int(torch.randint(0, 4, (1,), generator=rng))
            n = prompt + answer
            ids = torch.randint(3, 20, (n,), generator=rng)
            ids[0], ids[prompt:] = 1, 30 + kinds[sample]
            tokens[row, at : at + n], segments[row, at : at + n] = ids, sample
            labels[row, at + prompt : at + n] = ids[prompt:]
            positions[row, at : at + n] = torch.arange(n)
            at += n
    if poison:
        features[1] = float("nan")
    # Each but one is of two tokens that tell its feature; the last has no words.
    words = torch.stack([40 + kinds, 50 + kinds], 1)
    shares = torch.full((4, 2), 0.5) * torch.tensor([[1.0], [1.0], [1.0], [0.0]])
    return TinyBatch(tokens, labels, segments, positions, features, present, 4, words, shares)


def main() -> None:
    """Run a stage over made-up batches; prints the outcome as JSON on the first process."""
    import os

    from anybind.core_model.training.trainer import train

    torch.set_num_threads(1)
    words = sys.argv[1:]
    run = Path(words[0])
    options = {w for w in words if w.startswith("--")}
    pairs = [w.partition("=") for w in words[1:] if "=" in w]
    changes = {key: json.loads(value) for key, _, value in pairs if not key.startswith("-")}
    base = run.parent / "base"
    outcome = train(
        stage(base, **changes), run, resume="--resume" in options,
        batches=TinyBatches(slow=0.05 if "--slow" in options else 0.0), live=False,
    )  # fmt: skip
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps({"step": outcome.step, "stopped": outcome.stopped}))


if __name__ == "__main__":
    main()
