"""Images from anywhere: validated decoding, the digest of the very bytes that are sent, resizing by named rules."""

import base64
import binascii
import hashlib
import io
import re
import warnings

from PIL import Image

FORMATS = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}


class ImageError(ValueError):
    """Bytes that are not an image which we accept; the message says why, in words fit for a user."""


def digest(data: bytes) -> str:
    """32 hex digits of the SHA-256 of encoded bytes: how records name an image."""
    return hashlib.sha256(data).hexdigest()[:32]


def media_type(data: bytes) -> str:
    """`image/png`, `image/jpeg` or `image/webp`, by the first bytes alone; else `ImageError`."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    raise ImageError("not a PNG, JPEG or WEBP image" if data else "the image is empty")


def decode(data: bytes, max_pixels: int = 50_000_000) -> Image.Image:
    """Decode one still PNG, JPEG or WEBP of at most `max_pixels` to RGB; transparency is laid on white. Else `ImageError`.

    The size is read from the header and checked before any pixel is decoded.
    """
    media_type(data)
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data), formats=tuple(FORMATS)) as image:
            # Our own limit, checked next, is below or instead of Pillow's.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            width, height = image.size
            if width * height > max_pixels:
                raise ImageError(f"the image has {width} x {height} pixels, more than {max_pixels}")
            if getattr(image, "n_frames", 1) > 1:
                raise ImageError("the image has more than one frame")
            image.load()
            return to_rgb(image)
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError(f"the image has more than {max_pixels} pixels") from None
    except Exception as error:
        # Pillow's decoders raise many kinds of error on hostile bytes, none of which tells a user more.
        raise ImageError("the image is damaged and cannot be decoded") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture that a viewer sees, as 8-bit RGB: transparency is laid on white, 16-bit greys are scaled (Pillow itself would clip them)."""
    if image.mode.startswith("I;16"):
        return image.convert("I").point(lambda value: value * (1 / 257) + 0.5).convert("L").convert("RGB")
    if not see_through(image):
        return image.convert("RGB")
    layers = image.convert("RGBA")
    white = Image.new("RGBA", layers.size, "white")
    return Image.alpha_composite(white, layers).convert("RGB")


def see_through(image: Image.Image) -> bool:
    """Whether an image has a transparent colour or an alpha channel, be it opaque throughout."""
    return "A" in image.getbands() or "transparency" in image.info


def encode_png(image: Image.Image) -> bytes:
    """PNG bytes of the pixels alone, without metadata: the same pixels give the same bytes."""
    buffer = io.BytesIO()
    bare = Image.frombytes(image.mode, image.size, image.tobytes())
    bare.save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def to_data_url(data: bytes) -> str:
    """`data:image/..;base64,..` of encoded bytes."""
    return f"data:{media_type(data)};base64,{base64.b64encode(data).decode()}"


def from_data_url(url: str) -> bytes:
    """The bytes of a base64 data URL of an image; any other URL is an `ImageError`, and nothing is ever fetched."""
    head, comma, body = url.partition(",")
    if not comma or not re.fullmatch(r"data:image/[a-z0-9.+-]+;base64", head, re.IGNORECASE):
        raise ImageError("an image must be a URL of the form data:image/png;base64,...")
    try:
        data = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise ImageError("the image's data URL is not valid base64") from None
    media_type(data)
    return data


def resize(image: Image.Image, rule: str) -> Image.Image:
    """Resize by a named rule; the aspect ratio is kept and nothing is enlarged by `max_side`.

    `keep` leaves the image alone, `fit:WxH` makes it as large as fits into W x H pixels, `max_side:N` shrinks it until
    its longer side has at most N pixels. Another rule is an `ImageError`.
    """
    width, height = image.size
    if rule == "keep":
        return image
    if fit := re.fullmatch(r"fit:([1-9]\d*)x([1-9]\d*)", rule):
        scale = min(int(fit[1]) / width, int(fit[2]) / height)
    elif side := re.fullmatch(r"max_side:([1-9]\d*)", rule):
        scale = min(1.0, int(side[1]) / max(width, height))
    else:
        raise ImageError(f"unknown resize rule {rule!r}: use keep, fit:WxH or max_side:N")
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)
