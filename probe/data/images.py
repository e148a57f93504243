"""Images by PIL: decoding to RGB, and the resizing and cropping usual for ImageNet."""

from __future__ import annotations

import struct
import zlib
from typing import IO, TYPE_CHECKING

from probe.errors import ProbeError

if TYPE_CHECKING:
    from PIL.Image import Image

UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)
"""What PIL raises for a damaged file, besides its DecompressionBombError."""


def decode(file: str | IO[bytes], what: str) -> Image:
    """The image in RGB.

    Args:
        file: a path, or an open file.
        what: its name in the message.

    Raises:
        ProbeError: PIL cannot read it.
    """
    from PIL import Image

    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        raise _undecodable(what, error) from None


def stored_size(path: str) -> tuple[int, int]:
    """Width and height in pixels, from the head of the file alone.

    Raises:
        ProbeError: PIL cannot read it.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.size
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        raise _undecodable(path, error) from None


def centre(image: Image, size: int) -> Image:
    """The middle `size` x `size` pixels, after the shorter side was resized to round(size*256/224), bilinearly.

    The usual evaluation on ImageNet: 224 of 256 pixels, and the same share of other sizes.
    """
    from PIL import Image

    shorter = round(size * 256 / 224)
    width, height = image.size
    to = (shorter, shorter * height // width) if width <= height else (shorter * width // height, shorter)
    resized = image.resize(to, Image.Resampling.BILINEAR)
    left, top = round((to[0] - size) / 2), round((to[1] - size) / 2)
    return resized.crop((left, top, left + size, top + size))


def _undecodable(what: str, error: Exception) -> ProbeError:
    return ProbeError(
        f"{what} cannot be decoded ({error})", expected="an image that PIL reads", next_step="replace or remove it"
    )
