"""Which files of a folder are read: those of a known kind that the user put there. The others are named."""

import os
import re
from pathlib import Path

from r2mae_core import UserError, read_json, reading
from r2mae_text.data.streams import COMPRESSIONS

SUFFIXES = {
    ".txt": "text", ".md": "text", ".jsonl": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv",
    ".parquet": "parquet", ".arrow": "arrow", ".bin": "gpt2", ".wet": "archive", ".warc": "archive",
}  # fmt: skip
KNOWN = (
    f"known endings: {', '.join(SUFFIXES)}; all but .parquet and .bin also with {', '.join(COMPRESSIONS)} behind them"
)
CACHE = "files that datasets keeps for itself beside its data"
_SYSTEM = {"__MACOSX", "@eaDir", "lost+found", "#recycle", "$RECYCLE.BIN", "System Volume Information"}
_LAYOUT = ("dataset_info.json", "state.json")  # of datasets' save_to_disk: no text in them
_CACHE = re.compile(r"(cache|tmp)[-\w]*\.arrow")  # what datasets' map leaves beside the data: the rows once more


def kind_of(file: Path) -> str | None:
    """Return the kind of a file by its ending, or None where it is unknown; it may be compressed."""
    suffixes = [suffix.lower() for suffix in file.suffixes[-2:]]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        kind = SUFFIXES.get(suffixes[0]) if len(suffixes) == 2 else None
        return None if kind in ("parquet", "gpt2") else kind  # these are read from several places
    return SUFFIXES.get(suffixes[-1]) if suffixes else None


def files_in(folder: Path, unread: dict[str, list[str]]) -> list[Path]:
    """Return the files of a folder, and of those in it, that are read, in the order of their names.

    Args:
        folder: which one; of `save_to_disk` it is the folder of one split.
        unread: takes the names of all others, by reason.

    Raises:
        UserError: a folder cannot be read, lacks files that it says it has, or has no file of a known kind.
    """
    if (folder / "dataset_dict.json").exists():
        splits = ", ".join(sorted(file.parent.name for file in folder.glob("*/state.json")))
        raise UserError(f"{folder} holds the splits {splits}; name those that are meant, such as {folder}/train")
    known = list[Path]()
    for file in _every(folder, unread):
        if reason := _why_not(file, folder):
            unread.setdefault(reason, []).append(str(file.relative_to(folder.parent)))
        elif not (file.name in _LAYOUT and _is_saved(file.parent)):
            known.append(file)
    if not known:
        raise UserError(f"{folder} has no file that can be read; {KNOWN}")
    for home in sorted({file.parent for file in known if _is_saved(file.parent)}):
        _check_whole(home)
    return known


def _every(folder: Path, unread: dict[str, list[str]]) -> list[Path]:
    """Return all files; folders of the system and linked ones are not gone into, and named."""
    found = list[Path]()

    def refuse(error: OSError) -> None:
        with reading(str(error.filename)):
            raise error

    for place, folders, files in os.walk(folder, onerror=refuse):
        home = Path(place)
        for name in sorted(folders):
            linked = (home / name).is_symlink()
            if linked or _is_systems(name):
                reason = "linked folders, which are not followed" if linked else "folders of the system, or hidden"
                unread.setdefault(reason, []).append(str((home / name).relative_to(folder.parent)))
                folders.remove(name)
        found += [home / name for name in files]
    return sorted(found)


def _is_systems(name: str) -> bool:
    return name.startswith(".") or name in _SYSTEM


def is_cache(file: Path) -> bool:
    """Return whether a file is one that datasets keeps for itself beside its data."""
    return bool(_CACHE.fullmatch(file.name)) and any((file.parent / name).exists() for name in _LAYOUT)


def _is_saved(home: Path) -> bool:
    """Return whether a folder is one of `save_to_disk`."""
    return all((home / name).exists() for name in _LAYOUT)


def _why_not(file: Path, folder: Path) -> str:
    """Return why a file is not read, or an empty text."""
    if _is_systems(file.name):
        return "hidden files"
    if not file.exists():
        return "links to files that are not there"
    if not file.is_file():
        return "pipes, sockets or devices"
    if is_cache(file):
        return CACHE
    if kind_of(file) is None:
        return f"files that end in {''.join(file.suffixes[-2:]).lower() or 'nothing'}"
    return ""


def _check_whole(home: Path) -> None:
    """Refuse a folder of `save_to_disk` without one of the files that it lists."""
    with reading(home / "state.json", "the state of a saved data set"):
        listed = [entry["filename"] for entry in read_json(home / "state.json").get("_data_files", ())]
    if missing := [name for name in listed if not (home / Path(name).name).exists()]:
        raise UserError(
            f"{home} lacks {missing[0]}, one of {len(listed)} files that its state.json lists; save it again"
        )
