"""From a run to a plain transformers folder and back; and a look at what the model fills in."""

import shutil
from pathlib import Path
from typing import Any

import torch

from r2mae_core import RunFolder, UserError
from r2mae_core.commands import say
from r2mae_core.run_folder import default_run_path, unfinished
from r2mae_text.data.shards import Corpus
from r2mae_text.model import load_checkpoint, quiet
from r2mae_text.options import Export, Fill
from r2mae_text.tokenizer import load_tokenizer


def export_run(model: Any, tokenizer: Any, target: Path) -> Path:
    """Write a model and its tokenizer as a folder that transformers alone can open, whole or not at all.

    Padding of the vocabulary is taken off: the logits of the real words stay what they were.

    Args:
        model: a masked-LM model; not changed.
        tokenizer: its tokenizer.
        target: folder; replaced if it is there.
    """
    import copy

    if model.config.vocab_size != len(tokenizer):
        model = copy.deepcopy(model)
        model.resize_token_embeddings(len(tokenizer))
    scratch = target.parent / f".{target.name}-new"
    shutil.rmtree(scratch, ignore_errors=True)
    with quiet():
        model.save_pretrained(scratch)
    tokenizer.save_pretrained(scratch)
    shutil.rmtree(target, ignore_errors=True)
    scratch.rename(target)
    return target


def pretraining_run(path: Path) -> RunFolder:
    """Open a run folder that pretrain wrote.

    Raises:
        UserError: it is none.
    """
    run = RunFolder.open(path)
    if not {"corpus", "mask_ratio"} <= set(run.config):
        raise UserError(f"{path} is no run folder of r2mae-text pretrain")
    return run


def load_pretrained(name: str | Path, model_class: str = "AutoModelForMaskedLM", **settings: Any) -> tuple[Any, Any]:
    """Return (model, tokenizer) of a finished run folder, a transformers folder, or a name on the hub.

    Args:
        name: which one.
        model_class: transformers' class; a missing head starts anew.
        settings: of `from_pretrained`, such as num_labels.

    Raises:
        UserError: there is no model, or the run did not finish.
    """
    folder = Path(name)
    if (folder / "config.yaml").exists():
        if not (folder / "model").is_dir():
            raise UserError(
                f"{unfinished(folder)}; or write what it has with r2mae-text export {name} --out DIR, and give DIR"
            )
        folder = folder / "model"
    place = folder if folder.is_dir() else str(name)
    return load_checkpoint(place, model_class, **settings), load_tokenizer(place)


def export_command(config: Export) -> None:
    """`r2mae-text export`."""
    out = export(config)
    say(f"Done: {out}. In Python: transformers.AutoModelForMaskedLM.from_pretrained('{out}')")


def export(config: Export) -> Path:
    """Write the model of a run, finished or not, as a transformers folder and return the folder.

    Raises:
        UserError: the run holds neither model nor checkpoint, or the folder exists.
    """
    run, out = pretraining_run(config.run), config.out or default_run_path("r2mae-text", "export")
    if out.exists():
        raise UserError(f"{out} exists; name a new folder")
    if (run.path / "model").is_dir():
        shutil.copytree(run.path / "model", out)
    elif run.last_checkpoint is not None:
        _export_checkpoint(run, run.last_checkpoint, out)
    else:
        raise UserError(f"{run.path} holds neither model nor checkpoint yet")
    return out


def _export_checkpoint(run: RunFolder, checkpoint: Path, target: Path) -> None:
    """Export the last checkpoint of a run that has not ended."""
    from r2mae_core.checkpoints import read_weights
    from r2mae_text.options import Pretrain
    from r2mae_text.pretrain import start_model

    corpus = Corpus.open(run.config["corpus"])
    model = start_model(Pretrain(**{**run.config, "corpus": corpus.path}), corpus)
    state = read_weights(checkpoint)
    model.load_state_dict({key.removeprefix("model."): value for key, value in state.items()})
    export_run(model, corpus.tokenizer, target)


@torch.no_grad()
def fill(model: Any, tokenizer: Any, text: str, top: int = 5) -> list[list[tuple[str, float]]]:
    """Return, for each <mask> of a text, the likeliest words with their probabilities.

    Raises:
        UserError: the text has no mask token.
    """
    if tokenizer.mask_token not in text:
        raise UserError(f"the text has no {tokenizer.mask_token}: put one where a word is to be found")
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
