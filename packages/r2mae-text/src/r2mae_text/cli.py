"""`r2mae-text <command>`."""

import sys

import r2mae_core.interrupts  # noqa: F401  (first, so that Ctrl-C is answered from here on)
from r2mae_core import Command, Compare, Page, PushOptions, run
from r2mae_text import options

COMMANDS = {
    "demo": Command(
        options.Demo,
        "r2mae_text.demo:demo",
        "Prepare, pretrain, fine-tune on small real text; a table and a picture.",
        {"n_seeds": "--seeds '[0,1]'"},
    ),
    "prepare": Command(
        options.Prepare,
        "r2mae_text.data.prepare:prepare_command",
        "Turn text into token shards.",
        {"validation": "--validation_share"},
    ),
    "pretrain": Command(
        options.Pretrain,
        "r2mae_text.pretrain:pretrain_command",
        "Pretrain a masked language model.",
        {"corpus": "data, the argument after pretrain"},
    ),
    "finetune": Command(
        options.Finetune,
        "r2mae_text.finetune:finetune_command",
        "Fine-tune on GLUE or your tasks.",
        {"data": "--task_data", "save": "--keep"},
    ),
    "predict": Command(
        options.Predict, "r2mae_text.predict:predict_command", "Write what a fine-tuned model says of a file's texts."
    ),
    "embed": Command(
        options.Embed,
        "r2mae_text.embed:embed_command",
        "Write a vector for each text of a file.",
        {"save_model": "--out_model"},
    ),
    "evaluate": Command(
        options.Evaluate, "r2mae_text.evaluate:evaluate_command", "Measure a model's loss on held-out text."
    ),
    "sweep": Command(options.Sweep, "r2mae_text.sweep:sweep_command", "Find the mask ratio for your text and tasks."),
    "export": Command(options.Export, "r2mae_text.export:export_command", "Write a plain transformers folder."),
    "fill": Command(options.Fill, "r2mae_text.export:fill_command", "Show what a model puts in the place of <mask>."),
    "push": Command(
        PushOptions, "r2mae_text.push:push_command", "Put a run's model on the Hugging Face hub, with its card."
    ),
    "reproduce": Command(
        options.Reproduce,
        "r2mae_text.paper:reproduce_command",
        "Reproduce a table or figure of the paper.",
        {"corpus": "--data", "glue": "--task_data"},
    ),
    "report": Command(Page, "r2mae_text.page:report_command", "Write one HTML page of a run, or of several."),
    "compare": Command(Compare, "r2mae_text.evaluate:compare_command", "Put several runs into one table."),
}


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit."""
    sys.exit(run("r2mae-text", "Masked-language pretraining with any mask-ratio scheme.", COMMANDS, argv))


if __name__ == "__main__":
    main()
