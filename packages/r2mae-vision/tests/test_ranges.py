"""Deep images (more than eight bits): which values are black and white; and images that are damaged, huge or odd."""

import io
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from r2mae_core import UserError
from r2mae_vision.data.decoding import Reading, UnreadableImageError, decode, in_bytes
from r2mae_vision.data.options import Prepare
from r2mae_vision.data.prepare import prepare
from r2mae_vision.data.ranges import say_once
from r2mae_vision.data.sources import open_source


@pytest.fixture(autouse=True)
def _nothing_is_said_yet():
    say_once.cache_clear()


def write(folder, top, dtype, n=6, low=0, suffix="tif"):
    """Write images that rise from low to top, over two classes."""
    for k in range(n):
        home = folder / "train" / "ab"[k % 2]
        home.mkdir(parents=True, exist_ok=True)
        pixels = np.linspace(low, top, 64).reshape(8, 8)
        Image.fromarray(pixels.astype(dtype)).save(home / f"{k}.{suffix}")
    return folder


@pytest.mark.parametrize(
    ("top", "dtype", "suffix", "white"),
    [
        (65535, np.uint16, "png", 65535),
        (65535, np.uint16, "tif", 65535),
        (40000, np.uint16, "png", 65535),
        (16383, np.uint16, "png", 16383),
        (4095, np.uint16, "png", 4095),
        (4095, np.uint16, "tif", 4095),
        (1023, np.uint16, "png", 1023),
        (255, np.uint16, "png", 255),
        (4095, np.int32, "tif", 4095),
        (1.0, np.float32, "tif", 1.0),
        (255.0, np.float32, "tif", 255.0),
        (65535.0, np.float32, "tif", 65535.0),
    ],
)
def test_the_range_comes_from_type_and_data(tmp_path, capsys, top, dtype, suffix, white):
    source = open_source(str(write(tmp_path / "set", top, dtype, suffix=suffix)))
    wanted = np.rint(np.linspace(0, top, 64).astype(dtype).astype(np.float64) * 255 / white).reshape(8, 8)
    assert np.array_equal(np.asarray(source.read(0, 1)[0]), wanted)
    assert np.array_equal(np.asarray(source.read(0, 3)[0])[:, :, 1], wanted)
    assert f"0 … {white:g} is taken for black to white" in capsys.readouterr().out


def test_images_without_depth_need_no_range(tmp_path, capsys):
    source = open_source(str(write(tmp_path / "set", 255, np.uint8)))
    assert source.how.span is None
    assert np.array_equal(np.asarray(source.read(0, 1)[0]), np.linspace(0, 255, 64).astype(np.uint8).reshape(8, 8))
    assert "black" not in capsys.readouterr().out


def test_training_and_validation_have_one_range(tmp_path):
    write(tmp_path / "set", 4095, np.uint16)
    (tmp_path / "set" / "val").mkdir()
    write(tmp_path / "dark", 300, np.uint16)
    for name in "ab":
        (tmp_path / "dark" / "train" / name).rename(tmp_path / "set" / "val" / name)
    assert open_source(str(tmp_path / "set"), "val").how.span == (0, 4095)
    assert np.asarray(open_source(str(tmp_path / "set"), "val").read(0, 1)[0]).max() == round(300 * 255 / 4095)


@pytest.mark.parametrize(("low", "top", "dtype"), [(-1000, 3000, np.int32), (-1, 1, np.float32), (0, 1e6, np.float32)])
def test_a_range_that_cannot_be_told_is_asked_for(tmp_path, low, top, dtype):
    write(tmp_path / "set", top, dtype, low=low)
    with pytest.raises(
        UserError, match=rf"pixels from {low:g} to {re.escape(f'{top:g}')}: .* prepare --range '\[LOW,HIGH\]'"
    ):
        open_source(str(tmp_path / "set"))
    options = {"image_size": 8, "in_chans": 1, "workers": 0, "progress": False}
    out = prepare(Prepare(str(tmp_path / "set"), out=tmp_path / "s", range=(low, top), **options))
    first = open_source(str(out)).images[0, :, :, 0].ravel()
    assert (first[0], first[-1]) == (0, 255)
    assert (np.diff(first.astype(int)) >= 0).all()


def test_an_image_outside_the_range_is_no_white(tmp_path):
    """The sample has 32 images; one of the others is brighter."""
    write(tmp_path / "set", 4095, np.uint16, n=100)
    source = open_source(str(tmp_path / "set"))
    looked_at = set(np.linspace(0, 99, 32).round().astype(int))
    other = next(i for i in range(100) if i not in looked_at)
    name = source.file_name(other)
    Image.fromarray(np.full((8, 8), 5000, np.uint16)).save(tmp_path / "set" / "train" / name)
    options = {"image_size": 8, "workers": 0, "progress": False}
    with pytest.raises(UserError, match=rf"{name} has pixels from 5000 to 5000, outside 0 … 4095, which other images"):
        prepare(Prepare(str(tmp_path / "set"), out=tmp_path / "s", **options))
    out = prepare(Prepare(str(tmp_path / "set"), out=tmp_path / "t", range=(0, 4095), **options))
    assert open_source(str(out)).images[other].min() == 255


def test_a_range_that_is_hardly_used_is_warned_of(tmp_path, capsys):
    write(tmp_path / "set", 4095, np.uint16)
    options = {"image_size": 8, "workers": 0, "progress": False}
    prepare(Prepare(str(tmp_path / "set"), out=tmp_path / "s", range=(0, 65535), **options))
    assert "Warning: pixels from 0 to 4095 use 6.2% of the range 0 … 65535" in capsys.readouterr().out
    with pytest.raises(UserError, match="prepared in another way: range is"):
        prepare(Prepare(str(tmp_path / "set"), out=tmp_path / "s", range=(0, 4095), **options))
    with pytest.raises(UserError, match=r"--range must rise, got \[5,5\]"):
        Prepare(str(tmp_path / "set"), range=(5, 5))


def test_a_deep_image_in_a_set_of_others(tmp_path):
    """Of full range it is read by its type; else its range is not guessed."""
    full, part = (Image.fromarray(np.full((4, 4), value, np.uint16)) for value in (40_000, 4095))
    buffers = [io.BytesIO() for _ in range(2)]
    for image, buffer in zip((full, part), buffers, strict=True):
        image.save(buffer, "PNG")
    assert decode(buffers[0].getvalue(), 1).getpixel((1, 1)) == round(40_000 * 255 / 65535)
    with pytest.raises(UnreadableImageError, match="deep pixels from 4095 to 4095 and no known range; state what is"):
        decode(buffers[1].getvalue(), 1)


def colour16(top):
    """Return a PNG with 16 bits in each of three channels, which Pillow cannot write."""
    rows = b"".join(b"\0" + np.full((8, 3), top, ">u2").tobytes() for _ in range(8))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_colour_with_sixteen_bits_a_channel(tmp_path):
    """Pillow keeps the upper eight bits: fine for the full range, and all but black for twelve bits."""
    (tmp_path / "a" / "x").mkdir(parents=True)
    (tmp_path / "a" / "x" / "0.png").write_bytes(colour16(40_000))
    assert open_source(str(tmp_path / "a")).read(0, 3)[0].getpixel((0, 0)) == (156,) * 3
    (tmp_path / "a" / "x" / "0.png").write_bytes(colour16(4095))
    with pytest.raises(UserError, match=r"nothing brighter than 15 of 255 is left. Scale them to their full range"):
        open_source(str(tmp_path / "a"))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_floats_that_are_no_numbers_are_left_out_and_named(tmp_path, capsys, bad):
    write(tmp_path / "set", 1.0, np.float32, n=5)
    pixels = np.zeros((8, 8), np.float32)
    pixels[2, 3] = bad
    Image.fromarray(pixels).save(tmp_path / "set" / "train" / "a" / "9.tif")
    out = prepare(Prepare(str(tmp_path / "set"), image_size=8, workers=0, out=tmp_path / "s", progress=False))
    assert "left out: 1 unreadable (a/9.tif: 1 of 64 pixels are NaN or infinite)" in capsys.readouterr().out
    assert len(open_source(str(out))) == 5


def test_huge_images_are_left_out_unless_they_are_trusted(tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / "set" / "train" / name).mkdir(parents=True)
    Image.new("RGB", (60, 50), (9, 9, 9)).save(tmp_path / "set" / "train" / "a" / "large.png")
    Image.new("RGB", (60, 49), (9, 9, 9)).save(tmp_path / "set" / "train" / "b" / "small.png")
    options = {"image_size": 8, "workers": 0, "progress": False}
    out = prepare(Prepare(str(tmp_path / "set"), out=tmp_path / "s", max_pixels=2999, **options))
    assert "a/large.png: 60 x 50 = 3,000 pixels, more than 2,999: it may be a bomb" in capsys.readouterr().out
    assert len(open_source(str(out))) == 1
    before = Image.MAX_IMAGE_PIXELS
    assert (
        len(open_source(str(prepare(Prepare(str(tmp_path / "set"), out=tmp_path / "t", max_pixels=3000, **options)))))
        == 2
    )
    assert before == Image.MAX_IMAGE_PIXELS


def test_a_bomb_of_twenty_thousand_pixels_a_side_is_refused_by_its_header(tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(
        UnreadableImageError, match=r"pixels, more than .*: it may be a bomb; if you trust it, prepare with"
    ):
        decode(bomb)
    with pytest.raises(UnreadableImageError) as error:
        decode(bomb, how=Reading(max_pixels=400_000_000))  # goes on to its pixels, which are not there
    assert "bomb" not in str(error.value)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32, np.float64])
def test_bytes_are_rounded_and_cut_at_the_ends(dtype):
    values = np.array([[10, 20, 30, 40, 50]], dtype)
    assert in_bytes(values, Reading((20, 40), chosen=True)).tolist() == [[0, 0, 128, 255, 255]]
