"""Draws boxes with labels on a picture, and names below it what was not found.

Knows pictures and boxes only: which phrase is supported, others decide. Everything scales with
the picture and stays legible on any ground (dark rim round every line, label on its own plate).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from anybind.content import Box

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

# Hues far apart for normal and colour-blind eyes, bright enough to stand out from photographs.
PALETTE = (
    (255, 99, 71), (0, 158, 255), (255, 200, 0), (0, 200, 120), (214, 110, 255),
    (255, 140, 0), (0, 214, 214), (255, 105, 180), (160, 210, 40), (150, 160, 255),
)  # fmt: skip
_RIM = (20, 20, 20)
_STRIP = (250, 250, 250)
_RED = (200, 24, 24)
_INK = (60, 60, 60)
_NOT_FOUND = "not found:"

Rect = tuple[int, int, int, int]


def draw_boxes(image: PILImage, boxes: Sequence[Box], unsupported: Sequence[str] = ()) -> PILImage:
    """A copy of a picture with its boxes drawn in.

    Args:
        image: Any mode; the result is RGB.
        boxes: In pixels of `image`; parts outside it are cut. One colour a label, label and
            score (in percent) on a plate. The best scores are drawn last, on top.
        unsupported: Words that were not found. They are listed, red and struck through, on a
            strip below the picture, which then is higher than `image`; without them it keeps
            its size.
    """
    from PIL import ImageDraw

    canvas = image.convert("RGB")
    if canvas is image:
        canvas = image.copy()
    draw = ImageDraw.Draw(canvas)
    short = min(canvas.size)
    width = max(2, round(short / 130))
    font = _font(max(11, min(64, round(short / 24))))
    colours = _colours(boxes)
    ordered = sorted(boxes, key=lambda box: box.score)
    rects = [(box, _clip(box, canvas.size)) for box in ordered]
    for box, rect in rects:
        if rect is not None:
            _frame(draw, rect, colours[box.label], width)
    taken: list[Rect] = []
    # Plates come after all frames, the best first, so that the best gets the best place.
    for box, rect in reversed(rects):
        if rect is not None:
            _plate(draw, canvas.size, rect, box, colours[box.label], font, taken)
    return _with_strip(canvas, unsupported, font) if unsupported else canvas


def _colours(boxes: Sequence[Box]) -> dict[str, tuple[int, int, int]]:
    labels = list(dict.fromkeys(box.label for box in boxes))
    return {label: PALETTE[i % len(PALETTE)] for i, label in enumerate(labels)}


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _clip(box: Box, size: tuple[int, int]) -> Rect | None:
    """The box inside the picture, in whole pixels, ends included; None if nothing is left."""
    x0, y0, x1, y1 = box.xyxy
    left, top = max(0, round(min(x0, x1))), max(0, round(min(y0, y1)))
    right, bottom = min(size[0], round(max(x0, x1))) - 1, min(size[1], round(max(y0, y1))) - 1
    return (left, top, right, bottom) if right >= left and bottom >= top else None


def _frame(draw: Any, rect: Rect, colour: tuple[int, int, int], width: int) -> None:
    left, top, right, bottom = rect
    rim = max(1, width // 3)
    for inset, fill, line in ((0, _RIM, width + 2 * rim), (rim, colour, width)):
        box = (left + inset, top + inset, right - inset, bottom - inset)
        if box[2] >= box[0] and box[3] >= box[1]:
            draw.rectangle(box, outline=fill, width=line)


def _plate(
    draw: Any,
    size: tuple[int, int],
    rect: Rect,
    box: Box,
    colour: tuple[int, int, int],
    font: Any,
    taken: list[Rect],
) -> None:
    pad = max(2, round(font.size / 4))
    text = _shorten(f"{box.label} {box.score:.0%}".strip(), size[0] - 2 * pad, font)
    ascent, descent = font.getmetrics()
    wide = round(font.getlength(text)) + 2 * pad
    high = ascent + descent + pad
    left = max(0, min(rect[0], size[0] - wide))
    # Above the box, else inside at its top, else inside at its bottom, else wherever it is free.
    heights = [rect[1] - high, rect[1], rect[3] - high + 1, rect[3] + 1]
    heights += [rect[1] + step * high for step in range(1, 6)]
    places = [(left, y, left + wide, y + high) for y in heights if 0 <= y <= size[1] - high]
    place = next(
        (p for p in places if not any(_overlap(p, other) for other in taken)),
        places[0] if places else (left, 0, left + wide, high),
    )
    taken.append(place)
    draw.rounded_rectangle(place, radius=pad, fill=colour, outline=_RIM)
    light = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    ink = (0, 0, 0) if light > 110 else (255, 255, 255)
    draw.text((place[0] + pad, place[1] + pad // 2), text, fill=ink, font=font)


def _overlap(a: Rect, b: Rect) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _shorten(text: str, room: int, font: Any) -> str:
    text = " ".join(text.split())
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(text + "…") > room:
        text = text[:-1]
    return text + "…"


def _with_strip(picture: PILImage, words: Sequence[str], font: Any) -> PILImage:
    """The picture on top of a strip that lists words struck through, wrapped to its width."""
    from PIL import Image as pil
    from PIL import ImageDraw

    pad = max(4, round(font.size / 2))
    room = picture.width - 2 * pad
    ascent, descent = font.getmetrics()
    line_height = ascent + descent + max(2, pad // 3)
    space = font.getlength("  ")
    placed: list[tuple[float, int, str, bool]] = []
    x, line = 0.0, 0
    for index, word in enumerate((_NOT_FOUND, *words)):
        shown = _shorten(word, room, font)
        length = font.getlength(shown)
        if x > 0 and x + length > room:
            x, line = 0.0, line + 1
        placed.append((x, line, shown, index > 0))
        x += length + space
    strip = pil.new("RGB", (picture.width, (line + 1) * line_height + 2 * pad), _STRIP)
    draw = ImageDraw.Draw(strip)
    stroke = max(1, round(font.size / 12))
    for x, line, shown, struck in placed:
        at = (pad + x, pad + line * line_height)
        draw.text(at, shown, fill=_RED if struck else _INK, font=font)
        if struck:
            middle = at[1] + ascent * 0.68
            draw.line((at[0], middle, at[0] + font.getlength(shown), middle), _RED, stroke)
    sheet = pil.new("RGB", (picture.width, picture.height + strip.height))
    sheet.paste(picture, (0, 0))
    sheet.paste(strip, (0, picture.height))
    return sheet
