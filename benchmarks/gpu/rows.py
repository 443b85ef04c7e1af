"""What a part of the GPU run reports: one row at a time, so that a part that is cut off keeps what it has."""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One result."""

    part: str
    package: str
    what: str
    value: float | str
    unit: str = ""
    target: str = ""
    """What was hoped for, or the bound of a check."""
    met: bool | None = None
    note: str = ""


@dataclass
class Part:
    """A part on one package, as its script sees it: where rows go, and how much time there is."""

    name: str
    package: str
    device: str
    tiny: bool
    home: Path
    """A folder for its data and runs."""
    lines: Path
    ends: float
    """When its time is over, by the monotonic clock."""

    def add(
        self,
        what: str,
        value: float | str,
        unit: str = "",
        target: str = "",
        *,
        met: bool | None = None,
        note: str = "",
    ) -> None:
        """Write a row at once."""
        row = Row(self.name, self.package, what, value, unit, target, met, note)
        with self.lines.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(row)) + "\n")
        print(shown(row), flush=True)

    def at_most(self, what: str, value: float, bound: float, note: str = "") -> None:
        """Write a check that holds up to a bound; a value that is no number fails it."""
        self.add(what, value, target=f"at most {bound:g}", met=bool(value <= bound), note=note)

    @property
    def seconds_left(self) -> float:
        """Seconds until its time is over."""
        return self.ends - time.monotonic()


def shown(row: Row) -> str:
    """Return a row of the table."""
    value = (
        row.value
        if isinstance(row.value, str)
        else f"{row.value:,.4g}"
        if abs(row.value) < 1e4
        else f"{row.value:,.0f}"
    )
    verdict = "" if row.met is None else "met" if row.met else "MISSED"
    cells = (
        row.part,
        row.package,
        row.what,
        f"{value} {row.unit}".strip(),
        ", ".join(filter(None, (row.target, verdict))),
        row.note,
    )
    return "| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in cells) + " |"


HEAD = "| part | package | what | result | target | note |\n|---|---|---|---|---|---|"


def read_rows(lines: Path) -> list[Row]:
    """Return the rows that a part has written; a line that was cut off is left out."""
    rows = []
    for line in lines.read_text(encoding="utf-8").splitlines() if lines.exists() else ():
        try:
            rows.append(Row(**json.loads(line)))
        except ValueError:
            break
    return rows


def main(name: str, run: Callable[[Part], None]) -> None:
    """Run a part's script from the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("package")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--lines", type=Path, required=True)
    given = parser.parse_args()
    given.home.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + given.seconds
    run(Part(name, given.package, given.device, given.tiny, given.home, given.lines, ends))
