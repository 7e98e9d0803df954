"""Any causal decoder that `transformers` can load, behind our `Decoder` protocol.

The layers get the condition through hooks, so no model is patched: `residual` adds one vector per
layer and row to what enters a layer (paper eq. 2), `attention_output` adds it behind the output
projection of the attention, where the model has separate value and output projections. Keys and
values are kept whole in preallocated tensors, also for layers with a sliding window (the window
is in the mask), so that a prefix can be cut back to any length.

Knows tensors and the library; no tokenizer, no prompt. Reading folders is in
`anybind.core_model.transformers_loading`.
"""

from __future__ import annotations

import inspect
import threading
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anybind.core_model.identity import identity
from anybind.core_model.kv_cache import next_positions, visible
from anybind.core_model.llama import Site
from anybind.core_model.transformers_cache import TransformersCache
from anybind.errors import ModelError

_KINDS = {"full_attention", "sliding_attention"}
_PARTS = ("attention.wv", "attention.wo", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3")
_LLAMA_PARTS = (
    "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj", "mlp.up_proj",
)  # fmt: skip


@dataclass(frozen=True)
class TransformersConfig:
    """The sizes of a decoder of another library, in our names."""

    vocab_size: int
    """Width of the logits."""
    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    context_length: int
    model_type: str


class TransformersDecoder:
    """A causal language model of transformers as a `Decoder`.

    Args:
        model: A `...ForCausalLM` in evaluation mode.

    Raises:
        ModelError: its layers can't be found or are not plain attention layers, or a probe shows
            that caches, masks and padding don't act on it as they must.
    """

    def __init__(self, model: Any) -> None:
        text = model.config.get_text_config(decoder=True)
        self.model = model.eval()
        self.blocks = find_layers(model, int(text.num_hidden_layers))
        self.config = _sizes(model, text)
        self._kinds = _attention_kinds(text)
        self._window = int(getattr(text, "sliding_window", None) or 0)
        takes = inspect.signature(model.forward).parameters
        if "position_ids" not in takes or "past_key_values" not in takes:
            raise ModelError(
                f"{self.config.model_type} models take no positions or no key/value cache; "
                "they can't be a base."
            )
        self._keeps = "logits_to_keep" in takes
        self._eager = getattr(text, "_attn_implementation", "sdpa") == "eager"
        self._now = threading.local()
        self._visited: list[tuple[int, ...]] | None = None
        for i, block in enumerate(self.blocks):
            block.register_forward_pre_hook(self._adding(i), with_kwargs=True)
        self._attentions = [_attention_of(b) for b in self.blocks]
        if all(a is not None for a in self._attentions):
            for i, attention in enumerate(self._attentions):
                attention.o_proj.register_forward_hook(self._behind(i))
        self._probe()

    # ------------------------------------------------------------ the protocol

    @property
    def device(self) -> torch.device:
        """Where token ids are expected."""
        return self.model.get_input_embeddings().weight.device

    @property
    def identity(self) -> str:
        """Which weights these are (see `anybind.core_model.identity`); of a LLaMA the same as our
        own decoder's, of others a digest over the first five matrices of three layers."""
        embedding = self.model.get_input_embeddings().weight
        state = {"tok_embeddings.weight": embedding}
        for i, block in enumerate(self.blocks):
            named = {n.removesuffix(".weight"): p for n, p in block.named_parameters()}
            plain = [named[n] for n in sorted(named) if named[n].dim() == 2]
            parts = [named.get(n) for n in _LLAMA_PARTS]
            chosen = parts if all(p is not None for p in parts) else plain
            for name, parameter in zip(_PARTS, chosen * len(_PARTS), strict=False):
                state[f"layers.{i}.{name}.weight"] = parameter
        return identity(state)

    @property
    def sites(self) -> frozenset[Site]:
        """Where a condition can enter this model."""
        plain = all(a is not None for a in self._attentions)
        return frozenset({"residual", "attention_output"} if plain else {"residual"})

    def attention_condition(self, vectors: Tensor, gates: Tensor) -> Tensor:
        """What a condition adds behind each layer's attention, [B, n_layers, dim]:
        `Wo(gates_l,h * (Wv a_l)_h)` without biases; value heads repeat for their query heads.

        Args:
            vectors: a, [B, n_layers, dim].
            gates: [n_layers, n_heads], past their tanh.

        Raises:
            ModelError: the model has no separate value and output projections.
        """
        self.check_site("attention_output")
        c = self.config
        out: list[Tensor] = []
        for i, attention in enumerate(self._attentions):
            wv, wo = attention.v_proj.weight, attention.o_proj.weight
            value = F.linear(vectors[:, i].to(wv), wv).view(-1, c.n_kv_heads, c.head_dim)
            value = value.repeat_interleave(c.n_heads // c.n_kv_heads, 1)
            value = value * gates[i].to(value)[None, :, None]
            out.append(F.linear(value.flatten(1), wo))
        return torch.stack(out, 1)

    def check_site(self, site: Site) -> None:
        """Whether a condition can enter at `site`.

        Raises:
            ModelError: it can't; says where it can.
        """
        if site not in self.sites:
            raise ModelError(
                f"{self.config.model_type} has no separate value and output projections, so no "
                f"condition can enter at {site!r}; use a bind network in 'residual' mode."
            )

    def new_cache(self, batch: int, capacity: int) -> TransformersCache:
        """An empty cache for `batch` rows, with room for `capacity` positions."""
        return TransformersCache(self.config.n_layers, batch, capacity, self.device)

    def __call__(
        self,
        tokens: Tensor,
        *,
        cache: TransformersCache | None = None,
        inject: Tensor | None = None,
        site: Site = "residual",
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        last_only: bool = False,
    ) -> Tensor:
        """Logits [B, T or 1, vocab]; arguments as for `Llama.forward`.

        Raises:
            ModelError: this model has no such place for a condition.
        """
        if inject is not None:
            self.check_site(site)
        tokens = tokens.to(self.device)
        batch, time = tokens.shape
        past = cache.length if cache is not None else 0
        given = positions
        if positions is None:
            positions = next_positions(cache, time, tokens.device)
        positions = positions.to(tokens.device).expand(batch, time)
        attention: Any = None
        if mask is not None or given is not None or (cache is not None and cache.padded):
            attention = self._masks(mask, positions, cache, past, time)
        options: dict[str, Any] = {"logits_to_keep": 1} if last_only and self._keeps else {}
        self._now.inject, self._now.site = inject, site
        try:
            out = self.model(
                input_ids=tokens,
                attention_mask=attention,
                position_ids=positions,
                past_key_values=cache.inner if cache is not None else None,
                use_cache=cache is not None,
                **options,
            )
        finally:
            self._now.inject = None
        if cache is not None:
            cache.length = past + time
        return out.logits[:, -1:] if last_only else out.logits

    # ------------------------------------------------------------ inside

    def _adding(self, layer: int) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            hidden = args[0] if args else kwargs["hidden_states"]
            if self._visited is not None:
                self._visited.append((layer, *hidden.shape))
            inject = getattr(self._now, "inject", None)
            if inject is None or self._now.site != "residual":
                return None
            hidden = hidden + inject[:, layer : layer + 1].to(hidden)
            return (
                ((hidden, *args[1:]), kwargs)
                if args
                else (args, kwargs | {"hidden_states": hidden})
            )

        return hook

    def _behind(self, layer: int) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor | None:
            inject = getattr(self._now, "inject", None)
            if inject is None or self._now.site != "attention_output":
                return None
            return out + inject[:, layer : layer + 1].to(out)

        return hook

    def _masks(
        self,
        mask: Tensor | None,
        positions: Tensor,
        cache: TransformersCache | None,
        past: int,
        time: int,
    ) -> Any:
        """What each kind of layer may see, [B, 1, T, S] of bool (or of numbers to add)."""
        device = positions.device
        start = (
            cache.start if cache is not None else torch.zeros(1, dtype=torch.long, device=device)
        )
        before = torch.arange(past, device=device)[None] - start[:, None]
        before = before.expand(positions.shape[0], past)
        if mask is None:
            mask = visible(past, time, start, device)
        mask = mask.to(device)
        masks = {"full_attention": mask}
        if "sliding_attention" in self._kinds:
            # The window counts positions, not columns: continuations that lie side by side share
            # theirs.
            at = torch.cat([before, positions], 1)
            near = positions[:, None, :, None] - at[:, None, None, :] < self._window
            masks["sliding_attention"] = mask & near
        if self._eager:
            masks = {k: self._added(m) for k, m in masks.items()}
        return next(masks[k] for k in self._kinds) if len(self._kinds) == 1 else masks

    def _added(self, mask: Tensor) -> Tensor:
        dtype = self.model.dtype
        zeros = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
        return zeros.masked_fill(~mask, torch.finfo(dtype).min)

    @torch.no_grad()
    def _probe(self) -> None:
        """Six tokens at once, and the same in two steps behind padding, must agree."""
        c = self.config
        tokens = (torch.arange(6) * 7 + 1)[None] % c.vocab_size
        self._visited = []
        try:
            whole = self(tokens)[:, -1].float()
            seen = self._visited
            self._visited = None
            if seen != [(i, 1, 6, c.dim) for i in range(c.n_layers)]:
                raise ModelError(
                    f"The layers of {c.model_type} do not run once each, in order, on hidden "
                    f"states [batch, time, {c.dim}]; it can't be a base."
                )
            cache = self.new_cache(1, 8)
            cache.start[0], cache.padded = 2, True
            padded = torch.cat([tokens[:, :1].expand(1, 2), tokens], 1)
            self(padded[:, :5], cache=cache)
            cut = self(padded[:, 5:], cache=cache, last_only=True)[:, -1].float()
        except (TypeError, ValueError, KeyError, IndexError, AttributeError, RuntimeError) as error:
            raise ModelError(f"{c.model_type} models can't be a base: {error!r}") from error
        finally:
            self._visited = None
        if whole.shape[-1] != c.vocab_size:
            raise ModelError(f"{c.model_type} gives {whole.shape[-1]} logits, not {c.vocab_size}.")
        away = float((cut - whole).norm() / whole.norm().clamp(min=1e-9))
        if not away < (1e-3 if self.model.dtype == torch.float32 else 0.1):
            raise ModelError(
                f"{c.model_type} does not give the same logits with a key/value cache behind "
                f"padding as without (off by {away:.1%}); it can't be a base."
            )


# ---------------------------------------------------------------- reading the structure


def find_layers(model: Any, count: int) -> nn.ModuleList:
    """The list of decoder layers: the one `ModuleList` of `count` entries that all look alike.

    Raises:
        ModelError: there is none, or more than one.
    """
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    decoder = decoder if isinstance(decoder, nn.Module) else model
    found: dict[str, nn.ModuleList] = {}
    for name, module in decoder.named_modules():
        if any(name == n or name.startswith(f"{n}.") for n in found):
            continue  # a list inside a layer (experts) is none of its own
        if isinstance(module, nn.ModuleList) and len(module) == count:
            if len({type(block) for block in module}) == 1 and any(
                True for _ in module.parameters()
            ):
                found[name] = module
    if len(found) != 1:
        what = f"{len(found)} lists ({', '.join(found)})" if found else "no list"
        raise ModelError(
            f"{type(model).__name__} has {what} of {count} alike layers (num_hidden_layers of its "
            "configuration); where to inject a condition can't be told."
        )
    return next(iter(found.values()))


def _attention_of(block: nn.Module) -> Any:
    """The attention of a layer if it has separate value and output projections, else None."""
    for _, child in block.named_children():
        linear = (getattr(child, "v_proj", None), getattr(child, "o_proj", None))
        if all(isinstance(m, nn.Linear) for m in linear):
            return child
    return None


def _sizes(model: Any, text: Any) -> TransformersConfig:
    heads, dim = getattr(text, "num_attention_heads", None), getattr(text, "hidden_size", None)
    if not heads or not dim or model.get_output_embeddings() is None:
        raise ModelError(f"{text.model_type} is not a decoder with attention and an output head.")
    return TransformersConfig(
        vocab_size=int(model.get_output_embeddings().weight.shape[0]),
        dim=dim,
        n_layers=int(text.num_hidden_layers),
        n_heads=int(heads),
        n_kv_heads=int(getattr(text, "num_key_value_heads", None) or heads),
        head_dim=int(getattr(text, "head_dim", None) or dim // heads),
        context_length=_context_length(text),
        model_type=str(text.model_type),
    )


def _context_length(text: Any) -> int:
    """Positions the model knows.

    Rotary scalings that change with the length of the text would make keys in a cache disagree
    with later ones, so those models are held to the length they were first trained at.
    """
    length = getattr(text, "max_position_embeddings", None)
    if not length:
        raise ModelError(
            f"The configuration of {text.model_type} names no max_position_embeddings."
        )
    rope: Any = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    kind = rope.get("rope_type", rope.get("type")) if isinstance(rope, dict) else None
    if kind in ("dynamic", "longrope"):
        first = rope.get("original_max_position_embeddings") or getattr(
            text, "original_max_position_embeddings", None
        )
        length = min(int(length), int(first or length))
    return int(length)


def _attention_kinds(text: Any) -> tuple[str, ...]:
    types = getattr(text, "layer_types", None)
    if not types:
        sliding = getattr(text, "sliding_window", None)
        return ("sliding_attention",) if sliding else ("full_attention",)
    kinds = tuple(sorted(set(types)))
    if odd := sorted(set(kinds) - _KINDS):
        raise ModelError(
            f"{text.model_type} has layers of the kind {', '.join(odd)}, whose state can't be cut "
            "back; bases have full or sliding-window attention in every layer."
        )
    return kinds
