"""Grammars that hold decoding, through llguidance: masks, forced tokens, the end.

A grammar is text in llguidance's Lark dialect. `Held` follows one reply; it knows token ids and
bit masks, no logits and no model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from anybind.core_model.tokenizer import Tokenizer, encode_tail
from anybind.errors import UserError
from anybind.optional import require


class _Wrapped:
    """What llguidance asks of a tokenizer."""

    is_tokenizer_wrapper = True

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = tokenizer.eos
        self.bos_token_id = tokenizer.bos
        self.tokens = tokenizer.token_bytes()
        self.special_token_ids = sorted(tokenizer.special_ids())

    def __call__(self, text: str) -> list[int]:
        # Always the middle of a reply: no space is put before it.
        return encode_tail(self._tokenizer, text)


class GrammarEngine:
    """Compiles grammars for one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._library: Any = require("llguidance", "model")
        self._tokenizer = self._library.LLTokenizer(
            self._library.TokenizerWrapper(_Gtokenizer(_Wrapped(tokenizer)))
        )
        self.vocab_size: int = self._tokenizer.vocab_size

    def hold(self, grammar: str) -> Held:
        """Start a reply that must match `grammar`.

        Raises:
            UserError: the grammar can't be compiled.
        """
        matcher = self._library.LLMatcher(
            self._tokenizer, self._library.LLMatcher.grammar_from_lark(grammar)
        )
        if matcher.is_error():
            raise UserError(f"The grammar can't be compiled: {matcher.get_error()}")
        return Held(matcher, self.vocab_size)


class _Gtokenizer:
    """The shape that `llguidance.TokenizerWrapper` expects; refuses bytes, so it asks for text."""

    def __init__(self, wrapped: _Wrapped) -> None:
        self._wrapped = wrapped
        self.eos_token_id = wrapped.eos_token_id
        self.bos_token_id = wrapped.bos_token_id
        self.tokens = wrapped.tokens
        self.special_token_ids = wrapped.special_token_ids

    def __call__(self, text: str) -> list[int]:
        if not isinstance(text, str):
            raise TypeError("text only")
        return self._wrapped(text)


class Held:
    """One reply under a grammar."""

    def __init__(self, matcher: Any, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size

    def forced(self) -> list[int]:
        """Tokens that must come next; appended without asking the model."""
        return list(self._matcher.compute_ff_tokens())

    def allowed(self) -> NDArray[np.bool_]:
        """Mask [vocab] of tokens that may come next."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        return np.unpackbits(bits, bitorder="little")[: self._vocab_size].astype(np.bool_)

    def take(self, token: int) -> None:
        """Advance by one token.

        Raises:
            UserError: the grammar does not allow it.
        """
        if not self._matcher.consume_token(token):
            raise UserError(
                f"The grammar does not allow token {token}: {self._matcher.get_error()}"
            )

    @property
    def ended(self) -> bool:
        """Whether the reply is complete and nothing may follow."""
        return bool(self._matcher.is_stopped())
