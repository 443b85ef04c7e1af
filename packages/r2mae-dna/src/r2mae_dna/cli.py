"""`r2mae-dna <command>`."""

import sys

from r2mae_core import Command, Compare, run
from r2mae_dna import options

COMMANDS = {
    "demo": Command(
        options.Demo, "r2mae_dna.demo:demo_command", "Pretrain on a real human-ape alignment and score real variants."
    ),
    "msa-build": Command(
        options.MsaBuild, "r2mae_dna.data.msa:build_command", "Build an alignment store from MAF files."
    ),
    "msa-info": Command(options.MsaInfo, "r2mae_dna.data.msa:info_command", "Say what a store holds."),
    "msa-show": Command(options.MsaShow, "r2mae_dna.data.msa:show_command", "Draw a stretch of the alignment."),
    "prepare": Command(options.Prepare, "r2mae_dna.data.windows:prepare_command", "Cut training windows from a store."),
    "pretrain": Command(options.Pretrain, "r2mae_dna.pretrain:pretrain_command", "Pretrain an alignment model."),
    "probe": Command(options.Probe, "r2mae_dna.probe:probe_command", "Judge a model on held-out windows."),
    "score": Command(options.Score, "r2mae_dna.score:score_command", "Score variants: VCF in, VCF out."),
    "evaluate": Command(options.Evaluate, "r2mae_dna.evaluate:evaluate_command", "Judge scores against labels."),
    "reproduce": Command(options.Reproduce, "r2mae_dna.paper:reproduce_command", "Walk the paper's table 3."),
    "compare": Command(Compare, "r2mae_dna.evaluate:compare_command", "Put several runs into one table."),
}


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit. `msa build` and `msa-build` are the same."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == ["msa"] and words[1:2] not in ([], ["-h"], ["--help"]):
        words = [f"msa-{words[1]}", *words[2:]]
    elif words[:1] == ["msa"]:
        words = words[1:]  # a COMMAND is missing, or all of them are shown
    sys.exit(run("r2mae-dna", "Alignment-aware DNA models with any mask-ratio scheme.", COMMANDS, words))


if __name__ == "__main__":
    main()
