"""`r2mae-dna <command>`."""

import sys
from dataclasses import fields

import r2mae_core.interrupts  # noqa: F401  (first, so that Ctrl-C is answered from here on)
from r2mae_core import Command, Compare, Page, PushOptions, run
from r2mae_dna import options
from r2mae_dna.limits import is_scan_table

_SHAPE = {"hidden": "--n_hidden", "layers": "--n_layers"}

COMMANDS = {
    "demo": Command(
        options.Demo, "r2mae_dna.demo:demo_command", "Pretrain on real alignments, and score real changes.",
        _SHAPE | {"n_seeds": "--seeds, a list such as [0,1,2]"},
    ),
    "msa-build": Command(
        options.MsaBuild, "r2mae_dna.data.msa:build_command", "Build an alignment store from MAF files."
    ),
    "msa-merge": Command(
        options.MsaMerge, "r2mae_dna.data.merge:merge_command", "Join the parts of a build, or stores, into one store."
    ),
    "msa-info": Command(options.MsaInfo, "r2mae_dna.data.msa:info_command", "Describe an alignment store."),
    "msa-show": Command(options.MsaShow, "r2mae_dna.data.msa:show_command", "Show a region of the alignment."),
    "prepare": Command(
        options.Prepare, "r2mae_dna.data.windows:prepare_command", "Cut training windows from a store.",
        {"validation": "--validation_regions", "test": "--test_regions"},
    ),
    "prepare-table": Command(
        options.PrepareTable, "r2mae_dna.data.window_table:prepare_table_command",
        "Make training windows from GPN-MSA's published tables.",
    ),
    "pretrain": Command(
        options.Pretrain, "r2mae_dna.pretrain:pretrain_command", "Pretrain an alignment model.",
        _SHAPE | {"heads": "--n_heads", "windows": "data"},
    ),
    "sweep": Command(
        options.Sweep, "r2mae_dna.sweep:sweep_command", "Find the mask ratio for your alignment and variants.",
        {"windows": "data"},
    ),
    "probe": Command(
        options.Probe, "r2mae_dna.probe:probe_command", "Measure a model's loss and accuracy on held-out windows.",
        {"windows": "data"},
    ),
    "score": Command(options.Score, "r2mae_dna.score:score_command", "Score variants: VCF in, VCF out."),
    "scan": Command(
        options.Scan, "r2mae_dna.scan:scan_command", "Score every change of regions or of a genome: tabix and bigWig."
    ),
    "embed": Command(
        options.Embed, "r2mae_dna.embed:embed_command", "Write a network's probabilities, logits or vectors of sites."
    ),
    "evaluate": Command(options.Evaluate, "r2mae_dna.evaluate:evaluate_command", "Evaluate scores against labels."),
    "push": Command(
        PushOptions, "r2mae_dna.push:push_command", "Put a run's model on the Hugging Face hub, with its card."
    ),
    "reproduce": Command(
        options.Reproduce, "r2mae_dna.paper:reproduce_command", "Reproduce the paper's table 3.",
        _SHAPE | {"windows": "--data"},
    ),
    "report": Command(Page, "r2mae_dna.page:report_command", "Write one HTML page of a run, or of several."),
    "compare": Command(Compare, "r2mae_dna.evaluate:compare_command", "Put several runs into one table."),
}  # fmt: skip


def _scan_in_both_places(words: list[str]) -> list[str]:
    """Return the words of `score SCAN VARIANTS` with the scan in the alignment's place as well: it has bases too."""
    kinds = {each.name: each.type for each in fields(options.Score)}
    places, i = list[int](), 1
    while i < len(words):
        if words[i][:1] != "-" or words[i] == "-":
            places.append(i)
            i += 1
            continue
        name = words[i].lstrip("-").replace("-", "_")
        switch = "=" in name or name == "h" or name == "help" or kinds.get(name.removeprefix("no_")) is bool
        i += 1 if switch and words[i + 1 : i + 2] not in (["true"], ["false"]) else 2
    if len(places) == 2 and is_scan_table(words[places[0]]):
        return [*words[: places[0] + 1], *words[places[0] :]]
    return words


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit. `msa build` and `msa-build` are the same."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == ["msa"] and words[1:2] not in ([], ["-h"], ["--help"]):
        words = [f"msa-{words[1]}", *words[2:]]
    elif words[:1] == ["msa"]:
        words = words[1:]  # a COMMAND is missing, or all of them are shown
    elif words[:1] == ["score"]:
        words = _scan_in_both_places(words)
    sys.exit(run("r2mae-dna", "Alignment-aware DNA models with any mask-ratio scheme.", COMMANDS, words))


if __name__ == "__main__":
    main()
