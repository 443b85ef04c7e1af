"""Ways to damage a valid input, by a seed: as disks, editors, other programs and other people do."""

import gzip
import json
import os
import random
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

INJECTED = {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "PWNED"]}}
"""What must never be called."""
OTHER = (
    b"\x89PNG\r\n\x1a\n" + bytes(40), b"PK\x03\x04" + bytes(40), gzip.compress(b"hello"),
    b"\x89HDF\r\n\x1a\n" + bytes(90), b"PAR1" + bytes(20) + b"PAR1", b"\x28\xb5\x2f\xfd" + bytes(9),
    b"\x93NUMPY\x01\x00" + bytes(20), b"cposix\nsystem\n(S'touch PWNED'\ntR.", b"{}", b"[]", b"null", b"hello\n",
    b"a,b\n1,2\n",
)  # fmt: skip
"""Beginnings of other types of file; one is a pickle that runs a command."""
_UNREAD = ("versions.json", "figures", "table.md")


def pick_file(top: Path, rng: random.Random) -> Path:
    """Return a file below a path, each folder's entries being equally likely; none that no command reads."""
    while top.is_dir() and (entries := sorted(entry for entry in top.iterdir() if entry.name not in _UNREAD)):
        top = rng.choice(entries)
    return top


def damage(file: Path, how: str, rng: random.Random) -> None:
    """Damage a file, or put something else in its place.

    Args:
        file: it is there; for some ways it may be a folder.
        how: one of `WAYS`.
        rng: decides where.
    """
    if how in ("another value", "an injected call", *RUINS, "of another type", "longer") and rng.random() < 0.6:
        (file.parent / "SHA256SUMS").unlink(missing_ok=True)  # who means harm removes the checksums
    _WAYS[how](file, rng)


def _truncated(file: Path, rng: random.Random) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: rng.randrange(len(data) // 2 + 1)])


def _emptied(file: Path, rng: random.Random) -> None:
    file.write_bytes(b"")


def _flipped(file: Path, rng: random.Random) -> None:
    data = bytearray(file.read_bytes())
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data)


def _noise(file: Path, rng: random.Random) -> None:
    file.write_bytes(rng.randbytes(max(file.stat().st_size, 64)))


def _other_type(file: Path, rng: random.Random) -> None:
    file.write_bytes(rng.choice(OTHER))


def _longer(file: Path, rng: random.Random) -> None:
    file.write_bytes(file.read_bytes() + rng.randbytes(rng.choice((1, 100))))


def _not_utf8(file: Path, rng: random.Random) -> None:
    data = file.read_bytes()
    place = rng.randrange(len(data) + 1)
    file.write_bytes(data[:place] + b"\xff\xfe\xe9" + data[place:])


def _gone(file: Path, rng: random.Random) -> None:
    shutil.rmtree(file) if file.is_dir() else file.unlink()


def _replaced(make: Callable[[Path], None]) -> Callable[[Path, random.Random], None]:
    def replace(file: Path, rng: random.Random) -> None:
        _gone(file, rng)
        make(file)

    return replace


def _line_changed(file: Path, rng: random.Random) -> None:
    """Change a line of text, or a cell of a table."""
    lines = file.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    if not lines:
        return
    i = rng.randrange(len(lines))
    mark = next((mark for mark in ("\t", ",", " ") if mark in lines[i]), ",")
    cells = lines[i].split(mark)
    cells[rng.randrange(len(cells))] = rng.choice(("", "nan", "x", "-1", "1e400", '"', "\x00", "9" * 30))
    changed = rng.choice((mark.join(cells), mark.join(cells[:-1]), lines[i] + mark + "x", '"' + lines[i], ""))
    lines[i : i + 1] = rng.choice(([changed], [changed], [], [lines[i], lines[i]]))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")


def _content_changed(change: Callable[[Any, random.Random], Any]) -> Callable[[Path, random.Random], None]:
    """Change what a JSON or YAML file holds; of another file, a line."""

    def rewrite(file: Path, rng: random.Random) -> None:
        text = file.read_text(encoding="utf-8", errors="replace")
        if file.suffix not in (".json", ".yaml"):
            return _line_changed(file, rng)
        is_json = file.suffix == ".json"
        content = json.loads(text) if is_json else yaml.safe_load(text)
        if isinstance(content, dict) and rng.random() < 0.8:
            content.pop("sha256", None)
        content = change(content, rng)
        file.write_text(json.dumps(content) if is_json else yaml.safe_dump(content), encoding="utf-8")
        return None

    return rewrite


def _replace_somewhere(content: Any, rng: random.Random) -> Any:
    """Return content with a value of another type at some depth, or without a key."""
    items = (
        list(content) if isinstance(content, dict) else list(range(len(content))) if isinstance(content, list) else []
    )
    if not items or rng.random() < 0.2:
        wrong = (
            None,
            [],
            {},
            "x",
            "",
            -1,
            0,
            1e308,
            float("nan"),
            True,
            [content],
            {"x": content},
            10**30,
            "\ud800é"[1:],
        )
        return rng.choice([value for value in wrong if type(value) is not type(content)])
    key = rng.choice(items)
    if rng.random() < 0.25:
        del content[key]
    else:
        content[key] = _replace_somewhere(content[key], rng)
    return content


def _inject(content: Any, rng: random.Random) -> Any:
    """Return content with a call in the place of a sampler or of one of its numbers; sometimes of anything else."""
    samplers: list[tuple[Any, Any]] = []
    others: list[tuple[Any, Any]] = []

    def visit(part: Any) -> None:
        for key in list(part) if isinstance(part, dict) else range(len(part)) if isinstance(part, list) else ():
            (samplers if key in ("mask_ratio", "low", "high", "sampler") else others).append((part, key))
            visit(part[key])

    visit(content)
    what = rng.choice((INJECTED, INJECTED, INJECTED, "os.system", "subprocess.Popen"))
    if not samplers + others:
        return {"mask_ratio": what}
    part, key = rng.choice(samplers if samplers and rng.random() < 0.8 else others or samplers)
    part[key] = what
    return content


def _null(file: Path) -> None:
    """Make a null device of our own: whoever replaces it must not replace the machine's."""
    try:
        os.mknod(file, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:  # then nobody here can replace the machine's
        file.symlink_to(os.devnull)


_WAYS: dict[str, Callable[[Path, random.Random], None]] = {
    "truncated": _truncated,
    "emptied": _emptied,
    "noise": _noise,
    "of another type": _other_type,
    "a flipped bit": _flipped,
    "longer": _longer,
    "not UTF-8": _not_utf8,
    "a line changed": _line_changed,
    "another value": _content_changed(_replace_somewhere),
    "an injected call": _content_changed(_inject),
    "gone": _gone,
    "a folder": _replaced(Path.mkdir),
    "a dangling link": _replaced(lambda file: file.symlink_to("nowhere")),
    "a device": _replaced(_null),
    "a link to itself": _replaced(lambda file: file.symlink_to(file.name)),
}
WAYS = tuple(_WAYS)
RUINS = ("truncated", "emptied", "noise", "a folder", "a dangling link", "gone", "a device", "a link to itself")
"""Nothing right can be read after these."""
MISSING = ("a folder", "a dangling link", "gone", "a device", "a link to itself")
"""There is no such file after these."""
TEXT_WAYS = ("a line changed", "another value", "not UTF-8")
