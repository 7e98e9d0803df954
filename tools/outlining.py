"""Tools that turn a picture into its outlines or regions, for people and for generators."""

from __future__ import annotations

from anybind.content import Image
from anybind.tooling import tool

_NEEDS = ("library:cv2",)


@tool("Edge Detection On Image", requires=_NEEDS)
def edge_detection(image: Image) -> Image:
    """Detect the edges of a picture: find its thin contours, a canny edge map.

    Args:
        image: The picture.
    """
    from anybind.tools.contours import edges
    from anybind.tools.pixels import image_of, pixels_of

    return image_of(edges(pixels_of(image)), "Edge Detection On Image", image)


@tool("Line Detection On Image", requires=_NEEDS)
def line_detection(image: Image) -> Image:
    """Find the straight lines of an image: a line drawing of buildings and rooms.

    Args:
        image: The picture.
    """
    from anybind.tools.contours import straight_lines
    from anybind.tools.pixels import image_of, pixels_of

    drawn, _ = straight_lines(pixels_of(image))
    return image_of(drawn, "Line Detection On Image", image)


@tool("Sketch Detection On Image", requires=_NEEDS)
def sketch_detection(image: Image) -> Image:
    """Turn a photo into a sketch or scribble of itself with bold strokes.

    Args:
        image: The picture.
    """
    from anybind.tools.contours import sketch
    from anybind.tools.pixels import image_of, pixels_of

    return image_of(sketch(pixels_of(image)), "Sketch Detection On Image", image)


@tool("Hed Detection On Image", requires=_NEEDS)
def hed_detection(image: Image) -> Image:
    """Detect the soft hed boundaries of an image: show its smooth, soft outlines.

    Args:
        image: The picture.
    """
    from anybind.tools.contours import soft_edges
    from anybind.tools.pixels import image_of, pixels_of

    return image_of(soft_edges(pixels_of(image)), "Hed Detection On Image", image)


@tool("Segment the Image", requires=_NEEDS)
def segment_image(image: Image) -> Image:
    """Segment the whole image: split all of the picture into regions, each in its own colour.

    Args:
        image: The picture.
    """
    from anybind.tools.pixels import image_of, pixels_of
    from anybind.tools.regions import paint, segment

    pixels = pixels_of(image)
    return image_of(paint(pixels, segment(pixels)), "Segment the Image", image)


TOOLS = (edge_detection, line_detection, sketch_detection, hed_detection, segment_image)
