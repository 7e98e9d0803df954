"""Tools that look at a picture and say something about it."""

from __future__ import annotations

from anybind.content import Image
from anybind.contracts import ToolContext
from anybind.errors import ToolError
from anybind.tooling import tool

DESCRIBE = "What is in the picture?"


@tool("Get Photo Description")
def describe(context: ToolContext, image: Image) -> str:
    """Describe a photo: tell what you see, what is in the picture, give it a caption.

    Args:
        image: The picture to describe.
    """
    return _said(context.answer(DESCRIBE, image))


@tool("Answer Question About The Image")
def ask(context: ToolContext, image: Image, question: str) -> str:
    """Answer a question about a picture: what colour, how many, where, who, is there a ...?

    Args:
        image: The picture that the question is about.
        question: The question.
    """
    return _said(context.answer(question, image))


@tool("Assess the Image Quality", requires=("library:cv2",))
def assess(image: Image) -> str:
    """Rate the technical quality of a photo: is it sharp or blurred, too dark, overexposed, noisy?

    Args:
        image: The photo to rate.
    """
    from anybind.tools.pixels import pixels_of
    from anybind.tools.quality import measure

    return measure(pixels_of(image)).text()


def _said(answer: str) -> str:
    answer = answer.strip()
    if not answer:
        raise ToolError("The model had nothing to say about this picture.")
    return answer


LOOKING = frozenset({describe.name, ask.name})
"""Tools that only ask the model about a picture."""
TOOLS = (describe, ask, assess)
