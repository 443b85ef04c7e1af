"""Files that hold more than one plain picture: pages and frames, bands, transparency, orientation, colour spaces."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from r2mae_core import UserError
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
