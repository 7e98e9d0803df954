"""`@tool`: a function becomes a tool; its signature and docstring are the contract.

Argument kinds come from the annotations: a content class (`Image`, `Audio` ...) is passed by
artifact name, `str` as text. A first parameter annotated `ToolContext` is filled in by the loop.
Descriptions of arguments are read from a Google-style `Args:` section.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, cast, get_type_hints

from pydantic import ConfigDict, Field, ValidationError, create_model

from anybind.content import KINDS, AnyPart, Part
from anybind.contracts import Parameter, ToolContext, ToolResult
from anybind.errors import PluginError, ToolError

_KIND_OF = {cls: kind for kind, cls in KINDS.items()}
_ARG_LINE = re.compile(r"^\s{4,}(\w+)\s*(?:\([^)]*\))?:\s*(.+)$")


@dataclass(frozen=True)
class FunctionTool:
    """A tool made from a function; see `tool`."""

    name: str
    description: str
    parameters: tuple[Parameter, ...]
    requires: tuple[str, ...]
    function: Callable[..., Any]
    takes_context: bool

    def run(self, context: ToolContext, arguments: Mapping[str, Any]) -> ToolResult:
        """Check the arguments against the signature and call the function."""
        checked = self._check(arguments)
        value = (
            self.function(context, **checked) if self.takes_context else self.function(**checked)
        )
        if isinstance(value, ToolResult):
            return value
        if isinstance(value, Part):
            return ToolResult(parts=(cast("AnyPart", value),))
        if isinstance(value, str):
            return ToolResult(observation=value)
        raise PluginError(
            f"The tool {self.name!r} returned {type(value).__name__}; "
            "return a part, a str or a ToolResult."
        )

    def schema(self) -> dict[str, Any]:
        """JSON schema of the arguments, content given by artifact name."""
        return {
            "type": "object",
            "properties": {
                p.name: {"type": "string", "description": p.description, "contentKind": p.kind}
                for p in self.parameters
            },
            "required": [p.name for p in self.parameters],
        }

    def _check(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for parameter in self.parameters:
            if parameter.kind == "text":
                fields[parameter.name] = (Annotated[str, Field(min_length=1)], ...)
            else:
                fields[parameter.name] = (KINDS[parameter.kind], ...)
        config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")
        model = create_model("Arguments", __config__=config, **fields)
        try:
            checked = model(**arguments)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(x) for x in first["loc"]) or "arguments"
            raise ToolError(f"{self.name}: {where}: {first['msg']}") from error
        return {p.name: getattr(checked, p.name) for p in self.parameters}


def tool(
    name: str, *, requires: tuple[str, ...] = (), description: str | None = None
) -> Callable[[Callable[..., AnyPart | str | ToolResult]], FunctionTool]:
    """Make a tool of a function.

    Args:
        name: The name that the model writes; no comma, no newline.
        requires: See `anybind.contracts.Tool.requires`.
        description: What the model reads; by default the docstring up to `Args:`.

    Raises:
        PluginError: the signature can't be a tool; the message names the parameter.
    """

    def wrap(function: Callable[..., AnyPart | str | ToolResult]) -> FunctionTool:
        if not name.strip() or re.search(r"[,\n\[\]]", name):
            raise PluginError(f"A tool can't be called {name!r}: no comma, bracket or newline.")
        text, argument_docs = _docstring(function)
        if not (description or text):
            raise PluginError(f"The tool {name!r} needs a docstring: the model reads it.")
        parameters, takes_context = _parameters(name, function, argument_docs)
        return FunctionTool(
            name, description or text, parameters, requires, function, takes_context
        )

    return wrap


def _docstring(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    doc = inspect.getdoc(function) or ""
    text, _, rest = doc.partition("\nArgs:")
    found = (_ARG_LINE.match(line) for line in rest.splitlines())
    return " ".join(text.split()), {m.group(1): m.group(2).strip() for m in found if m}


def _parameters(
    name: str, function: Callable[..., Any], docs: Mapping[str, str]
) -> tuple[tuple[Parameter, ...], bool]:
    try:
        hints = get_type_hints(function)
    except (NameError, TypeError) as error:
        raise PluginError(
            f"The tool {name!r}: the annotations of its parameters can't be read ({error}); "
            "import what they name at run time."
        ) from error
    parameters: list[Parameter] = []
    takes_context = False
    for index, (key, parameter) in enumerate(inspect.signature(function).parameters.items()):
        hint = hints.get(key)
        if index == 0 and hint is ToolContext:
            takes_context = True
        elif parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise PluginError(f"The tool {name!r}: parameter {key!r} must be a plain one.")
        elif hint is str:
            parameters.append(Parameter(key, "text", docs.get(key, "")))
        elif isinstance(hint, type) and hint in _KIND_OF:
            parameters.append(Parameter(key, _KIND_OF[hint], docs.get(key, "")))
        else:
            raise PluginError(
                f"The tool {name!r}: parameter {key!r} must be annotated str or a content class "
                f"({', '.join(c.__name__ for c in _KIND_OF)}), not {hint!r}."
            )
    return tuple(parameters), takes_context
