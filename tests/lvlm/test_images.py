"""Every kind of picture becomes upright 8-bit RGB, or a sentence."""

import io
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from svl_core.errors import InputError
from svl_core.lvlm import images
from svl_core.lvlm.images import open_image


def file_of(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def checker(width=8, height=6):
    return Image.fromarray((np.indices((height, width)).sum(0) % 2 * 255).astype(np.uint8)).convert(
        "RGB"
    )


def bomb(side=60_000):
    """A PNG whose header promises side x side pixels, in a few bytes."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def test_path_bytes_and_image_agree(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(file_of(checker()))
    for source in (path, str(path), path.read_bytes(), checker()):
        image = open_image(source)
        assert image.mode == "RGB" and np.array_equal(np.asarray(image), np.asarray(checker()))


def test_transparent_is_laid_onto_white():
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert np.asarray(open_image(file_of(clear))).min() == 255
    half = open_image(file_of(Image.new("RGBA", (1, 1), (0, 0, 0, 128))))
    assert half.getpixel((0, 0)) == (127, 127, 127)
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([0, 0, 0] * 256)
    assert np.asarray(open_image(file_of(palette, transparency=0))).min() == 255
    assert np.asarray(open_image(file_of(Image.new("LA", (2, 2), (0, 0))))).min() == 255


def test_sixteen_bit_grey_is_scaled_not_clipped():
    grey = np.array([[0, 257, 32896, 65535]], np.uint16)
    assert np.asarray(open_image(file_of(Image.fromarray(grey))))[0, :, 0].tolist() == [
        0,
        1,
        128,
        255,
    ]
    assert np.asarray(open_image(file_of(Image.fromarray(grey), "TIFF")))[0, :, 0].tolist() == [
        0,
        1,
        128,
        255,
    ]


def test_floating_point_grey():
    assert np.asarray(open_image(Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32))))[
        0, :, 0
    ].tolist() == [0, 128, 255]
    assert np.asarray(open_image(Image.fromarray(np.array([[-10.0, np.nan, 10.0]], np.float32))))[
        0, :, 0
    ].tolist() == [0, 128, 255]


def test_cmyk_jpeg_is_converted():
    image = open_image(file_of(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    assert image.mode == "RGB"
    red, green, blue = image.getpixel((4, 4))
    assert red > 200 and green < 60 and blue < 60


def test_animation_gives_its_first_frame():
    frames = [Image.new("P", (4, 4), i) for i in range(3)]
    for i, frame in enumerate(frames):
        frame.putpalette([80 * i, 0, 0] * 256)
    image = Image.open(
        io.BytesIO(file_of(frames[0], "GIF", save_all=True, append_images=frames[1:], loop=0))
    )
    image.seek(2)  # even when someone has leafed through it
    assert open_image(image).getpixel((0, 0))[0] < 40


def test_exif_turn_is_applied():
    tall = Image.new("RGB", (4, 8), "white")
    tall.putpixel((0, 0), (0, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to view
    image = open_image(file_of(tall, exif=exif))
    assert image.size == (8, 4) and image.getpixel((7, 0)) == (0, 0, 0)


def test_broken_exif_does_not_hide_the_picture():
    assert open_image(file_of(checker(), "JPEG", exif=b"Exif\0\0II*\0garbage")).size == (8, 6)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "empty"),
        (b"this is text, not a picture", "not a readable image"),
        (file_of(checker(400, 400), "JPEG")[:900], "corrupt or cut off"),
        (file_of(checker(400, 400))[:-300], "corrupt or cut off"),
        (file_of(Image.effect_noise((64, 64), 90))[:200] + b"\xff" * 500, "corrupt or cut off"),
    ],
    ids=["empty", "text", "truncated-jpeg", "truncated-png", "corrupt-png"],
)
def test_bad_data_is_told(content, found):
    with pytest.raises(InputError, match=found):
        open_image(content)


def test_a_bomb_is_refused_before_decoding(monkeypatch):
    def decoded(self):
        raise AssertionError("decoded")

    monkeypatch.setattr(Image.Image, "load", decoded)
    for side in (9_000, 60_000):  # below and above pillow's own limit
        with pytest.raises(InputError, match="pixels"):
            open_image(bomb(side))


def test_limits_are_settings(tmp_path):
    with pytest.raises(InputError, match="at most 10 pixels"):
        open_image(checker(), max_pixels=10)
    path = tmp_path / "a.png"
    path.write_bytes(file_of(checker()))
    with pytest.raises(InputError, match="MB"):
        open_image(path, max_bytes=10)
    with pytest.raises(InputError, match="MB"):
        open_image(path.read_bytes(), max_bytes=10)


@pytest.mark.parametrize(
    "source", ["no/such/file.png", "https://example.org/a.png", "", "a\0b", 7, None]
)
def test_no_image_at_all(source):
    with pytest.raises(InputError):
        open_image(source)


def test_a_folder_is_not_an_image(tmp_path):
    with pytest.raises(InputError, match="no file"):
        open_image(tmp_path)


def test_one_pixel():
    assert open_image(Image.new("1", (1, 1), 1)).getpixel((0, 0)) == (255, 255, 255)


def test_a_line_of_millions_is_refused_by_its_side():
    """Few pixels in all, but a decoder pays for each row."""
    content = file_of(Image.new("1", (2, 40_000)))
    assert open_image(content, max_side=40_000).size == (2, 40_000)
    with pytest.raises(InputError, match="2 x 40,000 pixels; expected at most 30,000 along a side"):
        open_image(content)


def test_one_image_is_decoded_at_a_time(monkeypatch):
    """Ten at once take the memory of one."""
    running, most = [], []
    original = images._rgb

    def counted(image):
        running.append(1)
        most.append(len(running))
        time.sleep(0.005)
        running.pop()
        return original(image)

    monkeypatch.setattr(images, "_rgb", counted)
    content = file_of(checker())
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda _: open_image(content), range(10)))
    assert len(most) == 10 and max(most) == 1


def test_grey_values_are_scaled_over_the_whole_image():
    """In parts of rows, but by the range of all."""
    values = np.linspace(0, 1000, 700 * 3, dtype=np.float32).reshape(700, 3)
    grey = np.asarray(open_image(Image.fromarray(values)))[..., 0]
    assert np.array_equal(grey, np.rint(values / 1000 * 255).astype(np.uint8))


def test_the_size_of_a_file_is_known_without_decoding_it(tmp_path):
    """Turned by its EXIF data or not; a file that is no picture tells none."""
    for turn in (1, 3, 6, 8):
        exif = Image.Exif()
        exif[0x0112] = turn
        checker(8, 6).save(tmp_path / "turned.jpg", exif=exif)
        assert images.upright_size(tmp_path / "turned.jpg") == (
            open_image(tmp_path / "turned.jpg").size
        )
    (tmp_path / "none.png").write_bytes(b"nothing")
    assert images.upright_size(tmp_path / "none.png") is None
    assert images.upright_size(tmp_path / "missing.png") is None
