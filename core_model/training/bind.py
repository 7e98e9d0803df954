"""Train the bind network of a bundle on surrogate features, the decoder frozen (stage 1).

Run as `python -m anybind.core_model.training.bind --help`. Only the bind network, the queries and
the gates learn. Checkpoints go to the run folder; `--export` writes the safetensors to ship.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from anybind.core_model.bind import BindConfig, BindNetwork
from anybind.core_model.checkpoints import load_decoder
from anybind.core_model.llama import Llama
from anybind.core_model.prompts import chatml
from anybind.core_model.tokenizer import Tokenizer
from anybind.core_model.training.concepts import Concept, concepts, wordnet
from anybind.core_model.training.loop import TrainConfig, train
from anybind.core_model.training.surrogate import Mixture, Sample, Surrogate
from anybind.core_model.training.text_tasks import GENERAL, context_task

SOUNDS_FILE = Path(__file__).with_name("sounds.txt")


def answer_loss(
    decoder: Llama, bind: BindNetwork, tokenizer: Tokenizer, samples: Sequence[Sample]
) -> tuple[Tensor, float]:
    """Mean cross-entropy over the answer tokens of a batch, and the share predicted right.

    Rows of like length run together, so that little is padding. The output head runs on answer
    positions only: with 49,152 tokens it would otherwise cost as much as a fifth of the decoder.
    """
    rows = [_tokens(tokenizer, s) for s in samples]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
    losses: list[Tensor] = []
    right = total = 0
    for group in _like_lengths(order, [len(r[0]) for r in rows]):
        width = max(len(rows[i][0]) for i in group)
        tokens = torch.full((len(group), width), tokenizer.eos)
        wanted = torch.zeros((len(group), width), dtype=torch.bool)
        for at, i in enumerate(group):
            row, start = rows[i]
            tokens[at, : len(row)] = torch.tensor(row)
            wanted[at, start - 1 : len(row) - 1] = True
        inject = bind(torch.stack([samples[i].feature for i in group]), decoder)
        # Right padding needs no mask: a causal decoder never looks at what comes after.
        hidden = decoder.features(tokens, inject=inject, site=bind.config.injection)[wanted]
        targets = tokens.roll(-1, 1)[wanted]
        logits = decoder.output(hidden)
        right += int((logits.argmax(-1) == targets).sum())
        total += len(targets)
        losses.append(F.cross_entropy(logits, targets, reduction="sum"))
    return torch.stack(losses).sum() / total, right / total


def _tokens(tokenizer: Tokenizer, sample: Sample) -> tuple[list[int], int]:
    prompt = tokenizer.encode(chatml([("user", sample.question)]))
    return [*prompt, *tokenizer.encode(sample.answer), tokenizer.eos], len(prompt)


def _like_lengths(order: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """Split rows, shortest first, where the next one is much longer than the first of its group."""
    groups: list[list[int]] = []
    for i in order:
        if groups and lengths[i] <= lengths[groups[-1][0]] * 1.5:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


@torch.inference_mode()
def reply(decoder: Llama, tokenizer: Tokenizer, prompt: str, inject: Tensor | None, most: int) -> str:
    """A greedy reply, for distillation and for looking at samples while training."""
    from anybind.core_model.llama import KVCache

    ids = tokenizer.encode(prompt)
    cache = KVCache(decoder.config, 1, len(ids) + most)
    logits = decoder(torch.tensor([ids]), cache=cache, inject=inject, last_only=True)
    out: list[int] = []
    for _ in range(most):
        token = int(logits[0, -1].argmax())
        if token == tokenizer.eos:
            break
        out.append(token)
        logits = decoder(torch.tensor([[token]]), cache=cache, inject=inject, last_only=True)
    return tokenizer.decode(out)


def text_tasks(decoder: Llama, tokenizer: Tokenizer, file: Path, seed: int) -> list[tuple[str, str]]:
    """Question with its context, and answer; general ones answered by the decoder, kept in `file`."""
    rng = random.Random(seed)
    tasks: list[tuple[str, str]] = []
    for _ in range(4000):
        question, context, answer = context_task(rng)
        tasks.append((f"{context}\n\n{question}", answer))
    if not file.exists():
        said = {q: reply(decoder, tokenizer, chatml([("user", q)]), None, 32) for q in GENERAL}
        file.write_text(json.dumps(said, indent=1), encoding="utf-8")
    general = list(json.loads(file.read_text(encoding="utf-8")).items())
    return tasks + general * (2000 // len(general))


def word_list(reader: object, eye: Sequence[Concept], offsets: Sequence[str]) -> list[Concept]:
    """ImageNet's 21k nouns that are common enough to be said: tagged in WordNet's corpora, a
    basic-level word, or one of the thousand classes."""
    every = concepts(reader, offsets)
    known = {c.synset for c in eye}
    basics = {c.basic for c in every if c.basic}
    return [
        c for c in every
        if (c.count > 0 or c.synset in known or c.name in basics) and len(c.name) < 24
    ]  # fmt: skip


def main() -> None:
    """Command line."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--decoder", type=Path, required=True, help="GGUF file or HF folder")
    p.add_argument("--hub", type=Path, required=True, help="folder of the MiniLM text encoder")
    p.add_argument("--wordnet", type=Path, required=True, help="WordNet 3.0 dict folder")
    p.add_argument("--imagenet", type=Path, required=True, help="timm/data/_info")
    p.add_argument("--eye", default="", help="MODULE:FUNCTION (folder) -> simulate(classes, rng)")
    p.add_argument("--eye-data", type=Path, help="argument of --eye")
    p.add_argument("--out", type=Path, required=True, help="run folder")
    p.add_argument("--init", type=Path, help="start from the bind weights of this export")
    p.add_argument("--export", type=Path, help="write the result here")
    p.add_argument("--steps", type=int, default=600)
    p.add_argument("--batch", type=int, default=48)
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--hidden", type=int, default=1152)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--threads", type=int, default=1)
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)

    decoder, _ = load_decoder(args.decoder)
    tokenizer = _tokenizer(args.decoder)
    embed = hub(args.hub)
    reader = wordnet(args.wordnet)
    eye = concepts(reader, (args.imagenet / "imagenet_synsets.txt").read_text().split())
    lines = (args.imagenet / "imagenet_synset_to_lemma.txt").read_text().splitlines()
    words = word_list(reader, eye, [line.split("\t")[0] for line in lines])
    sounds = [s for s in SOUNDS_FILE.read_text(encoding="utf-8").splitlines() if s]
    tasks = text_tasks(decoder, tokenizer, args.out / "general.json", args.seed)
    print(f"{len(eye)} eye classes, {len(words)} words, {len(sounds)} sounds, {len(tasks)} tasks")
    simulate = _simulator(args, eye, embed)
    data = Surrogate(eye, words, sounds, embed, simulate, tasks, Mixture(), args.seed)

    config = BindConfig(
        joint_dim=data.word_bank.shape[-1],
        model_dim=decoder.config.dim,
        hidden_dim=args.hidden,
        n_layers=decoder.config.n_layers,
        input_scale=data.word_bank.shape[-1] ** 0.5,
        first_layer=2,
    )
    bind = BindNetwork(config)
    if args.init:
        from anybind.core_model.adapters import load_bind

        bind = load_bind(args.init)

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        loss, right = answer_loss(decoder, bind, tokenizer, data.batch(step, args.batch))
        if step % 50 == 49:
            _show(decoder, bind, tokenizer, data)
        return loss, {"right": right, "gate": float(bind.gate.tanh().abs().mean())}

    train(bind, loss_of, TrainConfig(steps=args.steps, lr=args.lr, seed=args.seed), args.out)
    if args.export:
        from anybind.core_model.adapters import save_bind

        save_bind(bind, args.export, {"seed": args.seed, "config": asdict(config)})


def _show(decoder: Llama, bind: BindNetwork, tokenizer: Tokenizer, data: Surrogate) -> None:
    with torch.inference_mode():
        for sample in data.batch(10**6, 12):
            inject = bind(sample.feature[None], decoder)
            said = reply(decoder, tokenizer, chatml([("user", sample.question)]), inject, 20)
            print(f"   {said!r}  <- {sample.answer!r}", flush=True)


def _simulator(
    args: argparse.Namespace, eye: Sequence[Concept], embed: Callable[[list[str]], Tensor]
) -> Callable[[Tensor, torch.Generator], Tensor]:
    if args.eye:
        import importlib

        module, _, name = args.eye.partition(":")
        return getattr(importlib.import_module(module), name)(args.eye_data)
    return neighbour_mixtures(embed([f"a photo of a {c.name}" for c in eye]))


def neighbour_mixtures(bank: Tensor) -> Callable[[Tensor, torch.Generator], Tensor]:
    """A stand-in for image features: a class blurred with a few of its nearest neighbours."""
    near = (bank @ bank.T).topk(12, -1).indices

    def simulate(classes: Tensor, rng: torch.Generator) -> Tensor:
        n = len(classes)
        main = 0.4 + 0.6 * torch.rand(n, 1, generator=rng)
        share = torch.rand(n, 12, generator=rng) ** 4
        share[:, 0] = 0
        share = share / share.sum(-1, keepdim=True) * (1 - main)
        share[:, :1] = main
        mixed = torch.einsum("nk,nkc->nc", share, bank[near[classes]])
        noise = F.normalize(torch.randn(mixed.shape, generator=rng), dim=-1)
        return F.normalize(F.normalize(mixed, dim=-1) + 0.3 * noise, dim=-1)

    return simulate


def hub(folder: Path) -> Callable[[list[str]], Tensor]:
    """Texts to unit-norm hub embeddings [N, 384]."""
    from anybind.content import Text
    from anybind.contracts import Build
    from anybind.core_model.encoders import minilm

    weights = {"model": folder / "model.safetensors", "tokenizer": folder / "tokenizer.json"}
    encoder = minilm.build(Build(weights=weights))
    return lambda texts: torch.from_numpy(encoder.encode([Text.of(t) for t in texts]).unit)


def _tokenizer(path: Path) -> Tokenizer:
    from anybind.core_model import tokenizer

    if path.is_dir():
        return tokenizer.from_folder(path)
    from gguf import GGUFReader

    from anybind.core_model.checkpoints import gguf_fields

    return tokenizer.from_gguf(gguf_fields(GGUFReader(path)))


if __name__ == "__main__":
    main()
