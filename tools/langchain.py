"""A bridge to LangChain, both ways. Needs the extra `langchain` (langchain-core alone).

Content never goes through text: LangChain agents pass names, and a dictionary that the caller
keeps says which part a name stands for. No file is opened here.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, cast

from anybind.content import AnyPart, Part
from anybind.contracts import Parameter, Tool, ToolContext, ToolResult
from anybind.errors import ControlFlow, PluginError, ToolError
from anybind.optional import require

if TYPE_CHECKING:
    from langchain_core.tools import BaseTool, StructuredTool

_EXTENSIONS = {"image": "png", "audio": "wav", "text": "txt", "boxes": "json", "point": "ply"}


def to_langchain(
    tool: Tool, context: ToolContext, parts: MutableMapping[str, AnyPart] | None = None
) -> StructuredTool:
    """An anybind tool as a LangChain tool.

    Args:
        tool: The tool.
        context: What it runs in.
        parts: Name -> part: how content arguments given by name are found, and where results
            are put under new names (`image/1a2b3c4d.png`), so that the next call can use them.
            Share one dictionary among the tools of an agent.

    The tool's content is the observation (or the names of the new parts), its artifact the tuple
    of parts. A `ToolError` comes back as the content of a message with status "error".

    Raises:
        MissingExtra: langchain-core is not installed.
    """
    tools: Any = require("langchain_core.tools", "langchain")
    shelf: MutableMapping[str, AnyPart] = {} if parts is None else parts

    def call(**arguments: Any) -> tuple[str, tuple[AnyPart, ...]]:
        try:
            given = {p.name: _value(p, arguments[p.name], shelf) for p in tool.parameters}
            result = tool.run(context, given)
        except (ToolError, ControlFlow) as error:
            raise tools.ToolException(str(error)) from error
        names: list[str] = []
        for part in result.parts:
            name = part.name or f"{part.kind}/{secrets.token_hex(4)}.{_extension(part)}"
            shelf[name] = part
            names.append(name)
        return result.observation or ", ".join(names), result.parts

    return tools.StructuredTool.from_function(
        func=call,
        name=tool.name,
        description=tool.description,
        args_schema=_schema(tool),
        response_format="content_and_artifact",
        handle_tool_error=True,
    )


def from_langchain(tool: BaseTool) -> Tool:
    """A LangChain tool as an anybind tool: text in, text out.

    Its required arguments become the parameters, in their order; optional ones keep their
    defaults, because a call in the GPT4Tools protocol has a fixed number of arguments.

    Raises:
        PluginError: its name can't be written in a call, or it has no description.
    """
    name, description = tool.name.strip(), " ".join(tool.description.split())
    if not name or any(c in name for c in ",[]\n"):
        raise PluginError(f"A tool can't be called {name!r}: no comma, bracket or newline.")
    if not description:
        raise PluginError(f"The LangChain tool {name!r} has no description: the model reads it.")
    # A dictionary, or a pydantic class of version 1 or 2.
    given = cast("Any", tool.tool_call_schema)
    as_json = getattr(given, "model_json_schema", None) or getattr(given, "schema", None)
    schema: dict[str, Any] = as_json() if as_json else given
    required = set(schema.get("required", ()))
    parameters = tuple(
        Parameter(key, "text", str(value.get("description", "")))
        for key, value in schema.get("properties", {}).items()
        if key in required
    )
    return LangChainTool(name, description, parameters, tool.invoke)


@dataclass(frozen=True)
class LangChainTool:
    """See `from_langchain`."""

    name: str
    description: str
    parameters: tuple[Parameter, ...]
    invoke: Callable[[dict[str, Any]], Any]
    requires: tuple[str, ...] = ()

    def run(self, context: ToolContext, arguments: Mapping[str, Any]) -> ToolResult:
        """Call the tool; whatever goes wrong inside it is a `ToolError`."""
        try:
            answer = self.invoke({p.name: arguments[p.name] for p in self.parameters})
        except KeyError as error:
            raise ToolError(f"{self.name}: the argument {error} is missing.") from error
        except Exception as error:  # Strangers' tools raise what they like; the turn goes on.
            raise ToolError(f"{self.name} failed: {error or type(error).__name__}") from error
        return ToolResult(observation=_plain(answer) or "(no result)")


def _value(parameter: Parameter, given: Any, shelf: Mapping[str, AnyPart]) -> Any:
    """A content argument as a part; text as it is."""
    if parameter.kind == "text" or isinstance(given, Part):
        return given  # pyright: ignore[reportUnknownVariableType]
    name = str(given).strip()
    if name not in shelf:
        known = ", ".join(n for n, part in shelf.items() if part.kind == parameter.kind)
        raise ToolError(f"There is no {parameter.kind} {name!r}; there are: {known or 'none'}.")
    return shelf[name]


def _schema(tool: Tool) -> type[Any]:
    """Arguments as LangChain shows them to its model: all strings, content by name."""
    from pydantic import ConfigDict, Field, WithJsonSchema, create_model

    by_name = Annotated[Any, WithJsonSchema({"type": "string"})]
    fields: dict[str, Any] = {}
    for p in tool.parameters:
        hint = p.description if p.kind == "text" else f"{p.description} (name of the {p.kind})"
        kind: Any = str if p.kind == "text" else by_name
        fields[p.name] = (kind, Field(description=hint.strip()))
    return create_model("Arguments", __config__=ConfigDict(extra="forbid"), **fields)


def _extension(part: AnyPart) -> str:
    return _EXTENSIONS.get(part.kind, "bin")


def _plain(answer: Any) -> str:
    """The text of what a LangChain tool returns: a string, content blocks, or anything else."""
    if type(answer) is list:
        blocks = cast("list[Any]", answer)
        if all(isinstance(b, str) or (isinstance(b, dict) and "text" in b) for b in blocks):
            return "\n".join(b if isinstance(b, str) else str(b["text"]) for b in blocks)
    return str(cast("object", answer)).strip()
