"""The YAML files that -c names: found on the command line, and checked before anything in them is used."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from r2mae_core.lab.class_paths import class_paths, imported_class
from r2mae_core.lab.errors import UserError
from r2mae_core.lab.files import read_text


def config_files(argv: Sequence[str]) -> Iterator[Path]:
    """Yield the files that -c and --config name."""
    for before, word in zip(["", *argv], argv, strict=False):
        if word.startswith("--config="):
            yield Path(word.removeprefix("--config="))
        elif word.startswith("-c="):
            yield Path(word.removeprefix("-c="))
        elif before in ("-c", "--config"):
            yield Path(word)


def read_config_file(file: Path) -> dict[str, Any]:
    """Return the options of a YAML file.

    Raises:
        UserError: it is missing, is not UTF-8 or YAML, is no mapping, or names another file.
    """
    try:
        content = yaml.safe_load(read_text(file))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file} is not YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{file} must hold options, NAME: VALUE on each line, got a {type(content).__name__}")
    if "config" in content:
        raise UserError(f"{file}: config is not an option of a file; give several -c on the command line")
    return content


def refuse_foreign_classes(file: Path, content: Mapping[str, Any]) -> None:
    """Refuse a file that names code which this command has not been told to trust, before anything is imported.

    Args:
        file: for the message.
        content: its options.

    Raises:
        UserError: with the name.
    """
    # A class may also be named by its path alone, at every place where a sampler may stand.
    texts = (text for text in _texts(content.get("mask_ratio")) if "." in text and not _is_number(text))
    for path in (*class_paths(content), *texts):
        home, _, name = path.rpartition(".")
        if not home or (home == "r2mae_core" and name in sys.modules[home].__all__):
            continue  # built in, or refused by the parser with the names that are
        try:
            imported_class(path)
        except UserError as error:
            raise UserError(f"{file}: {error}") from None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if key not in ("class_path", "scheme"):
                yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
