"""The command line of every package: typed dataclasses in, one function call out.

`--help` reads dataclasses that import no torch. A command's code is imported only when it runs.
"""

import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, Field, dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Any

from r2mae_core.lab.bounds import check_bounds
from r2mae_core.lab.command_words import (
    check_config_files,
    import_trusted,
    recipes,
    refuse_old_names,
    verb_of,
    with_plain_flags,
    with_recipe_paths,
)
from r2mae_core.lab.comparison import Direction, compare, compare_runs
from r2mae_core.lab.errors import UserError
from r2mae_core.lab.faults import debugging, report_fault
from r2mae_core.lab.files import write_text
from r2mae_core.lab.option_groups import group_options
from r2mae_core.lab.records import Record
from r2mae_core.lab.run_folder import RunFolder
from r2mae_core.lab.space import is_disk_full
from r2mae_core.lab.terminal import first_rank, say

_EPILOG = "A switch alone means true, --no-NAME false; dashes and underscores in names are the same."
_TRUST = "Import this module first, such as one that registers schemes of your own; may be given several times."


@dataclass(frozen=True)
class Command:
    """One verb: its options, where its code is, and its line in `--help`."""

    config: type
    """A frozen dataclass; attribute docstrings are the help of its options."""
    target: str
    """Where its code is, as "module:function"; called with an instance of `config`."""
    help: str
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Old name of an option → how it is written now, such as {"root": "--data"}: the old one answers with that."""


@dataclass(frozen=True)
class Compare:
    """Options of every `compare`."""

    runs: tuple[Path, ...]
    """Run folders, or their results.json."""
    markdown: bool = False
    """Print Markdown."""
    csv: bool = False
    """Print CSV: a line for each entry of the table, with full precision."""


def run(prog: str, description: str, commands: Mapping[str, Command], argv: Sequence[str] | None = None) -> int:
    """Parse the command line, run the command, and return its exit code: 0 done, 1 failed with a message, 2 usage.

    Args:
        prog: the console script's name.
        description: first line of `--help`.
        commands: verb → command.
        argv: arguments; None: those of the process.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    verb = verb_of(commands, words)
    name = f"{prog} {verb}" if verb else prog
    signals = _Signals(name)
    try:
        with signals.answered():
            return _parse_and_call(prog, description, commands, words, signals)
    except _Usage as error:
        code, message = 2, str(error)
    except (UserError, OSError) as error:  # OSError: a full disk, a missing permission, with the file's name
        code, message = 1, str(error)
    except KeyboardInterrupt:
        code, message = 1, "interrupted"
    except Exception as error:
        if signals.came:  # a library made another error of it
            code, message = 1, "interrupted"
        elif type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported here
            reason = (str(error).splitlines() or [""])[0]
            code, message = 1, f"the GPU's memory is full ({reason}); lower the batch size"
        elif _is_memory_full(error):
            code, message = 1, "the memory is full; lower the batch size or the number of workers"
        elif is_disk_full(error):
            code, message = 1, f"the disk or the quota is full ({(str(error).splitlines() or [''])[0]}); make space"
        elif debugging():
            raise
        else:
            code, message = 1, report_fault(prog, error)
    print(f"{name}: {message}", file=sys.stderr)  # noqa: T201
    return code


def _is_memory_full(error: Exception) -> bool:
    # torch says it in a RuntimeError's text.
    signs = ("can't allocate memory", "storage size calculation overflowed", "bad_alloc")
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in signs)


class _Usage(Exception):  # noqa: N818
    """What is wrong with the command line itself."""


class _Signals:
    """Lets SIGTERM end a command as Ctrl-C does: with a message, and with its temporary files and processes gone."""

    def __init__(self, name: str) -> None:
        self.name, self.came, self.importing = name, False, False

    def _answer(self, number: int, frame: Any) -> None:
        self.came = True
        if self.importing:  # numpy and torch swallow an interrupt there, and nothing is begun that had to be ended
            os.write(2, f"{self.name}: interrupted\n".encode())
            os._exit(1)
        raise KeyboardInterrupt

    @contextmanager
    def answered(self) -> Iterator[None]:
        """Answer both signals while a block runs, unless the process was started without Ctrl-C."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        for number in before:
            if before[number] is not signal.SIG_IGN:
                signal.signal(number, self._answer)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def import_module(self, name: str) -> Any:
        """Import a command's code."""
        self.importing = True
        try:
            return importlib.import_module(name)
        finally:
            self.importing = False


def _parse_and_call(
    prog: str, description: str, commands: Mapping[str, Command], argv: list[str], signals: _Signals
) -> int:
    package = next(iter(commands.values())).target.partition(".")[0]
    try:
        words = import_trusted(argv)
        words = with_recipe_paths(package, commands, with_plain_flags(commands, words))
        check_config_files(package, commands, words)
        refuse_old_names(commands, words)
    except UserError as error:
        raise _Usage(str(error)) from None
    try:
        parsed = _parser(prog, package, description, commands).parse_args(words)
    except SystemExit as stop:
        return int(stop.code or 0)
    from r2mae_core.lab.parser_errors import plain

    verb = parsed.command
    command = commands[verb]
    if parsed[verb].trust is not None:  # the command line's have been taken out: this one is from a YAML file
        raise _Usage("a file cannot ask to be trusted; give --trust on the command line")
    names = {field.name for field in fields(command.config)}
    values = {name: plain(value) for name, value in parsed[verb].as_dict().items() if name in names}
    config = command.config(**values)
    check_bounds(config)
    module, _, function = command.target.partition(":")
    _let_threads_sleep()
    getattr(signals.import_module(module), function)(config)
    return 0


def _let_threads_sleep() -> None:
    """Let the CPU threads of torch and numpy sleep while they wait for each other; must come before they are imported.

    By default they spin, and on a machine whose cores are busy with other work each then holds up the other: the demo
    of vision took more than ten times as long.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # GNU's OpenMP
    os.environ.setdefault("KMP_BLOCKTIME", "0")  # Intel's


def _parser(prog: str, package: str, description: str, commands: Mapping[str, Command]) -> Any:
    from jsonargparse import set_parsing_settings

    from r2mae_core.lab.parser_errors import ArgumentParser

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(prog=prog, description=description, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"%(prog)s {_version(package)}")
    verbs = parser.add_subcommands(dest="command", title="commands", metavar="COMMAND")
    for verb, command in commands.items():
        options = ArgumentParser(description=command.help, epilog=_EPILOG, allow_abbrev=False)
        known = (
            f"YAML file, or a recipe's name: {', '.join(names)}"
            if (names := sorted(recipes(package, verb)))
            else "YAML file"
        )
        options.add_argument("-c", "--config", action="config", help=known)
        options.add_argument("--trust", metavar="MODULE", help=_TRUST)
        needed = _required(command.config)
        lists: set[str | int] = {field.name for field in needed if "tuple" in str(field.type)}
        if first := bool(needed) and needed[0].name in lists:
            _add_lists(options, command.config, lists)
        options.add_class_arguments(command.config, as_group=False, as_positional=True, skip=lists)
        if not first:
            _add_lists(options, command.config, lists)
        group_options(options, command.config)
        for action in options._actions:  # what every package's options say alike
            action.help = (action.help or "").replace("PROGRAM", prog).replace("COMMAND-TIME", f"{verb}-TIME") or None
        verbs.add_subcommand(verb, options, help=command.help)
    return parser


def _add_lists(options: Any, config: type, names: Iterable[str | int]) -> None:
    texts = _help_texts(config)
    for name in map(str, names):  # jsonargparse would want [a,b] for a list without a flag
        text = texts.get(name) or f"One or more {name}."
        options.add_argument(name, nargs="+", type=Path, metavar=name.upper(), help=text)


def _help_texts(config: type) -> dict[str, str]:
    """Return the docstring under each field of a command's options, as jsonargparse reads it for the others."""
    from docstring_parser import parse_from_object

    found: dict[str, str] = {}
    for owner in config.__mro__[:-1]:
        for part in parse_from_object(owner).params:
            found.setdefault(part.arg_name, " ".join((part.description or "").split()))
    return found


def _version(package: str) -> str:
    try:
        return metadata.version(package.replace("_", "-"))
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        return str(getattr(importlib.import_module(package), "__version__", "unknown"))


def _required(config: type) -> list[Field[Any]]:
    return [field for field in fields(config) if field.default is MISSING and field.default_factory is MISSING]


def refuse_options(config: Any, foreign: Mapping[str, str], who: str) -> None:
    """Refuse options that would be ignored.

    Args:
        config: a command's options.
        foreign: option → what it is for, such as "a ViT".
        who: what it does not apply to, such as "table1" or "the bundled alignment".

    Raises:
        UserError: one of them is not at its default.
    """
    default = {f.name: f.default_factory() if callable(f.default_factory) else f.default for f in fields(config)}
    if changed := [name for name in default if name in foreign and getattr(config, name) != default[name]]:
        shown = ", ".join(f"--{name} (for {foreign[name]})" for name in changed)
        raise UserError(f"{shown} does not apply to {who}; leave it out")


def print_comparison(config: Compare, rank_by: Mapping[str, Direction]) -> None:
    """Run a package's `compare`: the table of several runs.

    Args:
        config: its options.
        rank_by: the package's metrics that decide which scheme is better.

    Raises:
        UserError: a folder holds no results, or two of them measured the same thing.
    """
    table = compare_runs(config.runs, rank_by)
    say(table.csv().rstrip() if config.csv else table.markdown() if config.markdown else table.rich())


def show_table(
    run: RunFolder,
    records: Sequence[Record],
    rank_by: Mapping[str, Direction],
    title: str,
    name: str = "table",
    *,
    average: bool = False,
) -> None:
    """Write a table as Markdown into the folder of a run, and print it; on the first rank alone.

    Args:
        run: the run folder, whose `results.json` is there.
        records: what the table shows.
        rank_by: metrics that decide which scheme is better.
        title: of the printed table.
        name: of the Markdown file.
        average: show the mean of the ranked columns too.
    """
    if not first_rank():
        return
    table = compare(records, rank_by, average=average)
    write_text(run.path / f"{name}.md", table.markdown())
    say(table.rich(title))
