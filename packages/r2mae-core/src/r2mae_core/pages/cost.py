"""What the trainings cost: time, speed, parameters, device."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path

from r2mae_core.pages.gather import Gathered, Member
from r2mae_core.pages.tables import Cell, Row, Table, number

_COLUMNS = ("scheme", "trainings", "steps", "seconds", "speed", "TFLOP/s", "peak memory", "parameters", "device")


def cost_table(gathered: Gathered, numbers: Mapping[str, int]) -> Table | None:
    """Return a row for the trainings of each scheme; None: there is none.

    Args:
        gathered: what the runs hold.
        numbers: scheme → its number in the legend.
    """
    groups: dict[tuple[str, str, str], list[Member]] = {}
    for member in gathered.members:
        training = member.training
        groups.setdefault((training.scheme, training.pool, training.kind), []).append(member)
    if not groups:
        return None
    rows = tuple(
        _row(*key, members, numbers.get(key[0])) for key, members in sorted(groups.items(), key=lambda item: item[0][2])
    )
    empty = {i for i in range(1, len(_COLUMNS)) if all(row.cells[i].text == "–" for row in rows)}
    kept = [i for i in range(len(_COLUMNS)) if i not in empty]
    rows = tuple(Row(tuple(row.cells[i] for i in kept), row.number) for row in rows)
    without = f" Not recorded: {', '.join(_COLUMNS[i] for i in sorted(empty))}." if empty else ""
    caption = (
        "Of one training; of several, the median. Seconds: training and evaluation together, without what came before "
        f"an interruption. Speed and TFLOP/s: median of what was logged. A dash: not recorded.{without}"
    )
    return Table(tuple(_COLUMNS[i] for i in kept), rows, caption=caption)


def _row(scheme: str, pool: str, kind: str, members: Sequence[Member], legend: int | None) -> Row:
    also = ", ".join(filter(None, (pool, kind)))
    name = f"{scheme} ({also})" if also else scheme
    trainings = [member.training.metrics for member in members]
    steps = [n for member in members if (n := member.training.steps) is not None]
    speeds = [name for metrics in trainings for name in metrics if name.endswith("_per_second")]
    unit = speeds[0].removesuffix("_per_second").replace("_", " ") if speeds else ""
    rate = _median(value for metrics in trainings for _, value in metrics.get(speeds[0] if speeds else "", ()))
    records = [record for member in members for record in member.records]
    seconds = [took for member in members if (took := _seconds(member)) is not None]
    devices = dict.fromkeys(
        [r.device for r in records if r.device] + [m.summary.device for m in members if m.summary.device]
    )
    sizes = {n_parameters(_model_of(member.summary.path)) for member in members}
    return Row(
        (
            Cell(name, name),
            number(str(len(members)), len(members)),
            _shown(_median(steps), ",.0f"),
            _shown(_median(seconds), ",.1f"),
            number("–" if rate is None else f"{rate:,.0f} {unit}/s", rate),
            _shown(_median(value for metrics in trainings for _, value in metrics.get("tflops", ())), ".3g"),
            _shown(_largest(value for metrics in trainings for _, value in metrics.get("peak_memory_gb", ())), ".1f"),
            _shown(sizes.pop() if len(sizes) == 1 else None, ","),
            Cell(", ".join(devices) or "–"),
        ),
        legend,
    )


def _median(values: Iterable[float]) -> float | None:
    found = list(values)
    return statistics.median(found) if found else None


def _largest(values: Iterable[float]) -> float | None:
    return max(values, default=None)


def _seconds(member: Member) -> float | None:
    """Return the wall time that all records of a training note."""
    found = {record.seconds for record in member.records}
    return found.pop() if len(found) == 1 else None


def _shown(value: float | None, spec: str) -> Cell:
    return number("–" if value is None else format(value, spec), value)


def _model_of(folder: Path) -> Path:
    """Return where the model of a training lies, whose log may be in a folder of its own: RUN/logs/NAME, RUN/NAME."""
    beside = folder.parent.parent / folder.name
    return (beside if folder.parent.name == "logs" else folder) / "model"


def n_parameters(model: Path) -> int | None:
    """Return how many numbers the weights of a saved model are; None: it has no safetensors file of one piece."""
    files = sorted(model.glob("*.safetensors"))
    if len(files) != 1:
        return None
    try:
        with files[0].open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        return sum(prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    except (OSError, ValueError, KeyError, TypeError):
        return None
