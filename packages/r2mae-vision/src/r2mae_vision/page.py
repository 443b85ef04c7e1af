"""`report RUN…`: one HTML page of runs."""

from r2mae_core import Page, Reporter, RunSummary, write_page_command
from r2mae_vision.cli import COMMANDS
from r2mae_vision.evaluate import RANK_BY


def report_command(config: Page) -> None:
    """Run `r2mae-vision report`."""
    write_page_command(config, reporter())


def reporter() -> Reporter:
    """Return what is special to this package's pages."""
    return Reporter("r2mae-vision", COMMANDS, RANK_BY, load=how_to_load)


def how_to_load(run: RunSummary) -> str | None:
    """Return Python that loads a run's model, or None where there is none."""
    if not (run.path / "model" / "mae.json").exists():
        return None
    return (
        "from pathlib import Path\n\nfrom r2mae_vision import load_mae\n\n"
        f"model = load_mae(Path({run.path.name!r}))  # wherever the run folder lies\n"
        "encoder = model.encoder  # timm's\n"
    )
