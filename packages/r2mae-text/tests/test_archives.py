"""Web archives are read as datatrove does; what is no text is counted."""

import gzip
from pathlib import Path

import pytest

from r2mae_core import UserError
from r2mae_text.data.documents import Tally, documents
from r2mae_text.data.sources import plan_pieces

PROSE = "The union of the states was debated at great length in the Congress of that year. "
HTML = f"<html><head><title>x</title></head><body><nav>Home</nav><article><p>{PROSE * 12}</p></article></body></html>"


def record(kind, content, mime):
    body = content if isinstance(content, bytes) else content.encode()
    if kind == "response":
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {mime}\r\nContent-Length: {len(body)}\r\n\r\n"
        body, outer = head.encode() + body, "application/http; msgtype=response"
    else:
        outer = mime
    lines = [
        "WARC/1.0", f"WARC-Type: {kind}", "WARC-Target-URI: http://example.org/", "WARC-Date: 2026-01-01T00:00:00Z",
        f"WARC-Record-ID: <urn:uuid:{abs(hash(body)) % 10**12}>", f"WARC-Identified-Payload-Type: {mime}",
        f"Content-Type: {outer}", f"Content-Length: {len(body)}",
    ]  # fmt: skip
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body + b"\r\n\r\n"


def read(name):
    tally = Tally()
    texts = [part.text for piece in plan_pieces((Path(name),)).pieces for part in documents(piece, "text", tally)]
    return texts, tally


def test_without_datatrove_the_extra_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "datatrove.pipeline.readers.warc", None)
    Path("a.wet").write_bytes(record("conversion", "text", "text/plain"))
    with pytest.raises(UserError, match=r"a\.wet needs the package datatrove: pip install 'r2mae-text\[datatrove\]'"):
        read("a.wet")


@pytest.mark.parametrize("compressed", [False, True])
def test_texts_of_wet_and_main_texts_of_warc(compressed):
    pytest.importorskip("datatrove.pipeline.readers.warc")
    pytest.importorskip("magic", exc_type=ImportError)
    pack = gzip.compress if compressed else bytes
    end = ".gz" if compressed else ""
    info = record("warcinfo", "software: test", "application/warc-fields")
    wet = [info, *(record("conversion", text, "text/plain") for text in (PROSE, "née 象", ""))]
    Path("a.wet" + end).write_bytes(b"".join(map(pack, wet)))
    warc = [record("request", "GET /", "text/plain"), record("response", HTML, "text/html")]
    warc.append(record("response", b"\x89PNG\r\n", "image/png"))
    Path("a.warc" + end).write_bytes(b"".join(map(pack, warc)))
    texts, tally = read("a.wet" + end)
    assert [text.strip() for text in texts] == [PROSE.strip(), "née 象"]
    assert tally.skipped == {"empty documents": 1}
    texts, tally = read("a.warc" + end)
    assert [text.strip() for text in texts] == [(PROSE * 12).strip()]
    assert tally.skipped == {"records of an archive that are no text or page": 1}


@pytest.mark.parametrize("damage", ["cut", "other", "gzip cut"])
def test_damaged_archives_are_one_line(damage):
    pytest.importorskip("datatrove.pipeline.readers.warc")
    pytest.importorskip("magic", exc_type=ImportError)
    whole = b"".join(record("conversion", PROSE * 500, "text/plain") for _ in range(2))
    name, content = {
        "cut": ("a.wet", whole[: len(whole) - 9000]),
        "other": ("a.wet", b"no archive at all\n" * 90),
        "gzip cut": ("a.wet.gz", gzip.compress(whole)[:-30]),
    }[damage]
    Path(name).write_bytes(content)
    with pytest.raises(UserError, match=r"a\.wet.*(damaged|web archive)") as raised:
        read(name)
    assert len(str(raised.value).splitlines()) == 1
