"""What must hold for a page of the site in a real browser; each check returns the faults that it found, as lines."""

import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from playwright.sync_api import Browser, Page, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DESKTOP, PHONE = 1300, 400  # pixels
TO_INSTALL = "no Chromium on PATH: apt-get install chromium, or another of " + ", ".join(BROWSERS)

# An element is at fault if it ends right of the window, and nothing around it scrolls or cuts it.
_WIDE = """() => {
    const width = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth <= width) return [];
    const held = e => e && (getComputedStyle(e).overflowX !== 'visible' || held(e.parentElement));
    return [...document.body.querySelectorAll('*')]
        .filter(e => e.getBoundingClientRect().right > width + 1 && !held(e.parentElement))
        .map(e => `${e.tagName.toLowerCase()}.${e.className}: ${e.textContent.trim().slice(0, 60)}`)
        .concat([`page of ${document.documentElement.scrollWidth} pixels in a window of ${width}`]);
}"""
_CODE = """() => [...document.querySelectorAll('pre')]
    .filter(e => e.scrollWidth > e.clientWidth + 1)
    .map(e => {
        const lines = e.textContent.split('\\n');
        const longest = lines.reduce((a, b) => a.length >= b.length ? a : b, '');
        return `${e.scrollWidth} in ${e.clientWidth} pixels, ${longest.length} letters: ${longest.slice(0, 80)}`;
    })"""
_IMAGES = """() => [...document.images]
    .filter(e => e.loading !== 'lazy' && !(e.complete && e.naturalWidth > 0))
    .map(e => e.getAttribute('src'))"""


def find_browser() -> str | None:
    """Return the path of an installed Chromium, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@contextmanager
def browser() -> Iterator[Browser]:
    """Start the installed Chromium without a window. Nothing is downloaded."""
    path = find_browser()
    if path is None:
        raise RuntimeError(TO_INSTALL)
    with sync_playwright() as playwright:
        # --no-sandbox: also as root, in a container; it sees our own pages alone
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield opened
        finally:
            opened.close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on the loopback and return its address."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


def loading_faults(page: Page, address: str) -> list[str]:
    """Open an address and return errors of its console, failed requests, and images that did not load."""
    found: list[str] = []
    page.on("console", lambda said: found.append(f"console: {said.text}") if said.type == "error" else None)
    page.on("pageerror", lambda error: found.append(f"script: {error}"))
    page.on("requestfailed", lambda request: found.append(f"not loaded: {request.url}"))
    page.goto(address, wait_until="load")
    return found + [f"image: {source}" for source in page.evaluate(_IMAGES)]


def width_faults(page: Page, *, code: bool) -> list[str]:
    """Return what makes the page scroll sideways and, with `code`, the code blocks that scroll."""
    found = [f"too wide: {one}" for one in page.evaluate(_WIDE)]
    return found + ([f"code scrolls: {one}" for one in page.evaluate(_CODE)] if code else [])


class _Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.ids: set[str] = set()
        self.targets: list[str] = []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids |= {given[name] for name in ("id", "name") if given.get(name)}
        self.targets += [given[name] for name in ("href", "src") if given.get(name)]


def link_faults(site: Path) -> list[str]:
    """Return every internal link, anchor and source of a built site that leads nowhere, as `page: target`."""
    pages = {}
    for file in site.rglob("*.html"):
        if "_static" not in file.relative_to(site).parts:
            pages[file.resolve()] = parsed = _Links()
            parsed.feed(file.read_text(encoding="utf-8"))
    found = set()
    for file, parsed in pages.items():
        for target in parsed.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            there = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            there = there / "index.html" if there.is_dir() else there
            known = pages[there].ids if there in pages else None
            if not there.is_file() or (parts.fragment and known is not None and unquote(parts.fragment) not in known):
                found.add(f"{file.relative_to(site.resolve())}: {target}")
    return sorted(found)


def search(page: Page, address: str, words: str) -> list[str]:
    """Search the site as a reader does and return the addresses of the results, best first."""
    page.goto(f"{address}/search.html?q={words.replace(' ', '+')}")
    page.wait_for_selector("#search-results p.search-summary:not(:has-text('Searching'))", timeout=30_000)
    page.wait_for_function("() => !document.querySelector('#search-results p')?.textContent.includes('...')")
    return page.eval_on_selector_all("#search-results li a", "links => links.map(link => link.href)")
