"""`report RUN…`: one HTML page of runs, with words that their models fill in."""

from r2mae_core import Page, Reporter, RunSummary, write_page_command
from r2mae_text.cli import COMMANDS
from r2mae_text.evaluate import RANK_BY


def report_command(config: Page) -> None:
    """Run `r2mae-text report`."""
    write_page_command(config, reporter())


def reporter() -> Reporter:
    """Return what is special to this package's pages."""
    return Reporter("r2mae-text", COMMANDS, RANK_BY, load=how_to_load)


def how_to_load(run: RunSummary) -> str | None:
    """Return Python that loads a run's model, or None where there is none."""
    if not (run.path / "model" / "config.json").exists():
        return None
    return (
        "from transformers import AutoModelForMaskedLM, AutoTokenizer\n\n"
        f"folder = {run.path.name + '/model'!r}  # wherever the run folder lies\n"
        "model = AutoModelForMaskedLM.from_pretrained(folder)\n"
        "tokenizer = AutoTokenizer.from_pretrained(folder)\n"
    )
