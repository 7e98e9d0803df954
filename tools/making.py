"""Tools that make a picture from nothing but words."""

from __future__ import annotations

from anybind.content import AnyPart
from anybind.contracts import ToolContext
from anybind.tooling import tool


@tool("Generate Image From User Input Text", requires=("generator:image",))
def generate(context: ToolContext, text: str) -> AnyPart:
    """Draw, paint, generate, create or imagine a picture of something new,
    e.g. draw an animal or paint a scene.

    Args:
        text: What the picture should show.
    """
    return context.generate("image", text)


TOOLS = (generate,)
