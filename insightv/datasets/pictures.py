"""Pictures of foreign rows: bytes from wherever a row holds them, checked, and in a form that every server reads.

Nothing is fetched and nothing outside the image folder is read. Stored are the very bytes of the source, unless servers read such bytes differently
from a viewer: CMYK, 16-bit, transparent, rotated by EXIF, of several pictures, GIF, BMP and TIFF become PNG.
"""

import base64
import binascii
import hashlib
import io
import re
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from insightv.datasets.formats import RowError
from insightv.files import explained
from insightv.images import FORMATS, ImageError, decode, digest, encode_png, from_data_url, see_through, to_rgb

MOST_BYTES = 64 * 2**20
MOST_PIXELS = 50_000_000
LEAST_SIDE = 2
MOST_RATIO = 200
"""Longer to shorter side at most; Qwen2-VL's processor refuses more."""
THUMB = 8
_WAVES = np.cos(np.pi / 64 * np.outer(np.arange(8), 2 * np.arange(32) + 1))
"""Rows of the discrete cosine transform of 32 values: the 8 slowest waves."""
_READ = (*FORMATS, "GIF", "BMP", "TIFF")
_HEADS = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*")
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]{64,}={0,2}\s*")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_ORIENTATION = 0x0112
_REMEMBERED = 8


@dataclass(frozen=True, slots=True)
class Picture:
    """Bytes to store, and what the picture looks like: for finding it again in other bytes."""

    data: bytes
    pixels: str
    """Hash of size and RGB pixels."""
    look: int
    """Perceptual hash of 64 bits: which of the 8 x 8 slowest waves of the grey picture, shrunk to 32 x 32, are above their median (pHash)."""
    thumb: bytes
    """The picture shrunk to `THUMB` x `THUMB` RGB."""


class Pictures:
    """Pictures of one source; the last few stay in memory, for the questions of a row are mostly about the same."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: OrderedDict[str, Picture] = OrderedDict()

    def get(self, value: Any) -> Picture:
        """The picture that a row's value names or holds; raises `RowError`."""
        data = load(value, self._folder)
        name = digest(data)
        if name not in self._known:
            self._known[name] = prepare(data, value["path"] if isinstance(value, dict) else value)
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return self._known[name]


def load(value: Any, folder: Path) -> bytes:
    """Encoded bytes of an image: given as such, as {bytes, path} (datasets' Image), as base64, as a data URL, or as a path below `folder`."""
    if isinstance(value, dict) and {"bytes", "path"} & value.keys():
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
        if value is None:
            raise RowError("image_missing", "the image has neither bytes nor a path")
    if isinstance(value, bytes):
        data = value
    elif not isinstance(value, str):
        raise RowError("bad_value", f"an image is a path or bytes, not {type(value).__name__}")
    elif value.startswith("data:"):
        data = _from(value, from_data_url)
    elif _URL.match(value):
        raise RowError("image_url", f"{value[:120]} is a URL, and nothing is fetched: download the image and name its file")
    else:
        data = _from_base64(value) or _read(value.strip(), folder)
    if len(data) > MOST_BYTES:
        raise RowError("image_size", f"{len(data)} bytes, more than {MOST_BYTES}")
    return data


def prepare(data: bytes, name: Any = "") -> Picture:
    """Check and decode one still picture and choose the bytes to store; raises `RowError` (`bad_image`, `image_size`, `image_animated`)."""
    label = f"{name[:120]}: " if isinstance(name, str) and len(name) < 1000 else ""
    try:
        image, kept = _opened(data)
        if not kept:
            data = encode_png(image)
    except RowError as error:
        raise RowError(error.reason, label + error.detail) from None
    except ImageError as error:
        raise RowError("bad_image", f"{label}{error}") from None
    pixels = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()[:32]
    return Picture(data, pixels, _look(image), image.resize((THUMB, THUMB), Image.Resampling.BILINEAR).tobytes())


def _look(image: Image.Image) -> int:
    grey = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BILINEAR), dtype=np.float64)
    waves = (_WAVES @ grey @ _WAVES.T).ravel()
    # The first one is the brightness of the whole.
    return int.from_bytes(np.packbits(waves[1:] > np.median(waves[1:])).tobytes(), "big")


def _opened(data: bytes) -> tuple[Image.Image, bool]:
    """The picture as RGB, and whether its own bytes can be stored."""
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data), formats=_READ) as image:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            _check_size(*image.size)
            # Phones write several views of a photo into one JPEG, which Pillow calls MPO: the first is the photo.
            if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
                raise RowError("image_animated", "the image has more than one frame")
            deep = image.mode.startswith("I;16") or (image.format == "PNG" and data[24] == 16)
            turned = _orientation(image) != 1
            if not deep and image.mode in ("I", "F"):
                raise ImageError("32-bit pixels, which have no agreed range of brightness")
            kept = image.format in FORMATS and not (deep or turned or image.mode == "CMYK" or _shines_through(image))
            if not kept:
                return to_rgb(ImageOps.exif_transpose(image) if turned else image), False
    except (RowError, ImageError):
        raise
    except Image.DecompressionBombError:
        raise RowError("image_size", f"more than {MOST_PIXELS} pixels") from None
    except Exception as error:
        # Pillow's decoders raise many kinds of error on hostile bytes, none of which tells a user more.
        raise ImageError("damaged, or no PNG, JPEG, WebP, GIF, BMP or TIFF" if data else "the image is empty") from error
    return decode(data, MOST_PIXELS), True


def _check_size(width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise RowError("image_size", f"{width} x {height} pixels, more than {MOST_PIXELS}")
    if min(width, height) < LEAST_SIDE or max(width, height) > MOST_RATIO * min(width, height):
        raise RowError("image_size", f"{width} x {height} pixels: sides of {LEAST_SIDE} at least and a ratio of {MOST_RATIO} at most are wanted")


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        # Broken EXIF data raise all sorts of things; viewers and servers ignore them.
        return 1


def _shines_through(image: Image.Image) -> bool:
    if not see_through(image):
        return False
    least, _ = image.convert("RGBA").getchannel("A").getextrema()
    return bool(least != 255)


def _from(value: str, read: Any) -> bytes:
    try:
        return bytes(read(value))
    except ImageError as error:
        raise RowError("bad_image", str(error)) from None


def _from_base64(value: str) -> bytes | None:
    """The bytes of base64 that begins as a picture does; None for other texts, which are names."""
    head = re.sub(r"\s", "", value[:64])[:16]
    if len(head) < 16 or not _BASE64.fullmatch(value) or not base64.b64decode(head).startswith(_HEADS):
        return None
    try:
        return base64.b64decode(re.sub(r"\s", "", value), validate=True)
    except (binascii.Error, ValueError):
        raise RowError("bad_image", f"{value[:24]}.. is broken base64") from None


def _read(name: str, folder: Path) -> bytes:
    try:
        path = (folder / name).resolve()
        present, size = path.is_file(), path.stat().st_size if path.is_file() else 0
    except (ValueError, OSError, RuntimeError):
        # A name that no file system takes: too long, with a zero byte, or a link to itself.
        raise RowError("image_missing", f"{name[:80]!r} is not a file name") from None
    if not path.is_relative_to(folder.resolve()):
        raise RowError("image_outside", f"{name} lies outside the image folder")
    if not present:
        raise RowError("image_missing", f"no image {name} in the image folder")
    if size > MOST_BYTES:
        raise RowError("image_size", f"{name} has {size} bytes, more than {MOST_BYTES}")
    with explained(path):
        return path.read_bytes()
