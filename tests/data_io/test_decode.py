"""Every kind of file against reference pixels, and every kind of damage against its message."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from densessl.data import decode
from densessl.data.decode import decode_image, printable
from densessl.errors import DataError


def gradient(height: int = 48, width: int = 64) -> np.ndarray:
    """uint8 (H, W, 3): smooth and without symmetry, so that any mirror or turn shows and JPEG is close."""
    y, x = np.mgrid[:height, :width]
    return np.stack(
        [x * 255 // width, y * 255 // height, (x + 2 * y) * 255 // (width + 2 * height)], 2
    ).astype(np.uint8)


def encode(pixels: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[0x0112] = orientation
    return block


def close(left: np.ndarray, right: np.ndarray, tolerance: int) -> bool:
    return left.shape == right.shape and int(np.abs(left.astype(int) - right).max()) <= tolerance


# How a scene is stored for each orientation (CIPA DC-008 figure 2): row 0 and column 0 of the stored array
STORED = {
    1: lambda scene: scene,
    2: lambda scene: scene[:, ::-1],
    3: lambda scene: scene[::-1, ::-1],
    4: lambda scene: scene[::-1],
    5: lambda scene: scene.swapaxes(0, 1),
    6: lambda scene: np.rot90(scene, 1),  # shown after a clockwise quarter turn
    7: lambda scene: scene[::-1, ::-1].swapaxes(0, 1),
    8: lambda scene: np.rot90(scene, -1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_exif_orientation(orientation: int, kind: str) -> None:
    scene = gradient()
    stored = np.ascontiguousarray(STORED[orientation](scene))
    options = {"JPEG": {"quality": 98, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    pixels = decode_image(encode(stored, kind, exif=exif(orientation), **options))
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    assert close(pixels, scene, 4 if kind == "JPEG" else 0)


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_impossible_orientation_is_none(orientation: int) -> None:
    assert close(decode_image(encode(gradient(), "PNG", exif=exif(orientation))), gradient(), 0)


def test_broken_exif_block_leaves_pixels_alone() -> None:
    data = encode(gradient(), "JPEG", quality=95)
    block = b"Exif\0\0MM\0*\xff\xff\xff\xff"
    broken = data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:]
    assert np.array_equal(decode_image(broken), decode_image(data))


def test_jpeg_equals_pillow_bit_for_bit() -> None:
    data = encode(gradient(), "JPEG", quality=80)
    assert np.array_equal(decode_image(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_without_simplejpeg_the_pixels_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(gradient(), "JPEG", exif=exif(6))
    expected = decode_image(data)
    monkeypatch.setattr(decode, "_decode_jpeg", lambda data, min_size: None)
    assert np.array_equal(decode_image(data), expected)


def test_gray_16_bit_keeps_its_mean() -> None:
    values = np.linspace(0, 65535, 48 * 64).astype(np.uint16).reshape(48, 64)
    for kind in ("PNG", "TIFF"):
        pixels = decode_image(encode(values, kind))
        assert close(pixels, np.repeat(np.rint(values / 257.0)[:, :, None], 3, 2), 0)


def test_colour_16_bit_png() -> None:
    values = gradient().astype(np.uint16) * 257

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    png = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    assert close(decode_image(png), gradient(), 1)


def test_float_tiff_in_both_ranges() -> None:
    gray = gradient()[:, :, 0]
    expected = np.repeat(gray[:, :, None], 3, 2)
    assert close(decode_image(encode(gray.astype(np.float32) / 255, "TIFF")), expected, 0)
    assert close(decode_image(encode(gray.astype(np.float32), "TIFF")), expected, 0)


@pytest.mark.parametrize("value", [-1.0, 300.0, np.nan, np.inf])
def test_float_outside_its_ranges(value: float) -> None:
    values = np.full((4, 4), 0.5, np.float32)
    values[1, 1] = value
    with pytest.raises(DataError, match="float values"):
        decode_image(encode(values, "TIFF"))


def test_integers_32_bit() -> None:
    values = np.array([[0, 257], [65535, 514]], np.int32)
    assert decode_image(encode(values, "TIFF"))[:, :, 0].tolist() == [[0, 1], [255, 2]]
    with pytest.raises(DataError, match="outside 0..65535"):
        decode_image(encode(values - 1, "TIFF"))


def test_palette_with_and_without_alpha() -> None:
    image = Image.fromarray(gradient()).quantize(64)
    expected = np.asarray(image.convert("RGB"))
    assert close(decode_image(encode(image, "PNG")), expected, 0)
    assert close(decode_image(encode(image, "PNG", transparency=3)), expected, 0)
    assert close(decode_image(encode(image, "PNG", transparency=bytes(range(64)))), expected, 0)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_alpha_is_dropped(kind: str) -> None:
    alpha = np.full((48, 64, 1), 30, np.uint8)
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    data = encode(np.concatenate([gradient(), alpha], 2), kind, **options)
    assert close(decode_image(data), gradient(), 0)


def test_gray_gray_alpha_and_one_bit() -> None:
    gray = gradient()[:, :, 0]
    expected = np.repeat(gray[:, :, None], 3, 2)
    assert close(decode_image(encode(gray, "PNG")), expected, 0)
    assert close(decode_image(encode(Image.fromarray(gray).convert("LA"), "PNG")), expected, 0)
    assert close(decode_image(encode(gray, "JPEG", quality=98)), expected, 4)
    bits = gray > 100
    one_bit = decode_image(encode(Image.fromarray(bits), "PNG"))
    assert close(one_bit, np.repeat(bits[:, :, None] * np.uint8(255), 3, 2), 0)


def test_cmyk_jpeg() -> None:
    inks = np.concatenate([255 - gradient(), np.zeros((48, 64, 1), np.uint8)], 2)
    data = encode(Image.fromarray(inks, "CMYK"), "JPEG", quality=98, subsampling=0)
    assert close(decode_image(data), gradient(), 6)


def test_animation_gives_its_first_frame() -> None:
    frames = [Image.fromarray(gradient()).quantize(64), Image.fromarray(255 - gradient()).quantize(64)]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert close(decode_image(data), np.asarray(frames[0].convert("RGB")), 0)
    webp = encode(gradient(), "WEBP", save_all=True, append_images=[frames[1].convert("RGB")], lossless=True)
    assert close(decode_image(webp), gradient(), 0)


def test_wrong_extension(tmp_path) -> None:
    path = tmp_path / "png.jpg"
    path.write_bytes(encode(gradient(), "PNG"))
    assert close(decode_image(path), gradient(), 0)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_extreme_shapes(size: tuple[int, int], kind: str) -> None:
    pixels = np.full((*size, 3), 90, np.uint8)
    assert close(decode_image(encode(pixels, kind)), pixels, 2)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
def test_truncated(tmp_path, kind: str, part: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode(noise, kind)
    path = tmp_path / "cut.img"
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(DataError, match=r"cannot read image .*cut\.img: "):
        decode_image(path)


def test_every_flipped_bit_in_a_png_is_refused_or_harmless() -> None:
    data = encode(gradient(8, 8), "PNG")
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 0x10
        try:
            pixels = decode_image(bytes(flipped))
        except DataError:
            continue
        assert close(pixels, gradient(8, 8), 0), position


def test_flipped_bits_in_a_jpeg_give_what_pillow_gives() -> None:
    data = encode(gradient(), "JPEG")
    accepted = refused = 0
    for position in range(2, len(data), 7):
        flipped = bytearray(data)
        flipped[position] ^= 0x10
        try:
            with Image.open(io.BytesIO(flipped)) as image:
                expected = np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError):
            expected = None
        if expected is None:
            refused += 1
            with pytest.raises(DataError):
                decode_image(bytes(flipped))
        else:
            accepted += 1
            assert np.array_equal(decode_image(bytes(flipped)), expected), position
    assert accepted > 0
    assert refused > 0


def test_stray_bytes_between_markers_do_not_lose_an_image() -> None:
    data = encode(gradient(), "JPEG", quality=95)
    table = data.index(b"\xff\xdb")
    stray = data[:table] + b"\0\0\0" + data[table:]
    with pytest.raises(ValueError, match="extraneous"):
        __import__("simplejpeg").decode_jpeg(stray, strict=True)
    assert np.array_equal(decode_image(stray), decode_image(data))


def header_bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that declares width x height pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return png + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


@pytest.mark.parametrize("size", [(20_000, 10_000), (13_500, 13_500), (2**31 - 1, 1), (100_000, 100_000)])
def test_bombs_are_refused_by_their_header(size: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=r"limit|damaged|exceeds"):
        decode_image(header_bomb(*size))


def test_pixel_limit_is_exact() -> None:
    data = encode(gradient(), "PNG")
    assert decode_image(data, max_pixels=48 * 64).shape == (48, 64, 3)
    with pytest.raises(DataError, match="64 x 48 pixels are more than the limit of 3071"):
        decode_image(data, max_pixels=48 * 64 - 1)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty"), (b"not an image\n", "not an image"), (b"\xff\xd8", "not an image")],
)
def test_files_that_are_no_images(tmp_path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.jpg: .*{reason}"):
        decode_image(path)


def test_missing_file_and_folder(tmp_path) -> None:
    with pytest.raises(DataError, match="gone.jpg: No such file"):
        decode_image(tmp_path / "gone.jpg")
    with pytest.raises(DataError, match="Is a directory"):
        decode_image(tmp_path)


def test_odd_names_are_readable_and_printable(tmp_path) -> None:
    for name in (
        b"a b.png",
        b"new\nline.png",
        b"caf\xe9.png",
        "ü \N{SNOWMAN}.png".encode(),
        b"q'\".png",
        b"x" * 251 + b".png",
    ):
        path = bytes(tmp_path) + b"/" + name
        with open(path, "wb") as stream:
            stream.write(encode(gradient(), "PNG"))
        assert close(decode_image(path.decode("utf-8", "surrogateescape")), gradient(), 0)
        text = printable(path)
        assert text.encode("utf-8").decode("utf-8") == text
        assert text.isprintable()
    assert printable(b"caf\xe9\n") == "caf\\xe9\\n"


def test_records_read_bytes_before_files() -> None:
    record = {"file_name": "/no/such.tar/a.png", "image_id": 1, "image_bytes": encode(gradient(), "PNG")}
    assert close(decode_image(record), gradient(), 0)
    with pytest.raises(DataError, match=r"/no/such\.tar/a\.png: .*not an image"):
        decode_image({**record, "image_bytes": b"text"})


def test_min_size_scales_only_large_jpegs() -> None:
    big, small = (encode(np.zeros((size, size * 2, 3), np.uint8), "JPEG") for size in (800, 150))
    assert decode_image(big).shape == (800, 1600, 3)
    assert decode_image(big, min_size=200).shape == (200, 400, 3)
    assert decode_image(big, min_size=201).shape[0] >= 201
    assert decode_image(small, min_size=100).shape == (150, 300, 3)
    turned = encode(np.zeros((800, 1600, 3), np.uint8), "JPEG", exif=exif(6))
    assert decode_image(turned, min_size=200).shape == (400, 200, 3)
