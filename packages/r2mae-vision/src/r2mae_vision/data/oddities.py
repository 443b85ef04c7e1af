"""What an image file holds beside one plain picture: more pages, more bands, transparency, other colours."""

import io
from typing import Any

REDUCED, MASK = 1, 4
"""Bits of TIFF's NewSubfileType: a smaller copy of another page, and a transparency mask of one."""
_SUBFILE, _OLD_SUBFILE, _BITS, _PHOTOMETRIC, _BANDS, _FORMAT = 254, 255, 258, 262, 277, 339
ONE_PICTURE = ("MPO", "PSD")
"""Formats whose first picture is the photograph, and whose others are previews, depth maps or layers of it."""


def n_pictures(image: Any) -> int:
    """Return how many pages or frames an open file has; a TIFF's smaller copies and masks of a page are none.

    It stands at its first picture afterwards.
    """
    if image.format in ONE_PICTURE or (n := getattr(image, "n_frames", 1)) == 1:
        return 1
    if image.format != "TIFF":
        return n
    pages = 0
    for k in range(n):
        image.seek(k)
        beside = image.tag_v2.get(_SUBFILE, 0) & (REDUCED | MASK) or image.tag_v2.get(_OLD_SUBFILE) == 2
        pages += not beside
    image.seek(0)
    return max(pages, 1)


def bands_unread(image: Any) -> int:
    """Return the number of bands of an open TIFF whose further bands Pillow drops; 0 of any other image.

    A fourth band that the file calls transparency is none of these.
    """
    if image.format != "TIFF":
        return 0
    n = image.tag_v2.get(_BANDS, 1)
    return n if n > (3 if image.mode == "RGBX" else len(image.getbands())) else 0


def misread(image: Any) -> str:
    """Return why Pillow would give other numbers than an open TIFF means; empty if it does not."""
    if image.format != "TIFF":
        return ""
    bits, kind = image.tag_v2.get(_BITS, (1,))[0], image.tag_v2.get(_FORMAT, (1,))[0]
    if bits > 8 and image.tag_v2.get(_PHOTOMETRIC) == 0:
        return WHITE_IS_ZERO
    if bits == 8 and kind == 2:
        return "it holds signed numbers of eight bits, which are no picture; prepare --depth file reads them"
    return ""


WHITE_IS_ZERO = "it states that 0 is white (TIFF's MinIsWhite), which is not turned here; save it with 0 as black"


def is_unsigned_32(image: Any) -> bool:
    """Return whether a file has whole numbers up to 2**32, which Pillow takes for signed ones."""
    tags = getattr(image, "tag_v2", {})
    return image.mode == "I" and tags.get(_BITS, (0,))[0] == 32 and tags.get(_FORMAT, (1,))[0] == 1


def remarks(image: Any) -> list[str]:
    """Return what a user should know about an open file whose conversion loses something."""
    found = []
    if n_pictures(image) > 1:
        found.append("hold several pages or frames (prepare --frames first reads the first of each)")
    if bands_unread(image):
        found.append("hold more bands than are read")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        found.append("are transparent (what shows through is white)")
    if image.mode == "CMYK":
        found.append("are CMYK (converted without a colour profile)")
    elif profile := _other_colours(image):
        found.append(f"state the colour space {profile} (their numbers are taken for sRGB)")
    if image.format != "TIFF" and image.getexif().get(0x0112, 1) not in (0, 1):
        found.append("are turned as their EXIF orientation says")
    return found


def _other_colours(image: Any) -> str:
    """Return the name of the colour space of an RGB image, if it is not sRGB."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA"):
        return ""
    from PIL import ImageCms

    try:
        name = " ".join(ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile))).split())
    except (ImageCms.PyCMSError, OSError):
        return "of a damaged profile"
    return "" if "srgb" in name.casefold() else name or "of a profile without a name"
