"""Images from outside are checked before they are decoded; what we send is byte for byte what we name."""

import io
import struct
import zlib

import pytest
from PIL import Image

from insightv.images import ImageError, decode, digest, encode_png, from_data_url, media_type, resize, to_data_url


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def claimed_png(width: int, height: int) -> bytes:
    """A PNG whose header claims a size that its data does not hold."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 16)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_the_three_formats_are_decoded_to_rgb(kind: str) -> None:
    data = encoded(Image.new("RGB", (20, 10), (200, 10, 10)), kind)
    image = decode(data)
    assert (image.mode, image.size, media_type(data)) == ("RGB", (20, 10), f"image/{kind.lower()}")
    assert all(abs(got - wanted) < 12 for got, wanted in zip(image.getpixel((5, 5)), (200, 10, 10), strict=True))


def test_transparency_lies_on_white() -> None:
    assert decode(encoded(Image.new("RGBA", (4, 4), (255, 0, 0, 0)), "PNG")).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (4, 4), 0)
    assert decode(encoded(palette, "PNG", transparency=0)).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "PPM"])
def test_other_formats_are_refused(kind: str) -> None:
    with pytest.raises(ImageError, match="not a PNG, JPEG or WEBP"):
        decode(encoded(Image.new("RGB", (4, 4)), kind))


def test_a_large_size_is_refused_from_the_header() -> None:
    with pytest.raises(ImageError, match="10000 x 6000 pixels"):
        decode(claimed_png(10_000, 6_000))
    with pytest.raises(ImageError, match="pixels"):
        decode(claimed_png(2_000_000, 2_000_000))
    with pytest.raises(ImageError, match="more than 15"):
        decode(encode_png(Image.new("RGB", (4, 4))), max_pixels=15)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_animations_are_refused(kind: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    with pytest.raises(ImageError, match="more than one frame"):
        decode(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"RIFF0000WEBP", claimed_png(8, 8), b"<svg/>"])
def test_damaged_bytes_are_an_image_error(data: bytes) -> None:
    with pytest.raises(ImageError):
        decode(data)


def test_every_cut_of_an_image_is_refused_or_decoded() -> None:
    data = encode_png(Image.effect_noise((16, 16), 50).convert("RGB"))
    for end in range(0, len(data) - 20, 7):
        with pytest.raises(ImageError):
            decode(data[:end])


def test_png_bytes_depend_on_the_pixels_alone() -> None:
    plain = Image.new("RGB", (8, 8), "green")
    noted = decode(encoded(plain, "JPEG", quality=100, exif=b"Exif\0\0note", dpi=(300, 300)))
    noted.paste(plain)
    assert encode_png(noted) == encode_png(plain)
    assert digest(encode_png(plain)) != digest(encode_png(Image.new("RGB", (8, 8), "red")))


def test_data_urls_are_inverse_and_nothing_else_is_read() -> None:
    data = encode_png(Image.new("RGB", (8, 8)))
    assert from_data_url(to_data_url(data)) == data
    hostile = ("", "http://localhost/a.png", "file:///etc/passwd", "data:image/png,abc", "data:text/html;base64,PGI+")
    for url in (*hostile, "data:image/png;base64,!!!", "data:image/png;base64,PGI+"):
        with pytest.raises(ImageError):
            from_data_url(url)


@pytest.mark.parametrize(
    ("rule", "size"),
    [
        ("keep", (200, 100)),
        ("fit:50x50", (50, 25)),
        ("fit:400x400", (400, 200)),
        ("max_side:100", (100, 50)),
        ("max_side:999", (200, 100)),
        ("max_side:1", (1, 1)),
    ],
)
def test_resizing_keeps_the_aspect_ratio(rule: str, size: tuple[int, int]) -> None:
    assert resize(Image.new("RGB", (200, 100)), rule).size == size


@pytest.mark.parametrize("rule", ["", "fit:0x5", "max_side:-1", "max_side:", "fit:5", "crop:5x5"])
def test_an_unknown_rule_is_refused(rule: str) -> None:
    with pytest.raises(ImageError, match="unknown resize rule"):
        resize(Image.new("RGB", (4, 4)), rule)
