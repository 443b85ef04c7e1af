"""The words of a command line before the parser sees them: recipes, plain flags, old names, and modules to trust."""

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib import resources
from typing import TYPE_CHECKING

from r2mae_core.lab.config_files import config_files, read_config_file, refuse_foreign_classes
from r2mae_core.lab.errors import UserError

if TYPE_CHECKING:
    from r2mae_core.lab.commands import Command


def recipes(package: str, verb: str) -> dict[str, str]:
    """Return a command's recipes, name → path: the files `configs/<verb>/<name>.yaml` of the package."""
    folder = resources.files(package) / "configs" / verb
    return {file.name.removesuffix(".yaml"): str(file) for file in folder.iterdir()} if folder.is_dir() else {}


def verb_of(commands: Mapping[str, "Command"], argv: Sequence[str]) -> str:
    """Return the command among the words, or ""."""
    return next((word for word in argv if word in commands), "")


def import_trusted(argv: Sequence[str]) -> list[str]:
    """Import the modules that --trust names, also from the current folder, and return the other words."""
    words, rest = iter(argv), []
    for word in words:
        if word != "--trust" and not word.startswith("--trust="):
            rest.append(word)
            continue
        name = word.partition("=")[2] or next(words, "")
        if (here := os.getcwd()) not in sys.path:  # noqa: PTH109  (sys.path holds strings)
            sys.path.append(here)
        try:
            importlib.import_module(name)
        except (ImportError, ValueError) as error:
            raise UserError(f"--trust {name}: the module cannot be imported ({error})") from None
    return rest


def check_config_files(package: str, commands: Mapping[str, "Command"], argv: Sequence[str]) -> None:
    """Refuse -c files that cannot be read or that name code, before the parser imports what they name."""
    verb = verb_of(commands, argv)
    for file in config_files(argv) if verb else ():
        if not file.is_file():
            names = sorted(recipes(package, verb))
            raise UserError(
                f"-c {file}: there is no such file" + (f", nor a recipe of {', '.join(names)}" if names else "")
            )
        refuse_foreign_classes(file, read_config_file(file))


def refuse_old_names(commands: Mapping[str, "Command"], argv: Sequence[str]) -> None:
    """Answer an option's old name with the new one, on the command line and in YAML files."""
    verb = verb_of(commands, argv)
    renamed = commands[verb].renamed if verb else {}
    flags = {word[2:].partition("=")[0].replace("-", "_") for word in argv if word.startswith("--")}
    for old, new in renamed.items():
        if old in flags:
            raise UserError(f"--{old} is now written {new}")
        for file in config_files(argv):
            if old in read_config_file(file):
                raise UserError(f"{file} has {old}, which is now written {new}")


def with_plain_flags(commands: Mapping[str, "Command"], argv: Sequence[str]) -> list[str]:
    """Let --dry-run stand for --dry_run true, and --no-progress for --progress false."""
    verb = verb_of(commands, argv)
    if not verb:
        return list(argv)
    names = {field.name for field in fields(commands[verb].config)}
    flags = {field.name for field in fields(commands[verb].config) if field.type in (bool, "bool")}
    words: list[str] = []
    for word, after in zip(argv, [*argv[1:], ""], strict=True):
        name, equals, _ = word[2:].partition("=") if word.startswith("--") else ("", "", "")
        name = name.replace("-", "_")
        if name in flags and not equals and after.lower() not in ("true", "false"):
            words.append(f"--{name}=true")
        elif name.startswith("no_") and name.removeprefix("no_") in flags:
            words.append(f"--{name.removeprefix('no_')}=false")
        elif name == "no_progress" and "progress" not in names:
            continue  # scripts may give it to every command; this one shows no progress bar
        elif name in names:
            words.append(f"--{name}" + (word[word.index("=") :] if equals else ""))
        else:
            words.append(word)
    return words


def with_recipe_paths(package: str, commands: Mapping[str, "Command"], argv: Sequence[str]) -> list[str]:
    """Replace a recipe's name after -c or --config by the path of its file."""
    verb = verb_of(commands, argv)
    paths, found = recipes(package, verb) if verb else {}, []
    for before, word in zip(["", *argv], argv, strict=False):
        if word.startswith("--config="):
            name = word.removeprefix("--config=")
            found.append(f"--config={paths.get(name, name)}")
        else:
            found.append(paths.get(word, word) if before in ("-c", "--config") else word)
    return found
