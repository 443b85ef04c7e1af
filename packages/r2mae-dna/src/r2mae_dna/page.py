"""`report RUN…`: one HTML page of runs."""

from r2mae_core import Page, Reporter, RunSummary, write_page_command
from r2mae_dna.cli import COMMANDS
from r2mae_dna.evaluate import RANK_BY


def report_command(config: Page) -> None:
    """Run `r2mae-dna report`."""
    write_page_command(config, reporter())


def reporter() -> Reporter:
    """Return what is special to this package's pages."""
    return Reporter("r2mae-dna", COMMANDS, RANK_BY, load=how_to_load)


def how_to_load(run: RunSummary) -> str | None:
    """Return Python that loads a run's model, or None where there is none."""
    if not (run.path / "model" / "config.json").exists():
        return None
    return (
        "from pathlib import Path\n\nfrom r2mae_dna import load_model\n\n"
        f"pretrained = load_model(Path({run.path.name!r}))  # wherever the run folder lies\n"
        "network = pretrained.model  # codes (B, L, 1 + species) -> logits (B, L, 6)\n"
    )
