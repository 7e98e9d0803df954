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
from anybind.core_model.training.text_tasks import GENERAL, TextTask, context_task

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
        logits = decoder.output(hidden).float()
        right += int((logits.argmax(-1) == targets).sum())
        total += len(targets)
        losses.append(F.cross_entropy(logits, targets, reduction="sum"))
    return torch.stack(losses).sum() / total, right / total


class Alignment:
    """Bound features toward the decoder's own word vectors; costs no pass of the decoder.

    The bind network points at the mean token embedding of what a feature is of. Alone it is stage
    0, minutes instead of hours: with a meaningful vector behind them the gates get a steady
    gradient from the first step of the real training on. Beside the real loss it keeps a thousand
    things apart that a batch of thirty can't all show.
    """

    def __init__(
        self, decoder: Llama, tokenizer: Tokenizer, data: Surrogate, size: int = 192
    ) -> None:
        self.table = decoder.tok_embeddings.weight.float()
        self.centre = self.table.mean(0)
        self.tokenizer, self.data, self.size = tokenizer, data, size
        self._known: dict[str, Tensor] = {}

    def loss(self, bind: BindNetwork, step: int) -> tuple[Tensor, float]:
        """Mean square distance [] and mean cosine of one batch."""
        samples = [s for s in self.data.batch(2_000_000 + step, self.size) if s.words]
        bound = bind.bind(torch.stack([s.feature for s in samples]))
        wanted = torch.stack([self._target(s.words) for s in samples])
        close = F.cosine_similarity(bound, wanted).mean().item()
        return F.mse_loss(bound, wanted), close

    def train(self, bind: BindNetwork, steps: int) -> None:
        """Stage 0."""
        optimizer = torch.optim.AdamW(
            bind.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.02
        )
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * min(1.0, (step + 1) / 50, (steps - step) / (0.5 * steps))
            loss, close = self.loss(bind, step)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(bind.parameters(), 1.0)
            optimizer.step()
            if step % 100 == 0 or step + 1 == steps:
                print(f"align {step} loss {loss.item():.4f} cosine {close:.3f}", flush=True)

    def _target(self, words: str) -> Tensor:
        if words not in self._known:
            vector = (self.table[self.tokenizer.encode(f" {words}")] - self.centre).mean(0)
            self._known[words] = vector / vector.square().mean().sqrt()
        return self._known[words]


def _tokens(tokenizer: Tokenizer, sample: Sample) -> tuple[list[int], int]:
    prompt = tokenizer.encode(chatml([*sample.history, ("user", sample.question)]))
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
def reply(
    decoder: Llama, tokenizer: Tokenizer, prompt: str, inject: Tensor | None, most: int
) -> str:
    """A greedy reply, for distillation and for looking at samples while training."""
    from anybind.core_model.llama import KVCache

    ids = tokenizer.encode(prompt)
    dtype = decoder.tok_embeddings.weight.dtype
    cache = KVCache(decoder.config, 1, len(ids) + most, dtype=dtype)
    logits = decoder(torch.tensor([ids]), cache=cache, inject=inject, last_only=True)
    out: list[int] = []
    for _ in range(most):
        token = int(logits[0, -1].argmax())
        if token == tokenizer.eos:
            break
        out.append(token)
        logits = decoder(torch.tensor([[token]]), cache=cache, inject=inject, last_only=True)
    return tokenizer.decode(out)


def text_tasks(decoder: Llama, tokenizer: Tokenizer, file: Path, seed: int) -> list[TextTask]:
    """Tasks about a context, and general ones answered by the decoder (kept in `file`)."""
    rng = random.Random(seed)
    tasks = [context_task(rng) for _ in range(5000)]
    if not file.exists():
        said = {q: reply(decoder, tokenizer, chatml([("user", q)]), None, 32) for q in GENERAL}
        file.write_text(json.dumps(said, indent=1), encoding="utf-8")
    said = json.loads(file.read_text(encoding="utf-8"))
    general = [TextTask(q, a) for q, a in said.items()]
    return tasks + general * (1000 // len(general))


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
    p.add_argument("--eye-noise", type=Path, help="statistics of the image encoder")
    p.add_argument("--backbone", type=Path, help="EfficientNet-lite safetensors, for --eye-noise")
    p.add_argument("--image-hub", type=Path, help="its mapping into the hub, for --eye-noise")
    p.add_argument("--cache-share", type=float, default=0.0, help="share of features that pass it")
    p.add_argument("--cache-k", type=int, default=5)
    p.add_argument("--cache-t", type=float, default=40.0)
    p.add_argument("--cache-w", type=float, default=0.7)
    p.add_argument("--out", type=Path, required=True, help="run folder")
    p.add_argument("--init", type=Path, help="start from the bind weights of this export")
    p.add_argument("--export", type=Path, help="write the result here")
    p.add_argument("--steps", type=int, default=600)
    p.add_argument("--align-steps", type=int, default=1500, help="steps of stage 0")
    p.add_argument("--align-weight", type=float, default=0.5, help="its share beside the answers")
    p.add_argument("--batch", type=int, default=48)
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--hidden", type=int, default=1152)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument(
        "--bf16",
        action="store_true",
        help="run the frozen decoder in bfloat16: seven times faster where the CPU has AMX",
    )
    p.add_argument("--threads", type=int, default=1)
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)

    decoder, loaded = load_decoder(args.decoder)
    tokenizer = _tokenizer(args.decoder)
    embed = hub(args.hub)
    reader = wordnet(args.wordnet)
    eye = concepts(reader, (args.imagenet / "imagenet_synsets.txt").read_text().split())
    lines = (args.imagenet / "imagenet_synset_to_lemma.txt").read_text().splitlines()
    words = word_list(reader, eye, [line.split("\t")[0] for line in lines])
    sounds = [s for s in SOUNDS_FILE.read_text(encoding="utf-8").splitlines() if s]
    tasks = text_tasks(decoder, tokenizer, args.out / "general.json", args.seed)
    if args.bf16:
        decoder = decoder.to(torch.bfloat16)
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
    alignment = Alignment(decoder, tokenizer, data)
    if not args.init and not (args.out / "last.pt").exists():
        alignment.train(bind, args.align_steps)
    elif args.init:
        from anybind.core_model.adapters import load_bind

        bind = load_bind(args.init)

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        loss, right = answer_loss(decoder, bind, tokenizer, data.batch(step, args.batch))
        if step % 50 == 49:
            _show(decoder, bind, tokenizer, data)
        if not args.align_weight:
            return loss, {"answer": loss.item(), "right": right, "gate": _gate(bind)}
        apart, close = alignment.loss(bind, step)
        return loss + args.align_weight * apart, {
            "answer": loss.item(),
            "right": right,
            "close": close,
            "gate": _gate(bind),
        }

    train(bind, loss_of, TrainConfig(steps=args.steps, lr=args.lr, seed=args.seed), args.out)
    if args.export:
        from anybind.core_model.adapters import save_bind

        about = {"seed": args.seed, "config": asdict(config)}
        save_bind(bind, args.export, about, base=loaded.identity)


def _gate(bind: BindNetwork) -> float:
    return float(bind.gate.detach().tanh().abs().mean())


def _show(decoder: Llama, bind: BindNetwork, tokenizer: Tokenizer, data: Surrogate) -> None:
    with torch.inference_mode():
        for sample in data.batch(10**6, 16):
            inject = bind(sample.feature[None], decoder)
            prompt = chatml([*sample.history, ("user", sample.question)])
            said = reply(decoder, tokenizer, prompt, inject, 20)
            print(f"   {said!r}  <- {sample.answer!r}", flush=True)


def _simulator(
    args: argparse.Namespace, eye: Sequence[Concept], embed: Callable[[list[str]], Tensor]
) -> Callable[[Tensor, torch.Generator], Tensor]:
    """What the image encoder would give: simulated by its own statistics where they are given."""
    if not args.eye_noise:
        return neighbour_mixtures(embed([f"a photo of a {c.name}" for c in eye]))
    from anybind.core_model.encoders.efficientnet import load_efficientnet
    from anybind.core_model.encoders.image_hub import load_image_hub
    from anybind.core_model.training.eye_noise import load_noise

    backbone = load_efficientnet(args.backbone)
    noise = load_noise(args.eye_noise, backbone, load_image_hub(args.image_hub))
    cache = None
    if args.cache_share:
        from anybind.core_model.retrieval import RetrievalCache

        cache = RetrievalCache.load(
            args.image_hub, tensor="classes", space="", top_k=args.cache_k,
            temperature=args.cache_t, weight=args.cache_w,
        )  # fmt: skip

    def simulate(classes: Tensor, rng: torch.Generator) -> Tensor:
        seen = noise.sample(classes, rng).clone()
        if cache is None:
            return seen
        pulled = torch.from_numpy(cache.apply(seen.numpy()))
        chosen = torch.rand(len(seen), 1, generator=rng) < args.cache_share
        return torch.where(chosen, pulled, seen)

    return simulate


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
