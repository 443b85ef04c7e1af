"""The built site in Chromium: `nox -s browser` builds it and calls this with the folder in R2MAE_SITE."""

import os
from pathlib import Path

import pytest

pytest.importorskip("playwright")
if "R2MAE_SITE" not in os.environ:
    pytest.skip("nox -s browser builds the site", allow_module_level=True)

import checks

SITE = Path(os.environ["R2MAE_SITE"])
SHOTS = os.environ.get("R2MAE_SHOTS")  # a folder for pictures of every page, to look at
PAGES = sorted(str(file.relative_to(SITE)) for file in SITE.rglob("*.html") if "_static" not in str(file))


@pytest.fixture(scope="module")
def address():
    with checks.served(SITE) as served:
        yield served


@pytest.mark.parametrize("width", [checks.DESKTOP, checks.PHONE])
@pytest.mark.parametrize("name", PAGES)
def test_page(chromium, address, name, width):
    with chromium.new_page(viewport={"width": width, "height": 900}) as page:
        found = checks.loading_faults(page, f"{address}/{name}")
        found += checks.width_faults(page, code=width == checks.DESKTOP)
        if SHOTS and not name.startswith("_modules"):
            page.screenshot(path=Path(SHOTS, f"{name.replace('/', '-')}-{width}.png"), full_page=True, timeout=120_000)
    assert found == []


def test_no_internal_link_is_broken():
    assert checks.link_faults(SITE) == []


def test_the_search_finds_the_guide(chromium, address):
    with chromium.new_page() as page:
        found = checks.search(page, address, "mask ratio")
    assert any("guides/core.html" in link for link in found), found
