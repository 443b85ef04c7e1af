"""`r2mae-vision <command>`."""

import sys
from collections.abc import Sequence
from itertools import pairwise

import r2mae_core.interrupts  # noqa: F401  (first, so that Ctrl-C is answered from here on)
from r2mae_core import Command, Compare, Page, PushOptions, run
from r2mae_vision import options

_ROOT, _WARMUP = {"root": "--data"}, {"warmup_epochs": "--warmup, a share of the steps"}
COMMANDS = {
    "demo": Command(
        options.Demo,
        "r2mae_vision.demo:demo",
        "Pretrain every scheme on small real images; a table and a picture.",
        {**_ROOT, "hidden": "--n_hidden", "n_seeds": "--seeds, such as [0,1,2]"},
    ),
    "prepare": Command(
        options.Prepare, "r2mae_vision.data.prepare:prepare_command", "Decode images once, into a store of bytes."
    ),
    "pretrain": Command(
        options.Pretrain,
        "r2mae_vision.mae.pretrain:pretrain_command",
        "Pretrain a masked autoencoder on a timm ViT.",
        {**_WARMUP, "scope": "--ratio_per sample (scope batch: --ratio_per step)", "hidden": "pretrain-mlp --n_hidden"},
    ),
    "pretrain-mlp": Command(
        options.PretrainMLP,
        "r2mae_vision.mnist.pretrain:pretrain_mlp_command",
        "Pretrain the MLP of the paper's MNIST experiment.",
        {"hidden": "--n_hidden"},
    ),
    "finetune": Command(
        options.Finetune,
        "r2mae_vision.mae.finetune:finetune_command",
        "Fine-tune for classification by MAE's recipe.",
        _WARMUP,
    ),
    "probe": Command(
        options.Probe,
        "r2mae_vision.mae.probe:probe_command",
        "Evaluate frozen features: linear probe and nearest neighbours.",
    ),
    "predict": Command(
        options.Predict,
        "r2mae_vision.mae.predict:predict_command",
        "Write what a fine-tuned model says of the images of a set.",
    ),
    "reconstruct": Command(
        options.Reconstruct, "r2mae_vision.mae.reconstruct:reconstruct_command", "Draw what the model fills in."
    ),
    "export": Command(
        options.Export, "r2mae_vision.mae.export:export_command", "Write a model for timm and transformers."
    ),
    "push": Command(
        PushOptions, "r2mae_vision.push:push_command", "Put a run's model on the Hugging Face hub, with its card."
    ),
    "sweep": Command(
        options.Sweep,
        "r2mae_vision.mae.sweep:sweep_command",
        "Find the mask ratio for your images by short pretrainings.",
        {"judge": "--evaluate"},
    ),
    "reproduce": Command(
        options.Reproduce,
        "r2mae_vision.mae.paper:reproduce",
        "Reproduce table 1 of the paper: ViTs.",
        {**_ROOT, "judge": "--evaluate"},
    ),
    "reproduce-mnist": Command(
        options.ReproduceMNIST,
        "r2mae_vision.mnist.paper:reproduce",
        "Reproduce figures 2A and 2D of the paper: MLPs on MNIST.",
        {**_ROOT, "hidden1": "--n_hidden", "hidden2": "--n_latent"},
    ),
    "reproduce-celeba": Command(
        options.ReproduceCeleba,
        "r2mae_vision.celeba.paper:reproduce",
        "Reproduce figures 2B and 5 to 7 of the paper: U-Nets on CelebA.",
        _ROOT,
    ),
    "report": Command(Page, "r2mae_vision.page:report_command", "Write one HTML page of a run, or of several."),
    "compare": Command(Compare, "r2mae_vision.evaluate:compare_command", "Put several runs into one table."),
}


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit."""
    words = with_sizes(sys.argv[1:] if argv is None else argv)
    if message := moved(words):
        print(f"r2mae-vision: {message}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    sys.exit(run("r2mae-vision", "Masked image models with any mask-ratio scheme.", COMMANDS, words))


def with_sizes(words: Sequence[str]) -> list[str]:
    """Return the words with `--image_size 224 448` written as the one option that it is: `--image_size [224,448]`."""
    found = list(words)
    for i in reversed(range(len(found) - 2)):
        if found[i] == "--image_size" and all(word.isascii() and word.isdecimal() for word in found[i + 1 : i + 3]):
            found[i + 1 : i + 3] = [f"[{found[i + 1]},{found[i + 2]}]"]
    return found


def moved(words: Sequence[str]) -> str | None:
    """Return the message for a command that has become a verb of its own; None for all others."""
    verb, rest = (words[0], [*words[1:]]) if words else ("", [])
    of_target = {name: f"reproduce-mnist {name}" for name in ("fig2a", "fig2d")}
    of_target |= {name: f"reproduce-celeba {name}" for name in ("fig2b", "fig5", "fig6", "fig7")}
    if verb == "reproduce" and (target := next((word for word in rest if word in of_target), None)):
        return f"reproduce {target} is now written {of_target[target]}"
    if verb == "pretrain" and ("--model=mlp" in rest or ("--model", "mlp") in pairwise(rest)):
        return "pretrain --model mlp is now written pretrain-mlp"
    return None


if __name__ == "__main__":
    main()
