"""The one string of a GPT4Tools call -> a tool and its arguments.

Pure functions. A call names a tool and gives one line, `a, b, c`; only the last argument may
hold commas (unless the others are quoted). Whatever a model writes, the only error is
`ToolError`, worded so that a small model can do it right the next time.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

from anybind.contracts import Tool
from anybind.errors import ToolError

_PAIRS = {'"': '"', "'": "'", "`": "`", "“": "”", "‘": "’"}
_QUOTED = re.compile(r"""\s*(?:"([^"]*)"|'([^']*)'|`([^`]*)`|“([^”]*)”)\s*(?:,|$)""")
_ARTICLES = {"the", "a", "an"}
# Names that models and the data sets of GPT4Tools write for tools whose real name differs.
ALIASES = {
    "detect object": "Detect the Give Object",
    "detect objects": "Detect the Give Object",
    "detect given": "Detect the Give Object",
    "object detection": "Detect the Give Object",
    "segment object": "Segment the given object",
    "remove object from photo": "Remove Something From The Photo",
    "replace object from photo": "Replace Something From The Photo",
}


def split_arguments(raw: str, tool: Tool) -> tuple[str, ...]:
    """The arguments of a call, one a parameter: stripped, unquoted, none empty.

    Splits at commas, at most arity - 1 times; commas inside a quoted argument don't count.

    Raises:
        ToolError: too few arguments, or an empty one; says what the tool takes.
    """
    arity = len(tool.parameters)
    if arity == 0:
        return ()
    rest = _unquote(raw)
    parts: list[str] = []
    while len(parts) < arity - 1:
        # A quote opens an argument only if it is closed right before a comma or the end.
        quoted = _QUOTED.match(rest)
        if quoted:
            parts.append(next(group for group in quoted.groups() if group is not None))
            rest = rest[quoted.end() :]
        else:
            part, _, rest = rest.partition(",")
            parts.append(part)
    parts.append(rest)
    parts = [_unquote(part) for part in parts]
    if not all(parts):
        raise ToolError(f"{tool.name} takes {_usage(tool)}; got {_quote(raw)}.")
    return tuple(parts)


def join_arguments(parts: Sequence[str]) -> str:
    """The line of a call, as GPT4Tools writes it: `a, b, c`.

    `split_arguments` gives the same parts back, if none but the last holds a comma.
    """
    return ", ".join(parts)


def resolve_name(name: str, tools: Iterable[Tool]) -> Tool:
    """The tool that a model means: exact, else other case, articles, "Given", or an alias.

    Raises:
        ToolError: there is no such tool, or two are meant; lists the tools there are.
    """
    offered = {tool.name: tool for tool in tools}
    name = name.strip()
    if name in offered:
        return offered[name]
    key = _key(name)
    alias = ALIASES.get(key)
    keys = {key} if alias is None else {key, _key(alias)}
    meant = [tool for tool in offered.values() if _key(tool.name) in keys]
    if len(meant) == 1 and key:
        return meant[0]
    near = difflib.get_close_matches(name.casefold(), [n.casefold() for n in offered], 1, 0.75)
    hint = next((f" Did you mean {n}?" for n in offered if near and n.casefold() == near[0]), "")
    listed = "; ".join(offered) or "none"
    raise ToolError(f"There is no tool {_quote(name)}.{hint} The tools are: {listed}.")


def _key(name: str) -> str:
    """What stays of a name when spelling habits are taken off it."""
    words = re.sub(r"[^\w]|_", " ", name.casefold()).split()
    return " ".join("give" if w == "given" else w for w in words if w not in _ARTICLES)


def _unquote(text: str) -> str:
    text = text.strip()
    if len(text) >= 2 and _PAIRS.get(text[0]) == text[-1]:
        inner = text[1:-1]
        if text[0] not in inner and text[-1] not in inner:
            return inner.strip()
    return text


def _usage(tool: Tool) -> str:
    names = ", ".join(parameter.name for parameter in tool.parameters)
    count = len(tool.parameters)
    return f"{count} argument{'s' * (count != 1)} ({names})"


def _quote(text: str) -> str:
    text = " ".join(text.split())
    return f'"{text[:117]}..."' if len(text) > 120 else f'"{text}"'
