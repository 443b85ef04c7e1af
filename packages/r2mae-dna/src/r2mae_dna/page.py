"""`report RUN…`: one HTML page of runs, with a logo of what their models expect."""

from pathlib import Path

import numpy as np
import torch

from r2mae_core import Example, Page, Reporter, RunSummary, UserError, new_figure, png_of, write_page_command
from r2mae_dna.cli import COMMANDS
from r2mae_dna.data.codes import MASK, TOKEN_BITS, decode
from r2mae_dna.data.windows import WindowSet, read_info
from r2mae_dna.evaluate import RANK_BY
from r2mae_dna.plots import draw_logo
from r2mae_dna.weights import load_model

N_SITES = 50


def report_command(config: Page) -> None:
    """Run `r2mae-dna report`."""
    write_page_command(config, reporter())


def reporter() -> Reporter:
    """Return what is special to this package's pages."""
    return Reporter("r2mae-dna", COMMANDS, RANK_BY, logos, how_to_load)


def how_to_load(run: RunSummary) -> str | None:
    """Return Python that loads a run's model, or None where there is none."""
    if not (run.path / "model" / "config.json").exists():
        return None
    return (
        "from pathlib import Path\n\nfrom r2mae_dna import load_model\n\n"
        f"pretrained = load_model(Path({run.path.name!r}))  # wherever the run folder lies\n"
        "network = pretrained.model  # codes (B, L, 1 + species) -> logits (B, L, 6)\n"
    )


@torch.inference_mode()
def logos(run: RunSummary) -> list[Example]:
    """Return a logo of what a pretrained model expects in a held-out window; nothing for other runs.

    Raises:
        UserError: the windows are not there, are others, or none is held out; the model is damaged.
    """
    if how_to_load(run) is None or "windows_digest" not in run.facts:
        return []
    windows = _held_out(Path(str(run.data)), str(run.facts["windows_digest"]))
    index = len(windows) // 2
    codes = torch.from_numpy(windows.codes[index] & TOKEN_BITS)  # (L, 1 + species)
    n = min(N_SITES, len(codes))
    first = (len(codes) - n) // 2
    sites = torch.arange(first, first + n)[:, None]
    seen = codes.expand(n, -1, -1).clone()
    seen[..., 0].scatter_(1, sites, MASK)
    model = load_model(run.path).model.eval()
    expected = model(seen, sites)[:, 0, 1:5].float().softmax(-1).numpy()
    column = codes[first : first + n, 1:].numpy()
    counts = (column[..., None] == np.arange(1, 5)).sum(1) + 0.1
    truth = codes[first : first + n, 0].numpy()
    reference, position = (
        decode(windows.codes[index][first : first + n, 0]).upper(),
        int(windows.starts[index]) + first + 1,
    )
    figure = new_figure(max(6, 0.2 * n), 4.2)
    panels = figure.subplots(2, 1)
    titles = ("what the model expects where a base is hidden", f"letters of the {column.shape[1]} other species")
    for axes, values, title in zip(panels, (expected, counts / counts.sum(1, keepdims=True)), titles, strict=True):
        draw_logo(axes, values, reference, position)
        axes.set_title(title, fontsize="medium")
    panels[0].set_xlabel("")
    bases = (truth >= 1) & (truth <= 4)
    right = int((expected.argmax(1) + 1 == truth)[bases].sum())
    caption = (
        f"{n} sites of a {windows.split} window, each hidden on its own; below them the reference's bases. The "
        f"likeliest base is the reference's at {right} of {int(bases.sum())} sites."
    )
    return [Example("Expected bases of a region", png_of(figure), caption=caption, wide=True)]


def _held_out(folder: Path, digest: str) -> WindowSet:
    """Return the held-out windows that a run was validated on.

    Raises:
        UserError: there are none, or they are others.
    """
    info = read_info(folder)
    if info.digest != digest:
        raise UserError(f"{folder} holds other windows than those that the run was trained on")
    return WindowSet(folder, "validation" if info.counts.get("validation") else "test")
