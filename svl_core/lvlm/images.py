"""One way of opening an image, for the page, the command and notebooks alike: checked before it is
decoded, upright, RGB.
"""

from __future__ import annotations

import io
import threading
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from svl_core.errors import InputError
from svl_core.files import expanded
from svl_core.lvlm.chat import VIDEO_REMEDY

ORIENTATION = 0x0112  # the EXIF tag of the turn
ROWS = 256  # of grey values in float64 at a time
READABLE = "a PNG, JPEG, WebP, GIF, BMP or TIFF picture"
# None that Pillow hands to another program, as it does EPS.
FORMATS = (
    "PNG",
    "JPEG",
    "WEBP",
    "GIF",
    "BMP",
    "DIB",
    "TIFF",
    "AVIF",
    "JPEG2000",
    "PPM",
    "TGA",
    "ICO",
)


def open_image(
    source: str | Path | bytes | Image.Image,
    *,
    max_pixels: int = 40_000_000,
    max_side: int = 30_000,
    max_bytes: int = 20_000_000,
) -> Image.Image:
    """Returns `source` as an upright 8-bit RGB image, size (width, height) in pixels.

    max_pixels: of the whole image.
    max_side: pixels of its longer side: a line of millions costs a decoder far more than its
        pixels.
    max_bytes: of the file.

    The EXIF turn is applied, transparency is laid onto white, 16-bit and floating-point grey is
    scaled to 8 bits, CMYK is converted, and of an animation the first frame is taken. Size is
    checked from the header, before decoding, and one image is decoded at a time, so that many at
    once take the memory of one. Raises InputError for a missing, empty, too large,
    corrupt or truncated file and for anything that is no image.
    """
    with warnings.catch_warnings():
        # The limit here is `max_pixels`.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = (
            source if isinstance(source, Image.Image) else _opened(source, max_pixels, max_bytes)
        )
        width, height = image.size
        if width * height > max_pixels:
            raise InputError(
                f"Found an image of {width:,} x {height:,} pixels; expected at most {max_pixels:,}"
                " pixels; give a smaller copy."
            )
        if max(width, height) > max_side:
            raise InputError(
                f"Found an image of {width:,} x {height:,} pixels; expected at most {max_side:,}"
                " along a side; cut or shrink it."
            )
        if not width * height:
            raise InputError(
                "Found an image without pixels; expected at least 1 x 1; give another image."
            )
        with _ONE_AT_A_TIME:
            return _decoded(image)


class Size(NamedTuple):
    """Of a picture, in pixels; where a size alone is asked for, a picture itself will do too."""

    width: int
    height: int


def upright_size(path: str | Path) -> Size | None:
    """The size that `open_image` would give a file, from its header alone; None where that does not
    tell.
    """
    try:
        with Image.open(expanded(path)) as image:
            turned = image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
            return Size(*(reversed(image.size) if turned else image.size))
    except Exception:  # decoders raise whatever they stumble on, and `open_image` says it
        return None


_ONE_AT_A_TIME = threading.Lock()


def _decoded(image: Image.Image) -> Image.Image:
    """The pixels of an image whose size has been checked. Raises InputError."""
    try:
        if getattr(image, "is_animated", False):
            image.seek(0)
        image.load()
    except Exception as error:  # decoders raise whatever they stumble on
        raise InputError(
            f"Found an image that is corrupt or cut off ({_short(error)}); expected {READABLE};"
            " save it again and retry."
        ) from error
    return _rgb(_upright(image))


def _opened(
    source: str | Path | bytes,
    max_pixels: int,
    max_bytes: int,
) -> Image.Image:
    if isinstance(source, (str, Path)):
        path = expanded(source)
        if str(source).startswith(("http://", "https://")):
            raise InputError(
                "Found a web address; expected an image file; download the picture and give its"
                " path."
            )
        try:
            size = path.stat().st_size if path.is_file() else None
        except (OSError, ValueError):  # a name that no file can have
            size = None
        if size is None:
            raise InputError(
                f"Found no file {str(source)[:200]!r}; expected the path of {READABLE}; check the"
                " path."
            )
        if size > max_bytes:
            raise InputError(
                f"Found an image file of {size / 1e6:.1f} MB; expected at most"
                f" {max_bytes / 1e6:.0f} MB; give a smaller copy."
            )
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(
                f"Found a file that cannot be read ({_short(error)}); expected {READABLE}; check"
                " its permissions."
            ) from error
    elif isinstance(source, (bytes, bytearray, memoryview)):
        content = bytes(source)
        if len(content) > max_bytes:
            raise InputError(
                f"Found image data of {len(content) / 1e6:.1f} MB; expected at most"
                f" {max_bytes / 1e6:.0f} MB; give a smaller copy."
            )
    else:
        raise InputError(
            f"Found {type(source).__name__}; expected a path, bytes or a PIL image; pass one of"
            " these."
        )
    if not content:
        raise InputError(f"Found an empty file; expected {READABLE}; save it again and retry.")
    Image.init()
    try:
        return Image.open(
            io.BytesIO(content),
            formats=[name for name in FORMATS if name in Image.OPEN],
        )
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise InputError(
            f"Found an image of more than {limit:,} pixels; expected at most"
            f" {max_pixels:,} pixels; give a smaller copy."
        ) from error
    except Exception as error:
        if _is_video(content):
            raise InputError(f"Found a video; {VIDEO_REMEDY}.") from error
        raise InputError(
            f"Found data that is not a readable image; expected {READABLE}; save it again and"
            " retry."
        ) from error


def _is_video(content: bytes) -> bool:
    """Whether the bytes begin as those of a video: MP4 and its like, Matroska and WebM, AVI."""
    is_avi = content[:4] == b"RIFF" and content[8:12] == b"AVI "
    is_still = content[8:12] in (b"avif", b"heic", b"heix", b"mif1")
    is_mp4 = content[4:8] == b"ftyp" and not is_still
    return is_avi or is_mp4 or content[:4] == b"\x1aE\xdf\xa3"


def _upright(image: Image.Image) -> Image.Image:
    try:
        if image.getexif().get(ORIENTATION, 1) == 1:
            return image  # else it is copied for nothing
        return ImageOps.exif_transpose(image)
    except Exception:  # unreadable EXIF data: the picture itself is fine
        return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_eight_bit(np.asarray(image), image.mode))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    image = image.convert("RGB")  # a copy without the open file
    image.info = {}
    return image


def _eight_bit(
    grey: np.ndarray,
    mode: str,
) -> np.ndarray:
    """Grey values of 16, 32 or floating-point bits -> uint8.

    Range: 16 bits where the format says so, else by what is there.
    """
    low, high = _range(grey)
    scaled = np.empty(grey.shape, np.uint8)
    for start in range(0, len(grey), ROWS):
        part = np.nan_to_num(grey[start : start + ROWS].astype(np.float64))
        scaled[start : start + ROWS] = _scaled(part, mode, low, high)
    return scaled


def _range(grey: np.ndarray) -> tuple[float, float]:
    """The lowest and the highest value, infinite ones as the largest that there are."""
    low, high = np.inf, -np.inf
    for start in range(0, len(grey), ROWS):
        part = np.nan_to_num(grey[start : start + ROWS].astype(np.float64))
        low, high = min(low, part.min()), max(high, part.max())
    return float(low), float(high)


def _scaled(
    grey: np.ndarray,
    mode: str,
    low: float,
    high: float,
) -> np.ndarray:
    """A part of the grey values. low, high: of all of them."""
    if mode.startswith("I;16") or mode == "I" and low >= 0 and 255 < high <= 65535:
        grey = grey / 257
    elif mode == "F" and low >= 0 and high <= 1:
        grey = grey * 255
    elif low < 0 or high > 255:
        grey = (grey - low) / max(high - low, 1e-12) * 255
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
