"""The command line: typed dataclasses in, one function call out; what `r2mae_core.commands` is to the other packages.

The only importer of jsonargparse. `--help` imports no numpy; a command's code is imported only when it runs.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass, fields
from importlib import resources
from typing import TYPE_CHECKING, Any

from r2mae_theory.errors import TheoryError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_EPILOG = "A switch alone means true, --no-NAME false; dashes and underscores in names are the same."


@dataclass(frozen=True)
class Command:
    """One verb: its options, where its code is, and its line in `--help`."""

    config: type
    """A frozen dataclass; attribute docstrings are the help of its options."""
    target: str
    """Where its code is, as "module:function"; called with an instance of `config`."""
    help: str


def run(prog: str, description: str, commands: Mapping[str, Command], argv: Sequence[str] | None = None) -> int:
    """Parse the command line, run the command, and return its exit code: 0 done, 1 failed with a message, 2 usage.

    Args:
        prog: the console script's name.
        description: first line of `--help`.
        commands: verb → command.
        argv: arguments; None: those of the process.
    """
    words = _with_plain_flags(commands, sys.argv[1:] if argv is None else argv)
    try:
        parsed = _parser(prog, description, commands).parse_args(_with_recipe_paths(commands, words))
    except SystemExit as stop:
        return int(stop.code or 0)
    verb = parsed.command
    command = commands[verb]
    names = {field.name for field in fields(command.config)}
    values = {name: value for name, value in parsed[verb].as_dict().items() if name in names}
    module, _, function = command.target.partition(":")
    try:
        getattr(importlib.import_module(module), function)(command.config(**values))
    except (TheoryError, OSError) as error:
        message = str(error).replace("\n", " ").rstrip()
    except KeyboardInterrupt:
        message = "interrupted"
    else:
        return 0
    sys.stderr.write(f"{prog} {verb}: {message}\n")
    return 1


def _parser(prog: str, description: str, commands: Mapping[str, Command]) -> Any:
    from jsonargparse import ArgumentParser, set_parsing_settings

    from r2mae_theory import __version__

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(prog=prog, description=description, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    verbs = parser.add_subcommands(dest="command", title="commands", metavar="COMMAND")
    for verb, command in commands.items():
        options = ArgumentParser(description=command.help, epilog=_EPILOG, allow_abbrev=False)
        names = sorted(recipes(verb))
        known = f"YAML file, or a recipe's name: {', '.join(names)}" if names else "YAML file"
        options.add_argument("-c", "--config", action="config", help=known)
        options.add_class_arguments(command.config, as_group=False, as_positional=True)
        verbs.add_subcommand(verb, options, help=command.help)
    return parser


def recipes(verb: str) -> dict[str, str]:
    """Return a command's recipes, name → path: the files `configs/<verb>/<name>.yaml` of the package."""
    folder = resources.files("r2mae_theory") / "configs" / verb
    return {file.name.removesuffix(".yaml"): str(file) for file in folder.iterdir()} if folder.is_dir() else {}


def _with_plain_flags(commands: Mapping[str, Command], argv: Sequence[str]) -> list[str]:
    """Let --dry-run stand for --dry_run true, and --no-validate for --validate false."""
    verb = next((word for word in argv if word in commands), None)
    if verb is None:
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
        elif name == "no_progress":
            continue  # scripts may give it to every command of every package; these show no bar
        elif name in names:
            words.append(f"--{name}" + (word[word.index("=") :] if equals else ""))
        else:
            words.append(word)
    return words


def _with_recipe_paths(commands: Mapping[str, Command], argv: Sequence[str]) -> list[str]:
    """Replace a recipe's name after -c or --config by the path of its file."""
    verb = next((word for word in argv if word in commands), "")
    paths, found = recipes(verb) if verb else {}, []
    for before, word in zip(["", *argv], argv, strict=False):
        if word.startswith("--config="):
            name = word.removeprefix("--config=")
            found.append(f"--config={paths.get(name, name)}")
        else:
            found.append(paths.get(word, word) if before in ("-c", "--config") else word)
    return found


def say(message: str = "") -> None:
    """Print a line to the terminal; the one place where the package does."""
    sys.stdout.write(f"{message}\n")
    sys.stdout.flush()
