"""What must not leave the machine: paths of its file system, and who works on it."""

import getpass
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

from r2mae_core.lab.errors import UserError


def refuse_private(folder: Path, paths: Iterable[Path | str | None] = ()) -> None:
    """Refuse a folder to be shared of which a file names a place of this machine.

    Args:
        folder: all its files are searched, byte by byte.
        paths: further places besides the home folder, the current folder, and the one for temporary files.

    Raises:
        UserError: with the file, and what it holds.
    """
    needles = private_texts([folder, *paths])
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = file.read_bytes()
        if found := next((text for text in needles if _holds(content, text)), None):
            raise UserError(
                f"{file.relative_to(folder)} would tell others of {found!r}, a place of this machine; nothing was sent"
            )


def private_texts(paths: Iterable[Path | str | None] = ()) -> list[str]:
    """Return the texts that name places of this machine, the longest first."""
    places = [Path.home(), Path.cwd(), Path(tempfile.gettempdir()), *(Path(path) for path in paths if path is not None)]
    found = {str(place) for path in places for place in (path.absolute(), Path(os.path.realpath(path)))}
    found |= {f"{home}/{_user()}" for home in ("/home", "/Users") if _user()}
    return sorted((text for text in found if len(text) > 1), key=len, reverse=True)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container without a name for its user
        return ""


def _holds(content: bytes, text: str) -> bool:
    """Return whether a path stands in a file's content as a whole, not as the beginning of a longer name.

    A folder right under the root, such as /tmp, must be followed by what lies in it: alone it is a word of tokenizers.
    """
    end = rb"(?![\w.-])" if text.count("/") + text.count("\\") > 1 else rb"[/\\][\w.-]"
    return re.search(rb"(?<![\w.-])" + re.escape(os.fsencode(text)) + end, content) is not None
