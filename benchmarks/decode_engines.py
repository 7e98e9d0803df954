"""The engines that `decode.py` compares, each behind the same three calls.

An engine reads ids and gives greedy tokens; nothing but the decoder is timed: no tokenizer, no
sampling beyond an argmax.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

OURS = ("float32", "bfloat16", "int8", "int4")
THEIRS = ("transformers-float32", "transformers-bfloat16", "llama.cpp")


class Engine(Protocol):
    """One way to run the decoder."""

    def start(self, ids: Sequence[int], room: int) -> int:
        """Forget all, read a prompt, give the next token."""
        ...

    def go_on(self, token: int, count: int) -> list[int]:
        """`count` more tokens behind `token`, greedily."""
        ...

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """Logits [T, vocab] at every position of a text."""
        ...


class Ours:
    """This project's decoders."""

    def __init__(self, path: Path, precision: str, threads: int) -> None:
        import torch

        from anybind.core_model.checkpoints import load_decoder
        from anybind.core_model.fast import from_gguf, with_precision

        torch.set_num_threads(threads)
        self.torch = torch
        if precision in ("int8", "int4"):
            self.decoder: Any = from_gguf(path, precision)[0]
        else:
            model = load_decoder(path, dtype=getattr(torch, precision))[0]
            self.decoder = with_precision(model, precision)
        self.cache: Any = None

    def _next(self, ids: Sequence[int]) -> int:
        with self.torch.inference_mode():
            logits = self.decoder(self.torch.tensor([ids]), cache=self.cache, last_only=True)
        return int(logits[0, -1].argmax())

    def start(self, ids: Sequence[int], room: int) -> int:
        self.cache = self.decoder.new_cache(1, len(ids) + room)
        return self._next(ids)

    def go_on(self, token: int, count: int) -> list[int]:
        out = [token]
        for _ in range(count):
            out.append(self._next(out[-1:]))
        return out[1:]

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        with self.torch.inference_mode():
            return self.decoder(self.torch.tensor([ids]))[0].float().numpy()


class Transformers:
    """`LlamaForCausalLM.generate` on the same tensors."""

    def __init__(self, path: Path, precision: str, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.torch = torch
        self.model = _theirs(path).to(getattr(torch, precision))
        self.ids: list[int] = []

    def _generate(self, ids: Sequence[int], count: int) -> list[int]:
        prompt = self.torch.tensor([ids])
        out = self.model.generate(
            prompt, attention_mask=self.torch.ones_like(prompt), do_sample=False,
            max_new_tokens=count, min_new_tokens=count, pad_token_id=0,
        )  # fmt: skip
        return out[0, len(ids) :].tolist()

    def start(self, ids: Sequence[int], room: int) -> int:
        self.ids = list(ids)
        return self._generate(ids, 1)[0]

    def go_on(self, token: int, count: int) -> list[int]:
        # `generate` reads its prompt anew; the caller takes the time of that off.
        return self._generate([*self.ids], count + 1)[1:]

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        with self.torch.inference_mode():
            return self.model(self.torch.tensor([ids])).logits[0].float().numpy()


class LlamaCpp:
    """llama.cpp on the same file, through llama-cpp-python."""

    def __init__(self, path: Path, threads: int, every: bool) -> None:
        import llama_cpp

        self.api = llama_cpp
        self.model = llama_cpp.Llama(
            str(path), n_ctx=4096, n_threads=threads, n_threads_batch=threads, n_batch=512,
            logits_all=every, verbose=False,
        )  # fmt: skip

    def _next(self, ids: Sequence[int]) -> int:
        self.model.eval(list(ids))
        pointer = self.model._ctx.get_logits_ith(-1)
        return int(np.ctypeslib.as_array(pointer, shape=(self.model.n_vocab(),)).argmax())

    def start(self, ids: Sequence[int], room: int) -> int:
        self.model.reset()
        return self._next(ids)

    def go_on(self, token: int, count: int) -> list[int]:
        out = [token]
        for _ in range(count):
            out.append(self._next(out[-1:]))
        return out[1:]

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        self.model.reset()
        self.model.eval(list(ids))
        return np.array(self.model.scores[: len(ids)], np.float32)


def make(name: str, path: Path, threads: int, *, every: bool = False) -> Engine:
    """An engine by name; `every` if logits of all positions will be asked for."""
    if name == "llama.cpp":
        return LlamaCpp(path, threads, every)
    if name.startswith("transformers-"):
        return Transformers(path, name.removeprefix("transformers-"), threads)
    return Ours(path, name, threads)


def rereads(name: str) -> bool:
    """Whether `go_on` reads the prompt again."""
    return name.startswith("transformers-")


def peak_memory() -> int:
    """Most bytes this process ever had resident."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most << 10


def _theirs(path: Path) -> Any:
    """Transformers' model around our tensors; query and key rows in its order."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from anybind.core_model.checkpoints.gguf import read_gguf

    c, state, _ = read_gguf(path)
    with torch.device("meta"):
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=c.vocab_size, hidden_size=c.dim, intermediate_size=c.ffn_dim,
                num_hidden_layers=c.n_layers, num_attention_heads=c.n_heads,
                num_key_value_heads=c.n_kv_heads, rms_norm_eps=c.norm_eps,
                max_position_embeddings=c.context_length, tie_word_embeddings=c.tied,
                rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta},
            )
        )  # fmt: skip
    names = {
        "attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj",
        "attention.wv": "self_attn.v_proj", "attention.wo": "self_attn.o_proj",
        "attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
        "feed_forward.w1": "mlp.gate_proj", "feed_forward.w2": "mlp.down_proj",
        "feed_forward.w3": "mlp.up_proj",
    }  # fmt: skip
    named = {
        "model.embed_tokens.weight": state["tok_embeddings.weight"],
        "model.norm.weight": state["norm.weight"],
        "lm_head.weight": state.get("output.weight", state["tok_embeddings.weight"]),
    }
    for i in range(c.n_layers):
        for mine, name in names.items():
            tensor = state.pop(f"layers.{i}.{mine}.weight")
            if mine in ("attention.wq", "attention.wk"):
                # Neighbouring pairs (2j, 2j+1) become halves (j, j + head_dim / 2).
                pairs = tensor.view(-1, c.head_dim // 2, 2, c.dim)
                tensor = pairs.transpose(1, 2).reshape(tensor.shape)
            named[f"model.layers.{i}.{name}.weight"] = tensor
    model.load_state_dict(named, assign=True, strict=True)
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    model.tie_weights()
    model.generation_config.eos_token_id = None
    return model.eval().requires_grad_(False)
