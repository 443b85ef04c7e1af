"""What the parser of the command line says of a wrong word, in one line."""

import re
import sys
from typing import Any, NoReturn

import jsonargparse

from r2mae_core.lab.help_page import HelpFormatter


class ArgumentParser(jsonargparse.ArgumentParser):
    """jsonargparse's parser, whose errors are a tree of all that was tried, with one line and where to look."""

    def __init__(self, *args: Any, formatter_class: Any = HelpFormatter, **kwargs: Any) -> None:
        super().__init__(*args, formatter_class=formatter_class, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line and exit with 2."""
        if not self.exit_on_error:  # the parser of a sampler's arguments: the outer one says where they stand
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        prog = parser.prog.replace(" [options]", "")
        sys.stderr.write(f"{prog}: {one_line(message)}\nFor the options: {prog} --help\n")
        sys.exit(2)


def one_line(message: str) -> str:
    """Return a message of jsonargparse as one line: which option, what was given, what would do."""
    keys = re.findall(r'Parser key "([^"]+)"', message)
    given = re.findall(r"Given value: (.*)", message)
    nested = re.match(r"NestedArg\(key='([^']+)', val=(.*)\)$", given[-1]) if given else None
    if nested and (len(keys) < 2 or keys[-1] != nested[1]):
        keys = [*keys, nested[1]]
    if keys and (simple := re.search(r"Expected an? (.+?)\. Got value: (.*)", message)):
        return f"--{'.'.join(keys)} {simple[2]}: this is not {_type(simple[1])}"
    if keys and given and (unfinished := re.match(r"Namespace\(class_path='(?:\w+\.)*(\w+)'", given[-1])):
        missing = re.findall(r"(\w+)=None", given[-1])
        return f"--{keys[-1]} {unfinished[1]} needs {', '.join(missing)}"
    subtypes = re.findall(r"Subtypes: \[(.*)\]", message)
    if keys and given and subtypes:
        value = nested[2].strip("'") if nested else given[-1]
        wanted = [_type(each) for each in re.split(r", (?=<|typing)", subtypes[-1])]
        return f"--{'.'.join(keys)} {value}: this is not {', '.join(wanted[:-1])} or {wanted[-1]}"
    return " ".join(message.split())


_NAMES = {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false", "Path": "a path"}


def _type(text: str) -> str:
    """Return the name of a type for a person."""
    name = text.removeprefix("<class '").removesuffix("'>").rpartition(".")[2]
    if literal := re.match(r"(?:typing\.)?Literal\[(.*)\]", text):
        return "one of " + literal[1].replace("'", "")
    return _NAMES.get(name, "a sampler" if name == "RatioSampler" else f"a {name}")


def plain(value: Any) -> Any:
    """Return a parsed value with namespaces as dicts, at every depth."""
    if isinstance(value, jsonargparse.Namespace):
        return {name: plain(item) for name, item in vars(value).items()}
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return type(value)(plain(item) for item in value) if type(value) in (list, tuple) else value
