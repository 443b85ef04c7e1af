"""`r2mae-singlecell <command>`."""

import sys
from collections.abc import Sequence
from pathlib import Path

import r2mae_core.interrupts  # noqa: F401  (first, so that Ctrl-C is answered from here on)
from r2mae_core import Command, Compare, Page, PushOptions, run
from r2mae_singlecell import options

COMMANDS = {
    "demo": Command(
        options.Demo,
        "r2mae_singlecell.demo:demo",
        "Pretrain on real blood cells; a table and two figures.",
        renamed={"n_seeds": "--seeds '[0,1,2]'"},
    ),
    "simulate": Command(
        options.Simulate,
        "r2mae_singlecell.data.simulate:simulate_command",
        "Write a simulated atlas with donors and known truth.",
    ),
    "prepare": Command(
        options.Prepare,
        "r2mae_singlecell.data.prepare:prepare_command",
        "Turn h5ad, h5mu, zarr, Cell Ranger or loom files into training data; FILE::PLACE is where its counts lie.",
        renamed={name: f"--{name}_column" for name in ("donor", "batch", "cell_type", "disease", "age")},
    ),
    "pretrain": Command(
        options.Pretrain, "r2mae_singlecell.pretrain:pretrain_command", "Pretrain a masked autoencoder."
    ),
    "sweep": Command(
        options.Sweep, "r2mae_singlecell.sweep:sweep_command", "Find the mask ratio for your cells and your task."
    ),
    "embed": Command(
        options.Embed, "r2mae_singlecell.embedding:embed_command", "Write the embedding of the cells of any file."
    ),
    "impute": Command(
        options.Impute, "r2mae_singlecell.impute:impute_command", "Predict genes from those not hidden with them."
    ),
    "surprise": Command(
        options.Surprise, "r2mae_singlecell.surprise:surprise_command", "Say how unlikely each cell and gene is."
    ),
    "report": Command(
        options.Report,
        "r2mae_singlecell.report:report_command",
        "Look at an embedding: UMAP, markers, mixing of batches, scib-metrics' table. Of run folders alone: see page.",
    ),
    "page": Command(
        Page, "r2mae_singlecell.page:page_command", "Write one HTML page of a run, or of several: report RUN... too."
    ),
    "probe": Command(
        options.Probe, "r2mae_singlecell.evaluate:probe_command", "Predict cell type, disease and age from embeddings."
    ),
    "reconstruct": Command(
        options.Reconstruct,
        "r2mae_singlecell.evaluate:reconstruct_command",
        "Measure how well hidden genes are predicted.",
    ),
    "push": Command(
        PushOptions, "r2mae_singlecell.push:push_command", "Put a run's model on the Hugging Face hub, with its card."
    ),
    "reproduce": Command(
        options.Reproduce, "r2mae_singlecell.paper:reproduce_command", "Reproduce a table of the paper."
    ),
    "compare": Command(Compare, "r2mae_singlecell.evaluate:compare_command", "Put several runs into one table."),
}


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == ["report"] and names_runs_alone(words[1:]):
        words[0] = "page"
    sys.exit(run("r2mae-singlecell", "Masked models of gene expression with any mask-ratio scheme.", COMMANDS, words))


def names_runs_alone(words: Sequence[str]) -> bool:
    """Return whether the arguments of `report` are run folders, and none is a file of cells."""
    places, rest = [], iter(words)
    for word in rest:
        switch = word.removeprefix("--").removeprefix("no-").removeprefix("no_") in ("examples", "progress", "round")
        if not word.startswith("-"):
            places.append(word)
        elif "=" not in word and not switch:
            next(rest, None)  # its value
    return bool(places) and all((Path(place) / "config.yaml").is_file() for place in places)


if __name__ == "__main__":
    main()
