"""`report RUN…`: one HTML page of runs."""

from r2mae_core import Page, Reporter, RunSummary, write_page_command
from r2mae_singlecell.cli import COMMANDS
from r2mae_singlecell.evaluate import RANK_BY


def page_command(config: Page) -> None:
    """Run `r2mae-singlecell report RUN…`."""
    write_page_command(config, reporter())


def reporter() -> Reporter:
    """Return what is special to this package's pages."""
    return Reporter("r2mae-singlecell", COMMANDS, RANK_BY, load=how_to_load)


def how_to_load(run: RunSummary) -> str | None:
    """Return Python that loads a run's model, or None where there is none."""
    if not (run.path / "model" / "model.json").exists():
        return None
    return (
        "from r2mae_singlecell import R2MAE\n\n"
        f"model = R2MAE.from_export({run.path.name + '/model'!r})  # wherever the run folder lies\n"
        f"# The embedding of any file of cells: r2mae-singlecell embed {run.path.name} cells.h5ad\n"
    )
