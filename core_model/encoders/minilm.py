"""all-MiniLM-L6-v2: the sentence encoder whose output space is the hub of the joint space.

A compact BERT encoder in plain torch that loads the published safetensors by its own tensor
names; every size is read from the tensors. Knows texts only: what else lives in the space, other
modules know.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from anybind.content import AnyPart
from anybind.contracts import Build, Encoding
from anybind.errors import ModelError, UserError

SPACE = "minilm-l6-v2"
"""The name of the joint space."""

MAX_TOKENS = 256
"""The model was trained on texts of at most this many tokens; longer ones are cut."""

_HEAD_WIDTH = 32
_BATCH = 64


class _Layer(nn.Module):
    """One post-norm transformer block; sub-module names follow the tensors of the file."""

    def __init__(self, width: int, hidden: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.attended = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.widen = nn.Linear(width, hidden)
        self.narrow = nn.Linear(hidden, width)
        self.norm2 = nn.LayerNorm(width, eps=eps)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Tokens [B, T, C] -> [B, T, C]; `mask` bool [B, 1, 1, T], True where a token is."""
        b, t, c = x.shape
        q, k, v = (
            linear(x).view(b, t, self.heads, c // self.heads).transpose(1, 2)
            for linear in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = self.norm1(x + self.attended(mixed.transpose(1, 2).reshape(b, t, c)))
        return self.norm2(x + self.narrow(F.gelu(self.widen(x))))


class MiniLM(nn.Module):
    """BERT encoder with mean pooling over the tokens."""

    def __init__(
        self, *, vocabulary: int, width: int, hidden: int, layers: int, positions: int,
        heads: int, eps: float = 1e-12,
    ) -> None:  # fmt: skip
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(positions, width)
        self.types = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width, eps=eps)
        self.layers = nn.ModuleList(_Layer(width, hidden, heads, eps) for _ in range(layers))
        self.width = width

    def tokens(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Hidden states of the last layer [B, T, C] for ids [B, T] and mask bool [B, T]."""
        place = torch.arange(ids.shape[1], device=ids.device)
        # Every text is segment 0.
        x = self.norm(self.words(ids) + self.positions(place) + self.types.weight[0])
        # Without padding no mask is needed, and attention takes its fastest path.
        wide = None if bool(mask.all()) else mask[:, None, None, :]
        for layer in self.layers:
            x = layer(x, wide)
        return x

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Mean-pooled sentence vectors [B, C], not normalised."""
        x = self.tokens(ids, mask)
        weight = mask[:, :, None].to(x.dtype)
        return (x * weight).sum(1) / weight.sum(1).clamp(min=1.0)


_NAMES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attended": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "widen": "intermediate.dense",
    "narrow": "output.dense",
    "norm2": "output.LayerNorm",
}


def _rename(name: str) -> str:
    """Our parameter name -> the name of the tensor in the file."""
    if name.startswith("layers."):
        _, index, part, kind = name.split(".")
        return f"encoder.layer.{index}.{_NAMES[part]}.{kind}"
    part, kind = name.split(".")
    outer = {"words": "word_embeddings", "positions": "position_embeddings"}
    outer |= {"types": "token_type_embeddings", "norm": "LayerNorm"}
    return f"embeddings.{outer[part]}.{kind}"


def load_minilm(path: Path, *, heads: int | None = None) -> MiniLM:
    """The encoder from a BERT safetensors file (names with or without a `bert.` prefix).

    Args:
        path: The file.
        heads: Attention heads; by default width / 32, as in MiniLM.

    Raises:
        ModelError: the file can't be read or is not a BERT encoder.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path.name} can't be read as safetensors: {error}") from error
    tensors = {name.removeprefix("bert."): tensor for name, tensor in tensors.items()}
    try:
        vocabulary, width = tensors["embeddings.word_embeddings.weight"].shape
        positions = tensors["embeddings.position_embeddings.weight"].shape[0]
        hidden = tensors["encoder.layer.0.intermediate.dense.weight"].shape[0]
        layers = 1 + max(
            int(name.split(".")[2]) for name in tensors if name.startswith("encoder.layer.")
        )
        with torch.device("meta"):
            model = MiniLM(
                vocabulary=vocabulary, width=width, hidden=hidden, layers=layers,
                positions=positions, heads=heads or width // _HEAD_WIDTH,
            )  # fmt: skip
        state = {name: tensors[_rename(name)].float() for name in model.state_dict()}
        model.load_state_dict(state, assign=True)
    except (KeyError, RuntimeError, ValueError) as error:
        raise ModelError(f"{path.name} does not hold a BERT encoder: {error}") from error
    return model.eval().requires_grad_(False)


class TextEncoder:
    """Texts into the joint space (`anybind.contracts.Encoder`)."""

    def __init__(self, model: MiniLM, tokenizer: Tokenizer, max_tokens: int = MAX_TOKENS) -> None:
        self.model = model
        self.tokenizer = tokenizer
        # The published tokenizer.json pads and cuts at 128; the model takes 256.
        limit = min(max_tokens, model.positions.num_embeddings)
        self.tokenizer.enable_truncation(limit)
        self.tokenizer.no_padding()

    @property
    def modalities(self) -> frozenset[str]:
        """Texts only."""
        return frozenset({"text"})

    @property
    def space(self) -> str:
        """The joint space."""
        return SPACE

    @property
    def dim(self) -> int:
        """Width of the joint space."""
        return self.model.width

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> Tensor:
        """Mean-pooled vectors [B, C] of texts, not normalised, in order."""
        encoded = self.tokenizer.encode_batch(list(texts))
        out = torch.empty(len(encoded), self.dim)
        # Similar lengths share a batch, so little is computed on padding.
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i].ids))
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            longest = len(encoded[rows[-1]].ids)
            ids = torch.zeros(len(rows), longest, dtype=torch.long)
            mask = torch.zeros(len(rows), longest, dtype=torch.bool)
            for place, row in enumerate(rows):
                length = len(encoded[row].ids)
                ids[place, :length] = torch.tensor(encoded[row].ids)
                mask[place, :length] = True
            out[rows] = self.model(ids, mask)
        return out

    def unit(self, texts: Sequence[str]) -> Tensor:
        """Unit-norm embeddings [B, C] of texts."""
        return F.normalize(self.embed(texts), dim=-1)

    def encode(self, parts: Sequence[AnyPart]) -> Encoding:
        """Encode text parts in one batch; `raw` is the mean-pooled vector.

        Raises:
            UserError: a part is not a text.
        """
        texts: list[str] = []
        for part in parts:
            if part.kind != "text":
                raise UserError(f"The text encoder takes texts, not {part.kind}.")
            texts.append(part.data)
        raw = self.embed(texts)
        return Encoding(unit=_array(F.normalize(raw, dim=-1)), raw=_array(raw))

    def close(self) -> None:
        """Nothing to give back beyond the object itself."""


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(tensor.numpy(), dtype=np.float32)


def load_text_encoder(model: Path, tokenizer: Path) -> TextEncoder:
    """The text encoder from a safetensors file and a tokenizer.json.

    Raises:
        ModelError: a file can't be read, or the two don't belong together.
    """
    try:
        words = Tokenizer.from_str(json.dumps(json.loads(tokenizer.read_text("utf-8"))))
    except Exception as error:  # tokenizers raises bare Exception
        raise ModelError(f"{tokenizer.name} is not a tokenizer.json: {error}") from error
    network = load_minilm(model)
    if words.get_vocab_size() > network.words.num_embeddings:
        raise ModelError(
            f"{tokenizer.name} knows {words.get_vocab_size()} tokens, "
            f"{model.name} only {network.words.num_embeddings}."
        )
    return TextEncoder(network, words)


def build(build: Build) -> TextEncoder:
    """Factory: weights "model" (safetensors) and "tokenizer" (tokenizer.json)."""
    return load_text_encoder(build.weights["model"], build.weights["tokenizer"])
