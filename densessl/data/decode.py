"""The one decoder: any image file to uint8 HWC RGB, oriented, with one exception type.

Five decoders in common use disagree on rotated, 16-bit, truncated and oversized files, and some accept
damage silently. Here the header is read first (type by content, size, orientation), images above the pixel
limit are refused before any pixel is decoded, and then:

    JPEG           simplejpeg in strict mode: bit-equal to Pillow (both libjpeg-turbo) and faster. Whatever it
                   refuses (CMYK, stray bytes between markers) goes to Pillow, which decides.
    16-bit gray    / 257, so that 65535 becomes 255 (Pillow's convert("RGB") clips at 255: a white image)
    32-bit integer 16-bit data in a wider type: values in [0, 65535], / 257
    float          values in [0, 1] x 255; with values above 1, in [0, 255], as they are
    alpha          dropped, not blended; palettes are resolved; CMYK, 1-bit, LAB as Pillow converts them
    animation      the first frame
    EXIF           orientation always applied; an unreadable EXIF block counts as none
    truncated      refused, however much of it could be shown
    flipped bits   refused where the entropy decoder loses its way, else accepted as in every decoder: JPEG
                   has no checksum. PNG has one and is refused.
"""

import io
import os
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from densessl.errors import DataError

# As Pillow's own limit for an error; 200-megapixel headers are refused, 150-megapixel cameras are not.
MAX_PIXELS = 178_956_970

_ORIENTATION = 0x0112  # EXIF tag
# What Pillow raises for damaged files; IndexError and struct.error come from short headers.
_PIL_ERRORS = (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, struct.error, EOFError)


def printable(path: str | bytes | os.PathLike) -> str:
    """A path for messages and logs: one line, valid UTF-8; odd bytes and control characters as escapes."""
    raw = os.fsencode(path)
    text = raw.decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def decode_image(
    source: str | bytes | os.PathLike | dict,
    *,
    name: str | None = None,
    max_pixels: int = MAX_PIXELS,
    min_size: int | None = None,
) -> np.ndarray:
    """Decodes one image.

    Args:
        source: a path, the bytes of a file, or a dataset record: its `image_bytes` where it has them (LMDB,
            tar shards), else the file `file_name`.
        name: for messages, where `source` is bytes.
        max_pixels: larger images (by their header) are refused.
        min_size: allows JPEGs to be decoded at 1/2, 1/4 or 1/8 scale while both sides stay at least this
            long: 4-6x faster for sources several times the size that is needed. Coordinates then refer to
            the smaller image. None: full size.

    Returns:
        Writable C-contiguous uint8 (H, W, 3), RGB in [0, 255], upright by its EXIF orientation.

    Raises:
        DataError: with the path and the reason.
    """
    if isinstance(source, dict):
        name = source["file_name"]
        source = source.get("image_bytes", name)
    if isinstance(source, bytes):
        name, data = name or f"<{len(source)} bytes>", source
    else:
        name = os.fspath(source)
        try:
            data = Path(source).read_bytes()
        except OSError as error:
            raise _error(name, error.strerror or str(error)) from error
    if not data:
        raise _error(name, "the file is empty")
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images, odd EXIF and palettes; the limit here is ours
            warnings.simplefilter("ignore")
            return _decode(data, name, max_pixels, min_size)
    except DataError:
        raise
    except _PIL_ERRORS as error:
        raise _error(name, f"damaged or not an image ({type(error).__name__}: {error})") from error


def _error(name: str | bytes, reason: str) -> DataError:
    return DataError(f"cannot read image {printable(name)}: {reason}")


def _decode(data: bytes, name: str, max_pixels: int, min_size: int | None) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError as error:
        raise _error(name, f"not an image file ({len(data)} bytes)") from error
    except Image.DecompressionBombError as error:
        raise _error(name, f"{error}; the limit is {max_pixels} pixels") from error
    with image:
        width, height = image.size
        if width * height > max_pixels:
            raise _error(name, f"{width} x {height} pixels are more than the limit of {max_pixels}")
        if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
            pixels = _decode_jpeg(data, min_size)
            if pixels is not None:
                return np.ascontiguousarray(_upright(pixels, _orientation(image)))
        if image.format == "PNG":
            with Image.open(io.BytesIO(data)) as check:  # load() reads past the checksums
                check.verify()
        image.load()
        # after load(): Pillow turns TIFFs itself and then drops the tag
        return np.ascontiguousarray(_upright(_to_rgb(image, name), _orientation(image)))


def _decode_jpeg(data: bytes, min_size: int | None) -> np.ndarray | None:
    """uint8 (H, W, 3) as stored, or None where Pillow has to decide."""
    try:
        import simplejpeg
    except ImportError:
        return None
    limits = {} if min_size is None else {"min_height": min_size, "min_width": min_size, "min_factor": 2}
    try:
        return simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True, **limits)
    except ValueError:
        # Strict mode refuses every libjpeg warning, harmless stray bytes too. Pillow separates them from
        # missing data and raises for the latter.
        return None


def _orientation(image: Any) -> int:
    """EXIF orientation 1-8; 1 where there is none or it cannot be read."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except _PIL_ERRORS:
        # ImageNet has broken EXIF blocks beside sound pixels; they say nothing of the orientation
        return 1
    return value if value in range(1, 9) else 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """View of (H, W, 3) pixels with the EXIF orientation undone (CIPA DC-008, tag 0x0112)."""
    if orientation >= 5:  # stored rows are columns of the scene
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _to_rgb(image: Any, name: str) -> np.ndarray:
    """uint8 (H, W, 3) of a loaded PIL image of any mode."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise _error(name, f"integer values {values.min()}..{values.max()} outside 0..65535")
        return _gray((values + 128) // 257)
    if image.mode == "F":
        values = np.asarray(image)
        low, high = float(values.min()), float(values.max())  # NaN propagates and fails the test
        if not 0 <= low <= high <= 255:
            raise _error(name, f"float values {low:g}..{high:g} lie neither in 0..1 nor in 0..255")
        return _gray(np.rint(values * 255 if high <= 1 else values))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def _gray(values: np.ndarray) -> np.ndarray:
    return np.repeat(values.astype(np.uint8)[:, :, None], 3, axis=2)
