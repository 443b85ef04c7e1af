"""What the trainings cost: time, speed, parameters, device."""

import json
import statistics
from collections.abc import Mapping
from math import prod
from pathlib import Path

from r2mae_core.pages.gather import Gathered, Member
from r2mae_core.pages.tables import Cell, Row, Table, number

_COLUMNS = ("training", "steps", "seconds", "speed", "TFLOP/s", "peak memory", "parameters", "device")


def cost_table(gathered: Gathered, numbers: Mapping[str, int]) -> Table | None:
    """Return a row for each training; None: there is none.

    Args:
        gathered: what the runs hold.
        numbers: scheme → its number in the legend.
    """
    if not gathered.members:
        return None
    rows = tuple(_row(member, numbers.get(member.training.scheme)) for member in gathered.members)
    caption = (
        "Seconds: of training and evaluation together, without what came before an interruption. Speed and TFLOP/s: "
        "median of what was logged. A dash: not recorded."
    )
    return Table(_COLUMNS, rows, caption=caption)


def _row(member: Member, legend: int | None) -> Row:
    training = member.training
    name = training.scheme if training.seed is None else f"{training.scheme}, seed {training.seed}"
    steps = max((points[-1][0] for points in training.metrics.values() if points), default=None)
    rates = {metric: values for metric in training.metrics if metric.endswith("_per_second") and (
        values := [value for _, value in training.metrics[metric]])}  # fmt: skip
    rate, unit = None, ""
    if rates:
        metric, values = next(iter(rates.items()))
        rate, unit = statistics.median(values), metric.removesuffix("_per_second").replace("_", " ")
    tflops = [value for _, value in training.metrics.get("tflops", ())]
    memory = [value for _, value in training.metrics.get("peak_memory_gb", ())]
    devices = dict.fromkeys(record.device for record in member.records if record.device)
    seconds = {record.seconds for record in member.records if record.seconds is not None}
    took = seconds.pop() if len(seconds) == 1 else None
    parameters = n_parameters(member.summary.path / "model")
    return Row(
        (
            Cell(name, name),
            _shown(steps, ","),
            _shown(took, ",.0f" if took and took >= 10 else ".1f"),
            number("–" if rate is None else f"{rate:,.0f} {unit}/s", rate),
            _shown(statistics.median(tflops) if tflops else None, ".3g"),
            number("–" if not memory else f"{max(memory):.1f} GB", max(memory) if memory else None),
            _shown(parameters, ","),
            Cell(", ".join(devices) or member.summary.device or "–"),
        ),
        legend,
    )


def _shown(value: float | None, spec: str) -> Cell:
    return number("–" if value is None else format(value, spec), value)


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
