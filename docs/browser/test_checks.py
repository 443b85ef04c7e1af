"""Each check notices a page that is broken in its way, and passes one that is not."""

import pytest

pytest.importorskip("playwright")

import checks

WORD = "a" * 400
WHOLE = "<!doctype html><title>a</title><body><h1 id='top'>whole</h1><a href='#top'>up</a><pre>short</pre>"


@pytest.fixture
def faults(chromium, tmp_path):
    def look(html: str, width: int = checks.DESKTOP) -> list[str]:
        (tmp_path / "index.html").write_text(html, encoding="utf-8")
        (tmp_path / "favicon.ico").touch()  # which a browser asks for by itself
        with checks.served(tmp_path) as address, chromium.new_page(viewport={"width": width, "height": 900}) as page:
            found = checks.loading_faults(page, f"{address}/index.html")
            return found + checks.width_faults(page, code=True) + checks.link_faults(tmp_path)

    return look


def test_a_whole_page_has_no_fault(faults):
    assert faults(WHOLE) == []


@pytest.mark.parametrize(
    ("added", "message"),
    [
        (f"<p>{WORD}</p>", "too wide"),
        (f"<pre style='overflow: auto'>{WORD}</pre>", "code scrolls"),
        ("<img src='lost.png'>", "image: lost.png"),
        ("<img src='lost.png'>", "index.html: lost.png"),
        ("<a href='lost.html'>x</a>", "index.html: lost.html"),
        ("<a href='#lost'>x</a>", "index.html: #lost"),
        ("<script>console.error('no')</script>", "console: no"),
        ("<script>throw new Error('no')</script>", "script: no"),
        ("<script src='lost.js'></script>", "console: Failed to load resource"),
    ],
)
def test_a_broken_page_is_noticed(faults, added, message):
    assert [line for line in faults(WHOLE + added) if message in line]


def test_what_scrolls_within_itself_does_not_widen_the_page(faults):
    assert [line for line in faults(f"{WHOLE}<pre style='overflow: auto'>{WORD}</pre>") if "too wide" in line] == []
