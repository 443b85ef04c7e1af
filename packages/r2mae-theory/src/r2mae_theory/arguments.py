"""The only importer of jsonargparse: a parser from typed dataclasses, their attribute docstrings as help."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from typing import Any

from jsonargparse import ArgumentParser, set_parsing_settings


@dataclass(frozen=True)
class Command:
    """A command: its name, its configuration and, if it takes one, its positional argument."""

    name: str
    config: type
    positional: str | None = None
    kind: Any = str
    help: str = ""


def parse(
    prog: str, description: str, commands: list[Command], argv: list[str] | None
) -> tuple[Command, Any, Any, str | None]:
    """Parse a command line; wrong usage exits with 2.

    Returns:
        The command, its configuration object, its positional argument (or None) and the value of `--out`.
    """
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(prog=prog, description=description, allow_abbrev=False)
    chooser = parser.add_subcommands(required=True, dest="command")
    for command in commands:
        sub = ArgumentParser(description=command.config.__doc__, allow_abbrev=False)
        if command.positional:
            sub.add_argument(command.positional, type=command.kind, help=command.help)
        sub.add_argument("-c", "--config", action="config", help="YAML file with any of the options below.")
        sub.add_argument(
            "--out",
            type=str | None,
            default=None,
            help=f"Folder to write to (default: runs/theory-{command.name}-<time>).",
        )
        sub.add_class_arguments(command.config, as_group=False)
        chooser.add_subcommand(command.name, sub, help=command.config.__doc__)
    found = parser.parse_args(with_plain_flags(commands, sys.argv[1:] if argv is None else argv))
    command = next(c for c in commands if c.name == found.command)
    values = vars(found[command.name].clone())
    out = values.pop("out")
    values.pop("config", None)
    positional = values.pop(command.positional, None) if command.positional else None
    return command, command.config(**values), positional, out


def with_plain_flags(commands: list[Command], argv: list[str]) -> list[str]:
    """Let --quick stand for --quick true, --no-quick for --quick false, and dashes for underscores in names."""
    command = next((c for c in commands if c.name in argv), None)
    options = {f.name: f.type for f in fields(command.config)} if command else {}  # pyright: ignore[reportArgumentType]
    words = []
    for word, after in zip(argv, [*argv[1:], ""], strict=False):
        name, equals, value = word.removeprefix("--").partition("=")
        name = name.replace("-", "_") if word.startswith("--") else ""
        positive = name.removeprefix("no_")
        if name != positive and options.get(positive) in (bool, "bool"):
            words.append(f"--{positive}=false")
        elif options.get(name) in (bool, "bool") and not equals and after.lower() not in ("true", "false"):
            words.append(f"--{name}=true")
        else:
            words.append(f"--{name}{equals}{value}" if name in options else word)
    return words
