"""A model folder's own chat template: Jinja source, run in a sandbox.

Knows files, text and special tokens; no model. The template comes with the weights of a stranger:
it can read the conversation it is given, and nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from anybind.contracts import Message
from anybind.core_model.prompts import with_input, without
from anybind.core_model.tokenizer import Tokenizer
from anybind.errors import ModelError
from anybind.optional import require

_LONGEST = 200_000
"""Characters of a template; those of real models have a few thousand."""


class ChatTemplate:
    """Renders conversations as the authors of a model wrote them down.

    Args:
        source: The Jinja source.
        special: The special tokens as text; they are taken out of what people and files say.
        bos: Text of the token that begins a prompt.
        eos: Text of the token that ends a reply.
        options: Further variables for the template (`enable_thinking` of Qwen3 ...).

    Raises:
        ModelError: the source is no template.
    """

    def __init__(
        self,
        source: str,
        *,
        special: Sequence[str] = (),
        bos: str = "",
        eos: str = "",
        options: dict[str, Any] | None = None,
    ) -> None:
        if len(source) > _LONGEST:
            raise ModelError(f"The chat template has {len(source)} characters; {_LONGEST} at most.")
        sandbox: Any = require("jinja2.sandbox", "transformers")
        environment = sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        try:
            self._template = environment.from_string(source)
        except Exception as error:  # foreign code
            raise ModelError(f"The chat template can't be read: {error}") from error
        marks = sorted({s for s in (*special, bos, eos) if s}, key=len, reverse=True)
        self._marks = re.compile("|".join(map(re.escape, marks)) or r"(?!)")
        self._variables = {"bos_token": bos, "eos_token": eos, **(options or {})}
        self.stops: tuple[str, ...] = (eos,) if eos else ()

    @classmethod
    def from_folder(
        cls, folder: Path, tokenizer: Tokenizer, options: dict[str, Any] | None = None
    ) -> ChatTemplate | None:
        """The template of a Hugging Face folder, or None if it has none.

        `chat_template.jinja` comes before the key in tokenizer_config.json; of several named ones
        it is that called "default".

        Raises:
            ModelError: a file can't be read.
        """
        config: dict[str, Any] = {}
        try:
            if (folder / "tokenizer_config.json").is_file():
                config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
            source: Any = config.get("chat_template")
            if isinstance(source, list):
                source = {str(t["name"]): t["template"] for t in source}.get("default")
            if (folder / "chat_template.jinja").is_file():
                source = (folder / "chat_template.jinja").read_text(encoding="utf-8")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"The chat template of {folder.name} can't be read: {error!r}"
            ) from error
        if not isinstance(source, str) or not source.strip():
            return None
        table = tokenizer.token_bytes()
        texts = [table[i].decode("utf-8", "replace") for i in tokenizer.special_ids()]
        return cls(
            source,
            special=texts,
            bos=_token(config.get("bos_token")) or _named(table, tokenizer.bos),
            eos=_token(config.get("eos_token")) or _named(table, tokenizer.eos),
            options=options,
        )

    def render(self, messages: Sequence[Message], reply_prefix: str = "") -> str:
        """The prompt of a conversation, open at the reply.

        Some templates refuse system texts; those go in front of the first message then.

        Raises:
            ModelError: the template fails on this conversation.
        """
        plain = [(m.role, without(self._marks, with_input(m), " ")) for m in messages]
        try:
            return self._write(plain) + reply_prefix
        except Exception as error:  # foreign code
            system = "\n\n".join(text for role, text in plain if role == "system")
            rest = [(role, text) for role, text in plain if role != "system"]
            if not system or not rest:
                raise ModelError(f"The chat template fails: {error}") from error
            rest[0] = (rest[0][0], f"{system}\n\n{rest[0][1]}")
        try:
            return self._write(rest) + reply_prefix
        except Exception as error:  # foreign code
            raise ModelError(f"The chat template fails: {error}") from error

    def _write(self, turns: Sequence[tuple[str, str]]) -> str:
        messages = [{"role": role, "content": text} for role, text in turns]
        variables = {"messages": messages, "add_generation_prompt": True, "tools": None}
        return str(self._template.render(variables | self._variables))


def _token(value: Any) -> str:
    """A special token as tokenizer_config.json writes it: a text, or an object with one."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""


def _named(table: Sequence[bytes], token: int | None) -> str:
    return "" if token is None else table[token].decode("utf-8", "replace")


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> None:
    raise ValueError(message)
