"""Pictures: png, jpeg, webp, gif and bmp through Pillow, to upright RGB."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

from anybind.errors import UserError
from anybind.media.caps import CAPS, Caps
from anybind.media.formats import brief

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


def decode_image(data: bytes, label: str, caps: Caps = CAPS) -> PILImage:
    """Decode a picture to RGB, upright. Alpha is laid on white.

    Raises:
        UserError: damaged, or over the caps (checked from the header, before decoding).
    """
    return rgb_of(data, label, caps, FORMATS)


def rgb_of(data: bytes, label: str, caps: Caps, formats: tuple[str, ...]) -> PILImage:
    """`decode_image` for a list of Pillow's formats."""
    try:
        return rgb(open_checked(data, label, caps, formats))
    except UserError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files.
        raise UserError(
            f"{label} is not a readable picture, or it is damaged: {brief(error)}"
        ) from error


def open_checked(data: bytes, label: str, caps: Caps, formats: tuple[str, ...]) -> PILImage:
    """A picture whose header was read and whose size is within the caps; not decoded yet.

    Raises:
        UserError: not one of the formats, or over the caps.
    """
    from PIL import Image as pil

    try:
        with warnings.catch_warnings():
            # Pillow only warns of sizes that the caps below refuse with a better message.
            warnings.simplefilter("ignore", pil.DecompressionBombWarning)
            picture = pil.open(io.BytesIO(data), formats=formats)
        check_size(label, *picture.size, caps)
        return picture
    except UserError:
        raise
    except pil.DecompressionBombError as error:
        raise UserError(
            f"{label} has too many pixels; shrink it first ({brief(error)})."
        ) from error
    except Exception as error:
        raise UserError(
            f"{label} is not a readable picture, or it is damaged: {brief(error)}"
        ) from error


def check_size(label: str, width: int, height: int, caps: Caps) -> None:
    """Refuse what is over the caps.

    Raises:
        UserError: too many pixels, or too long a side.
    """
    if width * height > caps.pixels or max(width, height) > caps.side:
        raise UserError(
            f"{label} is {width} x {height} pixels; the limit is {caps.pixels / 1e6:.0f} million "
            f"and {caps.side} a side. Shrink it first."
        )


def rgb(picture: PILImage) -> PILImage:
    """Decoded, upright, alpha on white."""
    from PIL import Image as pil
    from PIL import ImageOps

    picture.load()
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith(("I", "F")):
        # 16-bit grey would be clipped by convert; scale it to its own range instead.
        low, high = picture.getextrema()
        span = max(float(high) - float(low), 1e-9)  # pyright: ignore
        picture = picture.convert("F").point(lambda v: (v - float(low)) * 255.0 / span)  # pyright: ignore
    if "A" in picture.getbands() or "transparency" in picture.info:
        layered = picture.convert("RGBA")
        ground = pil.new("RGBA", layered.size, (255, 255, 255, 255))
        picture = pil.alpha_composite(ground, layered)
    return picture.convert("RGB")
