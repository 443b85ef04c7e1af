"""Write the tables and the figure of `docs/evidence.md`."""

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from r2mae_core import UserError, atomic_path, new_figure, write_text
from studies.evidence.difference import Difference
from studies.evidence.published import Published, tables
from studies.evidence.sources import Comparison, comparisons

BEGIN, END = "<!-- {}, written by `python -m studies.evidence report` -->", "<!-- end of what is written -->"
CLEAR = 2.0
"""Standard errors beyond which a difference is counted as one."""


def measured_table(found: Sequence[Comparison]) -> str:
    """Return our comparisons as Markdown, a row each."""
    lines = [
        "| data, model | metric | R2MAE | usual ratio | R2MAE − usual | best ratio | R2MAE − best "
        "| R2MAE − best of a search | seeds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        mean = sum(one.r2mae.values()) / len(one.r2mae)
        default = one.from_default()
        lines.append(
            f"| {one.title} | {one.metric}{' (less is better)' if one.less_is_better else ''} | {mean:.4g} "
            f"| {one.default_ratio:g} | {words(default)} | {one.best:g} | {words(one.from_best())} "
            f"| {words(one.from_searched())} | {default.n} |"
        )
    return "\n".join(lines)


def words(found: Difference | None) -> str:
    """Return a difference as shown: `+0.0121 ±0.0066 (+1.8)`: value, standard error, value in standard errors."""
    if found is None:
        return "–"
    if found.error is None:
        return f"{found.value:+.4f} (no error)"
    size = "" if found.in_errors is None else f" ({found.in_errors:+.1f})"
    return f"{found.value:+.4f} ±{found.error:.4f}{size}"


def counts_table(found: Sequence[Comparison], published: Sequence[Published]) -> str:
    """Return how often R2MAE is better or worse, here beyond two standard errors and in the paper as printed."""
    lines = [
        "| | against | comparisons | R2MAE better | not told apart | R2MAE worse |",
        "|---|---|---|---|---|---|",
    ]
    for filling_in, kind in ((False, "use of the network"), (True, "filling in what is hidden")):
        ours = [one for one in found if one.filling_in == filling_in]
        theirs = [one for one in published if one.filling_in == filling_in]
        for against, method in (("usual ratio", "from_default"), ("best ratio", "from_best")):
            sizes = [size for one in ours if (size := getattr(one, method)().in_errors) is not None]
            better, worse = sum(size > CLEAR for size in sizes), sum(size < -CLEAR for size in sizes)
            same = len(sizes) - better - worse
            lines.append(f"| measured here: {kind} | {against} | {len(sizes)} | {better} | {same} | {worse} |")
            printed = [Published.counts(getattr(one, method)) for one in theirs]
            better, equal, worse = (sum(row[i] for row in printed) for i in range(3))
            lines.append(
                f"| the paper: {kind} | {against} | {better + equal + worse} | {better} | {equal} (equal) | {worse} |"
            )
    return "\n".join(lines)


def in_words(found: Sequence[Comparison]) -> str:
    """Return what was measured of the uses of a network, in a sentence for the README."""
    uses = [one for one in found if not one.filling_in]
    parts = []
    for against, method in (
        ("the usual fixed ratio", "from_default"),
        ("the best fixed ratio, picked afterwards,", "from_best"),
    ):
        sizes = [size for one in uses if (size := getattr(one, method)().in_errors) is not None]
        better, worse = sum(size > CLEAR for size in sizes), sum(size < -CLEAR for size in sizes)
        parts.append(
            f"against {against} R2MAE is better in {better} of {len(sizes)}, worse in {worse}, and not told apart "
            f"in {len(sizes) - better - worse}"
        )
    text = f"Of the uses of a network that were measured here, in small trainings of minutes: {'; '.join(parts)}."
    return textwrap.fill(text, 140)


def published_table(published: Sequence[Published]) -> str:
    """Return the paper's differences as Markdown, a row per table."""
    lines = [
        "| paper's table | columns | R2MAE − usual: mean, points | better, equal, worse | R2MAE − best: mean, points "
        "| better, equal, worse |",
        "|---|---|---|---|---|---|",
    ]
    for one in published:
        cells = []
        for differences in (one.from_default, one.from_best):
            cells += [f"{Published.mean(differences):+.2f}", ", ".join(map(str, Published.counts(differences)))]
        lines.append(f"| {one.table}: {one.title} | {len(one.from_default)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(found: Sequence[Comparison], published: Sequence[Published]) -> Any:
    """Return the figure: our differences in standard errors, and the paper's in points, which have no error."""
    figure = new_figure(15, 0.27 * len(found) + 1.8)
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1, 0.8])
    labels = [f"{one.title}: {one.metric} (n = {one.from_default().n})" for one in found]
    rows = range(len(found))
    for axes, method, title in (
        (left, "from_default", "R2MAE − usual ratio"),
        (middle, "from_best", "R2MAE − best ratio, picked afterwards"),
    ):
        axes.axvspan(-CLEAR, CLEAR, color="0.92", linewidth=0)
        axes.axvline(0, color="0.4", linewidth=0.8)
        for row, one in zip(rows, found, strict=True):
            size = getattr(one, method)().in_errors
            color = "C0" if one.filling_in else "C3"
            if size is None:  # a single seed
                axes.plot(0, row, marker="|", color=color)
                axes.text(0.3, row, "n = 1: no error", fontsize=7, va="center", color=color)
                continue
            axes.plot(max(min(size, EDGE), -EDGE), row, marker=_marker(size), color=color, markersize=6)
            if abs(size) > EDGE:
                axes.text(0.93 * EDGE * (1 if size > 0 else -1), row, f"{size:+.0f}", fontsize=7, va="center",
                          ha="right" if size > 0 else "left")  # fmt: skip
        axes.set(xlim=(-1.1 * EDGE, 1.1 * EDGE), ylim=(len(found) - 0.4, -0.6), yticks=list(rows), yticklabels=[])
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("standard errors", fontsize=9)
        axes.grid(axis="y", alpha=0.3)
    left.set_yticklabels(labels, fontsize=8)
    right.axvline(0, color="0.4", linewidth=0.8)
    for row, one in enumerate(published):
        for differences, shift, marker, face in (
            (one.from_default, -0.12, "o", "0.2"), (one.from_best, 0.12, "D", "none"),
        ):  # fmt: skip
            right.plot(
                differences, [row + shift] * len(differences), marker, color="0.2", markerfacecolor=face, markersize=4
            )
    right.set(ylim=(len(published) - 0.4, -0.6), yticks=range(len(published)))
    right.set_xscale("symlog", linthresh=1, linscale=1.5)
    right.set_xticks([-1, 0, 1, 10], ["−1", "0", "1", "10"])
    right.set_yticklabels([f"{one.table}: {one.title}" for one in published], fontsize=8)
    right.yaxis.tick_right()
    right.set_title("the paper's tables", fontsize=10)
    right.set_xlabel("points (no errors are known)", fontsize=9)
    figure.suptitle(
        "Right of zero R2MAE is better. Red: a use of the network; blue: filling in what is hidden; grey: within two "
        "standard errors.\nOf the paper each column of a table is a point. Filled: − usual ratio; open: − best ratio.",
        fontsize=9,
    )
    return figure


EDGE = 8.0
"""Standard errors at which the axes end; what lies beyond is drawn at the edge with its number."""


def _marker(size: float) -> str:
    return "o" if abs(size) <= EDGE else ">" if size > 0 else "<"


def parts() -> dict[str, str]:
    """Return the parts of `docs/evidence.md` that are written: name → Markdown."""
    found, published = comparisons(), tables()
    return {
        "counts": counts_table(found, published),
        "measured": measured_table(found),
        "published": published_table(published),
    }


def with_parts(page: str, new: dict[str, str]) -> str:
    """Return the page with its written parts replaced.

    Raises:
        UserError: the page has no place for a part.
    """
    for name, text in new.items():
        begin = BEGIN.format(name)
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(END)}", re.DOTALL)
        if not pattern.search(page):
            raise UserError(f"the page has no {begin}")
        page = pattern.sub(lambda _, text=f"{begin}\n\n{text}\n\n{END}": text, page)
    return page


def pages(docs: Path) -> dict[Path, dict[str, str]]:
    """Return page → its parts that are written."""
    return {docs / "evidence.md": parts(), docs.parent / "README.md": {"evidence": in_words(comparisons())}}


def write_report(docs: Path) -> None:
    """Update `docs/evidence.md` and the README's sentence, and draw `docs/images/evidence.png`."""
    for page, written in pages(docs).items():
        write_text(page, with_parts(page.read_text(encoding="utf-8"), written))
    with atomic_path(docs / "images" / "evidence.png") as temporary:
        draw(comparisons(), tables()).savefig(temporary, dpi=110, format="png")
