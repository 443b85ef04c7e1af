"""Files that hold more than one plain picture: pages and frames, bands, transparency, orientation, colour spaces."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from r2mae_core import UserError
from r2mae_vision.data.arrays import read_stack
from r2mae_vision.data.decoding import Reading, UnreadableImageError, decode
from r2mae_vision.data.options import Prepare
from r2mae_vision.data.prepare import prepare
from r2mae_vision.data.ranges import say_once
from r2mae_vision.data.sources import open_source

ANIMATED = ("tif", "gif", "webp", "png")


@pytest.fixture(autouse=True)
def _nothing_is_said_yet():
    say_once.cache_clear()


def picture(level, side=8):
    return Image.fromarray(np.full((side, side, 3), level, np.uint8))


def several(suffix, levels=(10, 120, 240)):
    """Return a file with a page or frame of each level."""
    file = io.BytesIO()
    kind = {"tif": "TIFF"}.get(suffix, suffix.upper())
    lossless = {"lossless": True} if suffix == "webp" else {}
    first, *rest = (picture(level) for level in levels)
    first.save(file, kind, save_all=True, append_images=rest, **lossless)
    return file.getvalue()


@pytest.mark.parametrize("suffix", ANIMATED)
def test_several_pages_are_refused_or_the_first_is_read_when_asked(suffix):
    with pytest.raises(UnreadableImageError, match=r"it holds 3 pages or frames; .*--frames first"):
        decode(several(suffix))
    read = np.asarray(decode(several(suffix), how=Reading(frames="first")))
    assert np.abs(read.astype(int) - 10).max() <= 1
    assert np.asarray(decode(several(suffix, (10,)))).max() <= 11


def test_they_are_left_out_counted_and_named(tmp_path, capsys):
    for k, suffix in enumerate(("png", "png", *ANIMATED)):
        home = tmp_path / "set" / "train" / "ab"[k % 2]
        home.mkdir(parents=True, exist_ok=True)
        (home / f"{k}.{suffix}").write_bytes(several(suffix, (10, 120, 240) if k > 1 else (50,)))
    options = {"image_size": 8, "workers": 0, "progress": False}
    out = prepare(Prepare(str(tmp_path / "set"), out=tmp_path / "s", **options))
    said = capsys.readouterr().out
    assert "of 6 images looked at, 4 hold several pages or frames (prepare --frames first" in said
    assert "4 unreadable" in said
    skipped = (out / "train" / "skipped.txt").read_text().splitlines()
    assert len(skipped) == 4
    assert all("it holds 3 pages or frames" in line for line in skipped)
    assert len(open_source(str(out))) == 2
    first = prepare(Prepare(str(tmp_path / "set"), out=tmp_path / "f", frames="first", **options))
    assert len(open_source(str(first))) == 6
    with pytest.raises(UserError, match="frames is 'first' there and None here"):
        prepare(Prepare(str(tmp_path / "set"), out=tmp_path / "f", **options))


def test_smaller_copies_of_a_page_and_previews_of_a_photograph_are_no_pages():
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    file, tags = io.BytesIO(), ImageFileDirectory_v2()
    tags[254] = 1
    small = picture(200, 4)
    small.encoderinfo = {"tiffinfo": tags}
    picture(10).save(file, "TIFF", save_all=True, append_images=[small])
    with Image.open(file) as image:
        assert image.n_frames == 2
    assert np.asarray(decode(file.getvalue())).max() == 10
    file = io.BytesIO()
    picture(10).save(file, "MPO", save_all=True, append_images=[picture(200)])
    with Image.open(file) as image:
        assert image.n_frames == 2
    assert np.asarray(decode(file.getvalue())).max() == 10


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_pictures_stand_upright(kind, orientation):
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    Image.fromarray(pixels).save(file, kind, exif=exif, **options)
    file.seek(0)
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(file)))
    read = np.asarray(decode(file.getvalue()))
    assert read.shape == ((16, 32, 3) if orientation in (1, 3) else (32, 16, 3))
    assert np.array_equal(read, wanted)


def test_bands_that_would_be_dropped_are_refused():
    from PIL import TiffImagePlugin

    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 4), 90, np.uint8), "RGBX").save(file, "TIFF")
    with Image.open(file) as image:
        assert image.tag_v2[TiffImagePlugin.SAMPLESPERPIXEL] == 4
    with pytest.raises(UnreadableImageError, match="it holds 4 bands, of which"):
        decode(file.getvalue())


def test_what_conversion_loses_is_said(tmp_path, capsys):
    home = tmp_path / "train" / "a"
    home.mkdir(parents=True)
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    clear.save(home / "clear.png")
    Image.new("CMYK", (8, 8)).save(home / "ink.jpg")
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    picture(50).save(home / "wide.png", icc_profile=lab)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture(50).save(home / "usual.png", icc_profile=srgb)
    source = open_source(str(tmp_path))
    said = capsys.readouterr().out
    for part in ("1 are transparent (what shows through is white)", "1 are CMYK", "1 state the colour space "):
        assert part in said, said
    assert (np.asarray(source.read(0, 3)[0]) == 255).all()


def test_palettes_are_looked_up():
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    indexed = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    indexed.putpalette(colours.tobytes())
    for kind in ("PNG", "GIF", "TIFF", "BMP"):
        file = io.BytesIO()
        indexed.save(file, kind)
        assert np.array_equal(np.asarray(decode(file.getvalue()))[0], colours), kind


RAMP = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)


def tiff(values, **tags):
    tifffile = pytest.importorskip("tifffile")
    file = io.BytesIO()
    tifffile.imwrite(file, values, **tags)
    return file.getvalue()


@pytest.mark.parametrize("values", [RAMP, RAMP.astype(np.float32), (RAMP // 257).astype(np.uint8)])
def test_numbers_of_which_zero_is_white_are_turned_or_refused(values):
    file = tiff(values, photometric="miniswhite")
    with pytest.raises(UnreadableImageError, match="0 is white"):
        read_stack(file, 10**6)
    if values.dtype == np.uint8:
        assert np.array_equal(np.asarray(decode(file, 1)), 255 - values)
        return
    with pytest.raises(UnreadableImageError, match="0 is white"):
        decode(file, 1, Reading(span=(0, 65535)))


def test_numbers_of_a_tiff_that_are_no_brightness_are_refused():
    indices = np.arange(64, dtype=np.uint8).reshape(8, 8)
    palette = tiff(indices, photometric="palette", colormap=np.full((3, 256), 65535, np.uint16))
    assert np.asarray(decode(palette, 1)).min() == 255
    with pytest.raises(UnreadableImageError, match="palette"):
        read_stack(palette, 10**6)
    signed = tiff(indices.astype(np.int8) - 32)
    assert read_stack(signed, 10**6).values.min() == -32
    with pytest.raises(UnreadableImageError, match="signed numbers of eight bits"):
        decode(signed, 1)


def test_whole_numbers_of_32_bits_are_not_taken_for_negative():
    values = RAMP.astype(np.uint32) * 65537
    read = np.asarray(decode(tiff(values), 1, Reading(span=(0, 2**32 - 1), chosen=True)))
    assert np.array_equal(read, np.rint(values / (2**32 - 1) * 255))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_numbers_are_turned_as_pictures_are(orientation):
    values = (RAMP // 257).astype(np.uint8)[:5]
    file = tiff(values, extratags=[(274, "H", 1, orientation, True)])
    with Image.open(io.BytesIO(file)) as image:
        assert image.getexif().get(274, 1) == orientation
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(read_stack(file, 10**6).values, expected)
    assert np.array_equal(np.asarray(decode(file, 1)), expected)
    planes = np.dstack([values] * 5)
    deep = read_stack(tiff(planes, planarconfig="contig", extratags=[(274, "H", 1, orientation, True)]), 10**6)
    assert np.array_equal(deep.values[:, :, 4], expected)


def test_the_transparent_level_of_a_deep_png_is_white():
    for bits, values in ((16, RAMP), (8, (RAMP // 257).astype(np.uint8))):
        file = io.BytesIO()
        Image.fromarray(values).save(file, "PNG", transparency=int(values[0, 1]))
        read = np.asarray(decode(file.getvalue(), 1))
        assert read[0, 1] == 255, bits
        assert read[0, 0] == 0
        assert read[0, 2] == values[0, 2] // (257 if bits == 16 else 1)
