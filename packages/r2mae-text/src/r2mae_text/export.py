"""`export`: a run, finished or not, as a plain transformers folder; and `fill`: what a model puts at <mask>."""

import shutil
from pathlib import Path
from typing import Any

import torch

from r2mae_core import (
    RunFolder,
    UserError,
    check_checksums,
    check_output,
    default_run_path,
    one_writer,
    read_text,
    read_weights,
    reading,
    say,
    whole_folder,
    without_prefix,
)
from r2mae_text.data.shards import Corpus
from r2mae_text.model import usable_positions
from r2mae_text.options import Export, Fill, Pretrain
from r2mae_text.weights import export_run, load_pretrained, start_model


def export_command(config: Export) -> None:
    """`r2mae-text export`."""
    out = export(config)
    say(f"Done: {out}. In Python: transformers.AutoModelForMaskedLM.from_pretrained('{out}')")


def export(config: Export) -> Path:
    """Write the model of a run, finished or not, as a transformers folder and return the folder.

    Raises:
        UserError: the run has neither model nor checkpoint, its model is damaged, its corpus is missing or another, or
            the folder exists.
    """
    run, out = RunFolder.open(config.run), config.out or default_run_path("r2mae-text", "export")
    if not {"data", "mask_ratio"} <= set(run.config):
        raise UserError(f"{config.run} is not a run folder of r2mae-text pretrain")
    check_output(out, [run.path, config.data])
    _refuse_foreign(out, overwrite=config.overwrite)
    with one_writer(out, folder=False):
        if (run.path / "model").is_dir():
            check_checksums(run.path / "model")
            with whole_folder(out) as folder:
                shutil.copytree(run.path / "model", folder, dirs_exist_ok=True)
        elif run.last_checkpoint is not None:
            _export_checkpoint(run, run.last_checkpoint, config.data, out)
        else:
            raise UserError(f"{run.path} has neither a model nor a checkpoint yet")
    return out


def _refuse_foreign(out: Path, *, overwrite: bool) -> None:
    """Refuse to replace what export did not write, and without being told so."""
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"{out} is a file; name a new folder")
    if not any(out.iterdir()):
        return
    names = {str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()}
    sums = out / "SHA256SUMS"
    listed = {line.partition("  ")[2] for line in read_text(sums).splitlines()} if sums.exists() else set[str]()
    ours = "config.json" in listed and names <= {*listed, sums.name}
    if not ours or (out.parent / "config.yaml").exists():  # such as the model of a run
        raise UserError(f"{out} exists, and holds what export did not write; name a new folder")
    if not overwrite:
        raise UserError(f"{out} exists; name a new folder, or give --overwrite to replace it")


def _export_checkpoint(run: RunFolder, checkpoint: Path, data: Path | None, target: Path) -> None:
    """Export the last checkpoint of a run that has not ended."""
    with reading(run.path / "config.yaml", "the config of a pretraining"):
        config = Pretrain(**{**run.config, "data": data or Path(run.config["data"])})
    if not config.data.exists():
        raise UserError(f"the run's corpus {config.data} is not there; name its folder with --data")
    corpus = Corpus.open(config.data)
    if run.facts.get("corpus", corpus.digest) != corpus.digest:
        raise UserError(f"{config.data} is not the corpus that {run.path} is trained on; name that with --data")
    model = start_model(config, corpus)
    with reading(checkpoint, "a checkpoint of this run's model"):
        model.load_state_dict(without_prefix(read_weights(checkpoint), "model."))
    export_run(model, corpus.tokenizer, target)


@torch.no_grad()
def fill(model: Any, tokenizer: Any, text: str, top: int = 5) -> list[list[tuple[str, float]]]:
    """Return, for each <mask> of a text, the likeliest words with their probabilities.

    Raises:
        UserError: the text has no mask token, or is longer than the model takes.
    """
    if tokenizer.mask_token not in text:
        raise UserError(f"the text has no {tokenizer.mask_token}: put one where a word is to be filled in")
    batch = tokenizer(text, return_tensors="pt")
    if (n := batch["input_ids"].shape[1]) > usable_positions(model.config):
        raise UserError(
            f"the text has {n:,} tokens, and the model takes {usable_positions(model.config):,}; shorten it"
        )
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
