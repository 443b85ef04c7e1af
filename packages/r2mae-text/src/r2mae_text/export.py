"""`export`: a run, finished or not, as a plain transformers folder; and `fill`: what a model puts at <mask>."""

import shutil
from pathlib import Path
from typing import Any

import torch

from r2mae_core import RunFolder, UserError, default_run_path, read_weights, say, without_prefix
from r2mae_text.data.shards import Corpus
from r2mae_text.options import Export, Fill, Pretrain
from r2mae_text.weights import export_run, load_pretrained, start_model


def export_command(config: Export) -> None:
    """`r2mae-text export`."""
    out = export(config)
    say(f"Done: {out}. In Python: transformers.AutoModelForMaskedLM.from_pretrained('{out}')")


def export(config: Export) -> Path:
    """Write the model of a run, finished or not, as a transformers folder and return the folder.

    Raises:
        UserError: the run has neither model nor checkpoint, or the folder exists.
    """
    run, out = RunFolder.open(config.run), config.out or default_run_path("r2mae-text", "export")
    if not {"data", "mask_ratio"} <= set(run.config):
        raise UserError(f"{config.run} is not a run folder of r2mae-text pretrain")
    if out.exists():
        raise UserError(f"{out} exists; name a new folder")
    if (run.path / "model").is_dir():
        shutil.copytree(run.path / "model", out)
    elif run.last_checkpoint is not None:
        _export_checkpoint(run, run.last_checkpoint, out)
    else:
        raise UserError(f"{run.path} has neither a model nor a checkpoint yet")
    return out


def _export_checkpoint(run: RunFolder, checkpoint: Path, target: Path) -> None:
    """Export the last checkpoint of a run that has not ended."""
    config = Pretrain(**{**run.config, "data": Path(run.config["data"])})
    corpus = Corpus.open(config.data)
    model = start_model(config, corpus)
    model.load_state_dict(without_prefix(read_weights(checkpoint), "model."))
    export_run(model, corpus.tokenizer, target)


@torch.no_grad()
def fill(model: Any, tokenizer: Any, text: str, top: int = 5) -> list[list[tuple[str, float]]]:
    """Return, for each <mask> of a text, the likeliest words with their probabilities.

    Raises:
        UserError: the text has no mask token.
    """
    if tokenizer.mask_token not in text:
        raise UserError(f"the text has no {tokenizer.mask_token}: put one where a word is to be filled in")
    batch = tokenizer(text, return_tensors="pt")
    places = (batch["input_ids"][0] == tokenizer.mask_token_id).nonzero()[:, 0]
    model.eval()
    shares = model(**batch).logits[0, places].softmax(-1)
    best = shares.topk(min(top, shares.shape[-1]))
    return [
        [(tokenizer.decode([i]).strip(), p) for i, p in zip(ids.tolist(), values.tolist(), strict=True)]
        for ids, values in zip(best.indices, best.values, strict=True)
    ]


def fill_command(config: Fill) -> None:
    """`r2mae-text fill`."""
    model, tokenizer = load_pretrained(config.model)
    for words in fill(model, tokenizer, config.text, config.top):
        say("  ".join(f"{word or '(space)'} {share:.1%}" for word, share in words))
