"""The decoder as a `LanguageModel`: prompts in, a stream of text out, under a condition.

Joins decoder, bind network, tokenizer, grammar and KV prefixes. Knows no conversation and no
tool; a prompt is just text.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from anybind.content import Embedding
from anybind.contracts import Delta, Finish, Message, Profile, Sampling
from anybind.core_model.bind import BindNetwork
from anybind.core_model.decoder import Decoder
from anybind.core_model.grammar import GrammarEngine, Held
from anybind.core_model.llama import Site
from anybind.core_model.prefix import PrefixStore, Slot
from anybind.core_model.prompts import LAYOUTS, Renderer
from anybind.core_model.sampling import StopCutter, choose
from anybind.core_model.tokenizer import Detokenizer, Tokenizer, encode_prompt, encode_tail, end_ids
from anybind.errors import ModelError, UserError


class InjectedLanguageModel:
    """A LLaMA whose layers take a bound joint embedding."""

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Tokenizer,
        bind: BindNetwork | None,
        profile: Profile,
        layout: Renderer | None = None,
    ) -> None:
        """`layout` writes the prompts; by default the one that the profile names."""
        self.decoder = decoder
        self.tokenizer = tokenizer
        self.bind = bind
        self.profile = profile
        if layout is None and profile.chat not in LAYOUTS:
            raise ModelError(f"{profile.name} names the layout {profile.chat!r} and brings none.")
        self.layout: Renderer = layout or LAYOUTS[profile.chat]
        self._ends = end_ids(tokenizer)
        self._prefixes = PrefixStore(decoder.new_cache)
        self._grammars: GrammarEngine | None = None
        self._lock = threading.Lock()

    def render(self, messages: Sequence[Message], reply_prefix: str = "") -> str:
        """The prompt of a conversation in this model's layout."""
        return self.layout.render(messages, reply_prefix)

    def count_tokens(self, text: str) -> int:
        """Length of a text in tokens."""
        return len(self.tokenizer.encode(text))

    def stream(
        self, prompt: str, condition: Embedding | None, sampling: Sampling
    ) -> Iterator[Delta | Finish]:
        """Generate; the last item is a `Finish`.

        Raises:
            UserError: the prompt leaves no room in the context, the condition lives in another
                space, or the grammar can't be compiled.
            ModelError: the decoder gave numbers that are not finite.
        """
        # No lock and no inference mode around a yield: both would reach into the caller's code.
        yield from self._stream(prompt, condition, sampling)

    def complete(self, prompt: str, condition: Embedding | None, sampling: Sampling) -> str:
        """The whole reply at once."""
        return "".join(
            item.text
            for item in self.stream(prompt, condition, sampling)
            if isinstance(item, Delta)
        )

    def score(
        self, prompt: str, continuations: Sequence[str], condition: Embedding | None
    ) -> list[float]:
        """Sum of log-probabilities (nats) of each continuation, all in one pass.

        The continuations lie side by side behind the prompt; a mask lets each see the prompt and
        itself only, so the prompt is computed once.
        """
        if not continuations:
            return []
        with torch.inference_mode():
            return self._score(prompt, continuations, condition)

    def batch(
        self,
        prompts: Sequence[str],
        conditions: Sequence[Embedding | None],
        sampling: Sampling,
    ) -> list[str]:
        """Replies to several prompts at once, each under its own condition (greedy only)."""
        if sampling.temperature > 0 or sampling.grammar:
            raise UserError("Batches decode greedily and without grammar; use stream for those.")
        if len(prompts) != len(conditions):
            raise UserError(f"{len(prompts)} prompts and {len(conditions)} conditions.")
        if not prompts:
            return []
        with torch.inference_mode():
            return self._batch(prompts, conditions, sampling)

    def close(self) -> None:
        """Forget the KV prefixes."""
        self._prefixes.clear()

    # ------------------------------------------------------------ inside

    def _stream(
        self, prompt: str, condition: Embedding | None, sampling: Sampling
    ) -> Iterator[Delta | Finish]:
        began = time.perf_counter()
        _check_sampling(sampling)
        ids = self._encode(prompt)
        self._check_room(len(ids) + 1)
        held = self._hold(sampling.grammar) if sampling.grammar else None
        inject = self._inject(condition)
        slot, cached = self._prefixes.take(self._digest(condition), ids, len(ids) + 64)
        try:
            yield from self._decode(ids, cached, slot, inject, held, sampling, began)
        finally:
            self._prefixes.give(slot)

    def _decode(
        self,
        ids: list[int],
        cached: int,
        slot: Slot,
        inject: Tensor | None,
        held: Held | None,
        sampling: Sampling,
        began: float,
    ) -> Iterator[Delta | Finish]:
        limit = self.decoder.config.context_length
        rng = torch.Generator().manual_seed(sampling.seed)
        text, cutter = Detokenizer(self.tokenizer), StopCutter(self._stops(sampling))
        pending, reply = ids[cached:], []
        reason = "length"
        while len(reply) < sampling.max_tokens:
            forced = held.forced() if held is not None else []
            if forced and held is not None:
                yield from self._say(forced, text, cutter, held)
                pending, reply = pending + forced, reply + forced
                if cutter.stopped:
                    reason = "stop"
                    break
            if held is not None and held.ended:
                reason = "grammar"
                break
            if len(slot.tokens) + len(pending) >= limit:
                reason = "context"
                break
            logits = self._advance(slot, pending, inject)
            token = choose(
                logits,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                rng=rng,
                allowed=held.allowed() if held is not None else None,
                seen=reply,
                repetition_penalty=sampling.repetition_penalty,
            )
            pending = [token]
            if token in self._ends:
                reason = "stop"
                break
            reply.append(token)
            if held is not None:
                held.take(token)
            if shown := cutter.push(text.push(token)):
                yield Delta(shown, 1)
            if cutter.stopped:
                reason = "stop"
                break
        if reason == "length" and held is not None and held.ended:
            reason = "grammar"
        if rest := cutter.push(text.flush()) + cutter.flush():
            yield Delta(rest, 0)
        yield Finish(reason, len(ids), len(reply), cached, time.perf_counter() - began)

    def _say(
        self, forced: Sequence[int], text: Detokenizer, cutter: StopCutter, held: Held
    ) -> Iterator[Delta]:
        """Take forced tokens over into the reply; they cost no forward pass of their own."""
        said = ""
        for token in forced:
            held.take(token)
            said += text.push(token)
        if shown := cutter.push(said):
            yield Delta(shown, len(forced), forced=True)

    @torch.inference_mode()
    def _advance(self, slot: Slot, tokens: list[int], inject: Tensor | None) -> Tensor:
        """Run tokens through the decoder; logits [vocab] behind the last one."""
        slot.cache.grow(-(-(slot.cache.length + len(tokens)) // 256) * 256)
        logits = self.decoder(
            torch.tensor([tokens], device=self.decoder.device),
            cache=slot.cache,
            inject=inject,
            site=self._site,
            last_only=True,
        )
        slot.tokens = slot.tokens + tokens
        return logits[0, -1]

    def _score(
        self, prompt: str, continuations: Sequence[str], condition: Embedding | None
    ) -> list[float]:
        ids = self._encode(prompt)
        tails = [encode_tail(self.tokenizer, c) for c in continuations]
        self._check_room(len(ids) + max(map(len, tails)))
        inject = self._inject(condition)
        total = sum(map(len, tails))
        slot, cached = self._prefixes.take(self._digest(condition), ids, len(ids) + total)
        if cached < len(ids) - 1:
            self._advance(slot, ids[cached:-1], inject)
        # One row: the last prompt token, then all continuations, each blind to the others.
        past = len(ids) - 1
        row = [ids[-1], *(t for tail in tails for t in tail)]
        device = self.decoder.device
        mask = torch.zeros(1, 1, len(row), past + len(row), dtype=torch.bool, device=device)
        mask[..., : past + 1] = True
        positions = torch.full((1, len(row)), past, device=device)
        at = 1
        for tail in tails:
            n = len(tail)
            block = torch.ones(n, n, dtype=torch.bool, device=device).tril()
            mask[0, 0, at : at + n, past + at : past + at + n] = block
            positions[0, at : at + n] = torch.arange(past + 1, past + 1 + n, device=device)
            at += n
        slot.cache.grow(past + len(row))
        logits = self.decoder(
            torch.tensor([row], device=device), cache=slot.cache, inject=inject, site=self._site,
            mask=mask, positions=positions,
        )  # fmt: skip
        slot.cache.cut(past)
        slot.tokens = ids[:past]
        self._prefixes.give(slot)
        logs = torch.log_softmax(logits[0].float(), -1)
        scores: list[float] = []
        at = 1
        for tail in tails:
            rows = [0, *range(at, at + len(tail) - 1)]
            scores.append(float(logs[rows, tail].sum()) if tail else 0.0)
            at += len(tail)
        return scores

    def _batch(
        self,
        prompts: Sequence[str],
        conditions: Sequence[Embedding | None],
        sampling: Sampling,
    ) -> list[str]:
        rows = [self._encode(p) for p in prompts]
        width = max(map(len, rows))
        self._check_room(width + 1)
        steps = min(sampling.max_tokens, self.decoder.config.context_length - width)
        tokens = torch.full((len(rows), width), self.tokenizer.eos, device=self.decoder.device)
        cache = self.decoder.new_cache(len(rows), width + steps)
        for i, row in enumerate(rows):
            tokens[i, width - len(row) :] = torch.tensor(row)
            cache.start[i] = width - len(row)
        cache.padded = bool(cache.start.any())
        inject = self._inject_rows(conditions)
        replies: list[list[int]] = [[] for _ in rows]
        done = torch.zeros(len(rows), dtype=torch.bool)
        step = tokens
        for _ in range(steps):
            logits = self.decoder(step, cache=cache, inject=inject, site=self._site, last_only=True)
            if not torch.isfinite(logits).all():
                raise ModelError("The decoder gave logits that are not finite.")
            chosen = logits[:, -1].argmax(-1)
            done |= torch.tensor([int(t) in self._ends for t in chosen])
            if done.all():
                break
            for i in (~done).nonzero().flatten().tolist():
                replies[i].append(int(chosen[i]))
            step = chosen[:, None]
        out: list[str] = []
        for reply in replies:
            cutter = StopCutter(self._stops(sampling))
            out.append(cutter.push(self.tokenizer.decode(reply)) + cutter.flush())
        return out

    def _stops(self, sampling: Sampling) -> tuple[str, ...]:
        """Where a reply ends: as the caller says and as the layout does; a grammar ends itself."""
        return sampling.stop if sampling.grammar else (*sampling.stop, *self.layout.stops)

    @property
    def _site(self) -> Site:
        return self.bind.config.injection if self.bind is not None else "residual"

    def _encode(self, prompt: str) -> list[int]:
        ids = encode_prompt(self.tokenizer, prompt)
        if not ids:
            raise UserError("The prompt is empty.")
        return ids

    def _check_room(self, needed: int) -> None:
        limit = self.decoder.config.context_length
        if needed > limit:
            raise UserError(
                f"The prompt and the shortest reply have {needed} tokens; the context of "
                f"{self.profile.name} holds {limit}."
            )

    def _hold(self, grammar: str) -> Held:
        with self._lock:
            if self._grammars is None:
                self._grammars = GrammarEngine(self.tokenizer)
        return self._grammars.hold(grammar)

    def _inject(self, condition: Embedding | None) -> Tensor | None:
        return None if condition is None else self._inject_rows([condition])

    @torch.inference_mode()
    def _inject_rows(self, conditions: Sequence[Embedding | None]) -> Tensor | None:
        """Vectors [B, layers, dim]; rows without a condition get zeros, which is no injection."""
        if all(c is None for c in conditions):
            return None
        if self.bind is None:
            raise UserError(f"{self.profile.name} takes no condition.")
        rows: list[Tensor] = []
        c = self.decoder.config
        for condition in conditions:
            if condition is None:
                rows.append(torch.zeros(c.n_layers, c.dim, device=self.decoder.device))
                continue
            if condition.space != self.profile.space:
                raise UserError(
                    f"The condition lives in the space {condition.space!r}; "
                    f"{self.profile.name} takes {self.profile.space!r}."
                )
            if condition.data.shape != (self.bind.config.joint_dim,):
                raise UserError(
                    f"The condition has the shape {condition.data.shape}; {self.profile.name} takes "
                    f"vectors of {self.bind.config.joint_dim}."
                )
            feature = torch.from_numpy(condition.data).float()[None]
            rows.append(self.bind(feature, self.decoder)[0])
        return torch.stack(rows)

    @staticmethod
    def _digest(condition: Embedding | None) -> str:
        if condition is None:
            return ""
        return hashlib.sha256(condition.data.tobytes()).hexdigest()


def _check_sampling(sampling: Sampling) -> None:
    if not 0 <= sampling.temperature < float("inf"):
        raise UserError(f"A temperature is a number of 0 or more, not {sampling.temperature}.")
    if not 0 < sampling.top_p <= 1:
        raise UserError(f"top_p lies above 0 and up to 1, not {sampling.top_p}.")
    if not 0 < sampling.repetition_penalty < float("inf"):
        raise UserError(f"A repetition penalty is above 0, not {sampling.repetition_penalty}.")


def with_name(profile: Profile, name: str) -> Profile:
    """The same profile under another name."""
    return replace(profile, name=name)
