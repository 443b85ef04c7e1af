"""Files that carry their checksum: a flipped bit or a lost end is noticed when they are read back."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from r2mae_core.lab.errors import UserError
from r2mae_core.lab.files import read_text, write_text

_SEAL = "sha256"
_COMMENT_SEAL = "# sha256: "
SUMS = "SHA256SUMS"
"""The file of a folder's checksums, as `sha256sum --check` reads it."""


def write_json(target: Path, content: Mapping[str, Any], *, indent: int = 1) -> Path:
    """Write a JSON object atomically, with a checksum in it that `read_json` checks, and return the path."""
    write_text(target, as_json({**content, _SEAL: _digest(as_json(content))}, indent=indent, ensure_ascii=False))
    return target


def read_json(file: Path) -> dict[str, Any]:
    """Return the object of a JSON file, without its checksum. A file without one, such as a user's, is not checked.

    Raises:
        UserError: it is missing, is no JSON object, or is not what was written.
    """
    try:
        content = json.loads(read_text(file))
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file} is damaged: it is not JSON ({error})") from None
    except RecursionError:
        raise UserError(f"{file} is damaged: it is not JSON that this program writes") from None
    if not isinstance(content, dict):
        raise UserError(f"{file} is damaged, or not of this program: a JSON object is needed")
    seal = content.pop(_SEAL, None)
    if (seal is None and any(map(_is_almost_a_seal, content))) or seal not in (None, _digest(as_json(content))):
        raise UserError(f"{file} is damaged or was edited: its checksum is another; restore it, or make it anew")
    return content


def _is_almost_a_seal(name: str) -> bool:
    """Return whether a name is that of the checksum with one letter changed, as by a flipped bit."""
    return len(name) == len(_SEAL) and sum(a != b for a, b in zip(name, _SEAL, strict=True)) == 1


def write_yaml(target: Path, content: Mapping[str, Any]) -> None:
    """Write a YAML mapping atomically, with a checksum in its first line that `read_yaml` checks.

    In the first, because a file that is cut off is YAML as well, and must not lose its checksum.
    """
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    write_text(target, f"{_COMMENT_SEAL}{_digest(text)}\n{text}")


def read_yaml(file: Path) -> dict[str, Any]:
    """Return the mapping of a YAML file. A file without a checksum, such as a user's, is not checked.

    Raises:
        UserError: it is missing, is no YAML mapping, or is not what was written.
    """
    text = read_text(file)
    first, _, body = text.partition("\n")
    # A mark that is damaged itself, or cut off, is one too; a file that is cut off there has no other line.
    cut_off = first == text and _COMMENT_SEAL.startswith(text[: len(_COMMENT_SEAL)])
    sealed = cut_off or re.fullmatch(r".{1,12}[0-9a-f]{60,}.*", first)
    if sealed and first != f"{_COMMENT_SEAL}{_digest(body)}":
        raise UserError(f"{file} is damaged or was edited: its checksum is another; restore it, or name another folder")
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{file} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"{file} is damaged, or not of this program: names with values are needed")
    return content


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def as_json(content: Any, *, indent: int = 1, ensure_ascii: bool = True) -> str:
    """Return JSON text that ends in a newline. JSON has no NaN and no infinity: they become null."""
    return json.dumps(_finite(content), indent=indent, ensure_ascii=ensure_ascii, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if hasattr(value, "tolist"):  # numpy's
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def file_digest(file: Path) -> str:
    """Return the SHA-256 of a file's content, as hexadecimal digits."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def write_checksums(folder: Path) -> None:
    """Write the checksums of all files in a folder and its subfolders into its `SHA256SUMS`, sealed by a comment."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS)
    lines = "".join(f"{file_digest(file)}  {file.relative_to(folder).as_posix()}\n" for file in files)
    write_text(folder / SUMS, f"{lines}{_COMMENT_SEAL}{_digest(lines)}\n")


def check_checksums(folder: Path) -> None:
    """Compare a folder with its `SHA256SUMS`. A folder without one, such as somebody else's model, is not checked.

    Raises:
        UserError: a file is missing, or is not what was written.
    """
    sums = folder / SUMS
    if not sums.exists():
        return
    lines, mark, seal = read_text(sums).rpartition(_COMMENT_SEAL)
    if not mark or seal.strip() != _digest(lines):
        raise UserError(f"{sums} is damaged or was edited; restore it, or make the folder anew")
    for line in lines.splitlines():
        digest, _, name = line.partition("  ")
        file = folder / name
        if not file.is_file():
            raise UserError(f"{file} is missing, though {sums} names it; restore it, or make the folder anew")
        if file_digest(file) != digest:
            raise UserError(
                f"{file} is damaged: its checksum is not that in {SUMS}; restore it or make it anew (if you changed it "
                f"yourself, remove {sums})"
            )
