"""Models in and out: transformers folders, written whole and read from a run folder, a folder or the hub."""

import copy
import shutil
from pathlib import Path
from typing import Any

from r2mae_core import UserError, refuse_options, unfinished
from r2mae_text.data.shards import Corpus
from r2mae_text.model import build_model, load_checkpoint, quiet, usable_positions
from r2mae_text.options import Pretrain
from r2mae_text.tokenizer import digest, load_tokenizer


def export_run(model: Any, tokenizer: Any, target: Path) -> Path:
    """Write a model and its tokenizer as a folder that transformers alone can open, whole or not at all.

    Padding of the vocabulary is removed; the logits of the real words do not change.

    Args:
        model: a masked-LM model; not changed.
        tokenizer: its tokenizer.
        target: folder; replaced if it exists.
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


def start_model(config: Pretrain, corpus: Corpus) -> Any:
    """Return the model that training starts from.

    Raises:
        UserError: the name is unknown, or a checkpoint's vocabulary or positions do not fit the corpus.
    """
    if config.start is None:
        return build_model(
            config.model,
            corpus.tokenizer,
            length=config.length,
            seed=config.seed,
            model_args=config.model_args,
            dropout=config.dropout,
            pad_vocab_to=config.pad_vocab_to,
            position_start=config.position_start,
        )
    shape: dict[str, str] = dict.fromkeys(("model", "model_args", "pad_vocab_to", "position_start"), "new models")
    refuse_options(config, shape, "--start, whose weights fix the shape")
    rates = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    settings = {} if config.dropout is None else dict.fromkeys(rates, config.dropout)
    model, tokenizer = load_pretrained(config.start, **settings)
    if config.length > usable_positions(model.config):
        raise UserError(f"{config.start} has {usable_positions(model.config)} positions, fewer than --length")
    if digest(tokenizer) != digest(corpus.tokenizer):
        raise UserError(
            f"{config.start} was trained with another tokenizer than the corpus was prepared with: every id would mean "
            f"another word; prepare the corpus again with --tokenizer {_model_folder(config.start)}"
        )
    if model.config.vocab_size < len(corpus.tokenizer):
        raise UserError(f"{config.start} has {model.config.vocab_size:,} words, fewer than its tokenizer")
    return model.train()  # loaded models are in evaluation mode, without dropout


def load_pretrained(name: str | Path, model_class: str = "AutoModelForMaskedLM", **settings: Any) -> tuple[Any, Any]:
    """Return (model, tokenizer) of a finished run folder, a transformers folder, or a name on the hub.

    Args:
        name: which one.
        model_class: transformers' class; a missing head is newly initialised.
        settings: of `from_pretrained`, such as num_labels.

    Raises:
        UserError: there is no model, or the run did not finish.
    """
    place = _model_folder(name)
    return load_checkpoint(place, model_class, **settings), load_tokenizer(place)


def _model_folder(name: str | Path) -> str | Path:
    folder = Path(name)
    if not (folder / "config.yaml").exists():
        return folder if folder.is_dir() else str(name)
    if not (folder / "model").is_dir():
        raise UserError(
            f"{unfinished(folder)}; or write what it has with r2mae-text export {name} --out DIR, and give DIR"
        )
    return folder / "model"
