"""Models in and out: transformers folders, written whole and read from a run folder, a folder or the hub."""

import copy
import shutil
from pathlib import Path
from typing import Any

from r2mae_core import RunFolder, UserError, unfinished
from r2mae_text.model import load_checkpoint, quiet
from r2mae_text.tokenizer import load_tokenizer


def export_run(model: Any, tokenizer: Any, target: Path) -> Path:
    """Write a model and its tokenizer as a folder that transformers alone can open, whole or not at all.

    Padding of the vocabulary is taken off: the logits of the real words stay what they were.

    Args:
        model: a masked-LM model; not changed.
        tokenizer: its tokenizer.
        target: folder; replaced if it is there.
    """
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
