"""Values for options that a hasty or hostile user could give, by the option's type."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

LONG_WORK = ("100000000000000000000", "1e308", "inf")
"""As a budget these may be right; a command that still works when its time is up is then no failure."""
TEXTS = (
    "", " ", "None", "null", "true", "[]", "{}", "é☃", "../x", "a b", "-", "--", "'", '"', "{", "[1,", "a=b", "!!str",
    "{class_path: os.system}", "os.system", "%s", "$HOME", "*", "x" * 5000, "[" * 500, "1\n2", "\t", "@x", "&a", "~",
)  # fmt: skip
NUMBERS = ("0", "-1", "-0.0", "nan", "inf", "-inf", "1e308", "100000000000000000000", "1e-320", "0x10", "1_000", "1,5")
INTEGERS = ("0", "-1", "1", "7", "-0", "100000000000000000000", "nan", "1e3")
_NO_VALUES = {"compile": "true", "download": "true"}
"""What takes minutes or the network."""


@dataclass(frozen=True)
class Option:
    """One option of a command, as its dataclass has it."""

    name: str
    kind: str
    """Its type, written out."""

    @property
    def is_sampler(self) -> bool:
        """Whether it is a mask ratio, which may be a class."""
        return "RatioSampler" in self.kind

    def is_wrong(self, value: str) -> bool:
        """Whether a value can certainly not be right; there are others that cannot."""
        if value in ("nan", "[nan]") and "float" in self.kind:
            return True
        if value == "-1" and self.kind in ("int", "int | None"):
            return not self.name.startswith("seed")
        return "Literal" in self.kind and "tuple" not in self.kind and "None" not in self.kind and value in TEXTS[6:]


def options(config: type) -> list[Option]:
    """Return the options of a command."""
    hints = get_type_hints(config)
    return [Option(field.name, _written(hints[field.name])) for field in fields(config)]


def _written(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not hasattr(hint, "__args__") else str(hint)


def odd_value(option: Option, rng: random.Random) -> str:
    """Return a value for an option: often one near its type, sometimes anything."""
    numeric = "int" in option.kind or "float" in option.kind
    near: Sequence[str] = NUMBERS if "float" in option.kind else INTEGERS if numeric else TEXTS
    if "bool" in option.kind:
        near = ("true", "false", "2", "yes", "")
    elif "dict" in option.kind:
        near = ("{}", "[]", '{"a": 1}', '{"": null}', "{1: 2}", "nan", '{"depth": -1, "hidden_size": nan}', "x")
    elif "tuple" in option.kind or "list" in option.kind:
        items = (*NUMBERS, "x", "null") if numeric else ("", "x", "null", "1", "[1]", "../x")
        value = rng.choice(items)
        near = (f"[{value}]", f"[{value},{value}]", value, "[]", "[[]]", "{}")
    value = rng.choice(near if rng.random() < 0.85 else (*TEXTS, *NUMBERS))
    return "x" if _NO_VALUES.get(option.name) == value else value
