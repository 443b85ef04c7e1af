"""Models in and out: transformers folders, written whole and read from a run folder, a folder or the hub.

Nothing that is read runs code: no code of a model's own, no pickles with more than tensors.
"""

import copy
import hashlib
from pathlib import Path
from typing import Any

import torch

from r2mae_core import (
    UserError,
    check_checksums,
    file_digest,
    read_json,
    refuse_options,
    unfinished,
    whole_folder,
    write_checksums,
)
from r2mae_text.data.shards import Corpus
from r2mae_text.model import build_model, dropout_settings, quiet, usable_positions
from r2mae_text.options import Pretrain
from r2mae_text.tokenizer import digest, load_tokenizer, vocabulary_size


def export_run(model: Any, tokenizer: Any, target: Path) -> Path:
    """Write a model and its tokenizer as a folder that transformers alone can open, whole or not at all.

    Args:
        model: a masked-LM model; not changed.
        tokenizer: its tokenizer.
        target: folder; replaced if it exists.
    """
    with whole_folder(target) as folder:
        save_model(model, tokenizer, folder)
        write_checksums(folder)
    return target


def save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a model and its tokenizer into a folder.

    Padding of the vocabulary is removed; the logits of the real words do not change. The tokenizer is told how many
    tokens the model takes.
    """
    if model.config.vocab_size != (size := vocabulary_size(tokenizer)):
        model = copy.deepcopy(model)
        model.resize_token_embeddings(size)
    if (longest := usable_positions(model.config)) < tokenizer.model_max_length:
        # What pipelines and sentence-transformers cut long texts to; where it is missing, the model crashes on them.
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.model_max_length = longest
    tokenizer.save_pretrained(folder)
    with quiet():
        model.save_pretrained(folder)
    for file in folder.glob("*.safetensors"):  # made for this user alone; it is as open as the others
        file.chmod((folder / "config.json").stat().st_mode)


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
    settings = {} if config.dropout is None else dropout_settings(load_config(config.start), config.dropout)
    model, tokenizer = load_pretrained(config.start, **settings)
    if config.length > usable_positions(model.config):
        raise UserError(f"{config.start} has {usable_positions(model.config)} positions, fewer than --length")
    if digest(tokenizer) != digest(corpus.tokenizer):
        raise UserError(
            f"{config.start} was trained with another tokenizer than the corpus was prepared with: every id would mean "
            f"another word; prepare the corpus again with --tokenizer {model_folder(config.start)}"
        )
    return model.train()  # loaded models are in evaluation mode, without dropout


def refuse_shape(config: Pretrain) -> None:
    """Refuse options of new models beside --start.

    Raises:
        UserError: with their names.
    """
    if config.start is not None:
        shape: dict[str, str] = dict.fromkeys(("model", "model_args", "pad_vocab_to", "position_start"), "new models")
        refuse_options(config, shape, "--start, whose weights fix the shape")


def load_pretrained(
    name: str | Path,
    model_class: str = "AutoModelForMaskedLM",
    *,
    new_head: bool | None = None,
    revision: str | None = None,
    **settings: Any,
) -> tuple[Any, Any]:
    """Return (model, tokenizer) of a finished run folder, a transformers folder, or a name on the hub.

    Args:
        name: which one.
        model_class: transformers' class.
        new_head: whether what is missing outside of the body, such as a classifier, is newly initialised; default so
            for all but masked language models.
        revision: branch, tag or commit on the hub, of both; None: main.
        settings: of `from_pretrained`, such as num_labels.

    Raises:
        UserError: there is no model, it is damaged or not whole, or the run did not finish; or a folder, which has no
            revisions.
    """
    place = model_folder(name)
    if revision is not None and isinstance(place, Path):
        raise UserError(f"{name} is a folder, which has no revisions; leave out revision={revision!r}")
    at = {} if revision is None else {"revision": revision}
    if new_head is None:
        new_head = model_class != "AutoModelForMaskedLM"
    model = _load_model(place, model_class, new_head=new_head, **at, **settings)
    tokenizer = load_tokenizer(place, revision)
    if model.config.vocab_size < vocabulary_size(tokenizer):
        raise UserError(f"{name} has {model.config.vocab_size:,} words, fewer than its tokenizer")
    return model, tokenizer


def load_config(name: str | Path, **settings: Any) -> Any:
    """Return the transformers config of a model.

    Raises:
        UserError: it is not there, is damaged, or names code of its own.
    """
    return _from_pretrained("AutoConfig", model_folder(name), **settings)


def model_folder(name: str | Path) -> str | Path:
    """Return the transformers folder of a run or a folder, or the name on the hub.

    Raises:
        UserError: the run has no finished model, or (of finetune) more than one.
    """
    folder = Path(name)
    if not (folder / "config.yaml").exists():
        return folder if folder.is_dir() else str(name)
    if tuned := sorted(folder.glob("*/model/config.json")):
        if tuned[1:]:
            names = ", ".join(str(file.parent) for file in tuned[:4])
            raise UserError(f"{folder} has {len(tuned)} models; name one: {names}{' …' if tuned[4:] else ''}")
        return tuned[0].parent
    if not (folder / "model").is_dir():
        missing = without_model(folder)
        if _command_of(folder) != "pretrain":
            raise missing
        raise UserError(f"{missing}; or write what it has with r2mae-text export {name} --out DIR, and give DIR")
    return folder / "model"


def without_model(run: Path) -> UserError:
    """Return the message for a run folder without a model: of a training that has not ended, or of another command."""
    if (command := _command_of(run)) in ("pretrain", "finetune"):
        return unfinished(run, command)
    return UserError(f"{run} is a run of {command}, which leaves no model; name the run folder of a pretraining")


def _command_of(run: Path) -> str:
    file = run / "facts.json"
    return str((read_json(file) if file.exists() else {}).get("command") or "pretrain")


def model_digest(name: str | Path) -> str:
    """Return what names the content of a model, wherever its folder lies; on the hub, its commit.

    Raises:
        UserError: there is no model.
    """
    place = model_folder(name)
    if isinstance(place, str):
        return f"{place} {getattr(load_config(place), '_commit_hash', None)}"
    if (sums := place / "SHA256SUMS").exists():
        return file_digest(sums)
    files = sorted(file for file in place.iterdir() if file.is_file() and not file.name.startswith("."))
    return hashlib.sha256("".join(f"{file_digest(file)}  {file.name}\n" for file in files).encode()).hexdigest()


def _load_model(place: str | Path, model_class: str, *, new_head: bool, **settings: Any) -> Any:
    """Load a transformers model, with all of its weights.

    Raises:
        UserError: weights are missing, or are not finite; and what `_from_pretrained` refuses.
    """
    model, found = _from_pretrained(model_class, place, output_loading_info=True, **settings)
    body = f"{model.base_model_prefix}."
    # A pooler belongs to the classifier: pretraining has none, and states are taken before it.
    pooler = new_head or model_class == "AutoModel"
    missing = [
        name
        for name in sorted(found["missing_keys"])
        if not (pooler and "pooler." in name) and not (new_head and not name.startswith(body))
    ]
    if missing:
        raise UserError(
            f"{place} has no weights for {missing[0]}{f' and {len(missing) - 1} more' if missing[1:] else ''}: it is "
            "damaged, or is another kind of model"
        )
    other = sorted(str(key[0]) for key in found.get("mismatched_keys", ()) if str(key[0]).startswith(body))
    if other:
        raise UserError(f"{place}: the weights {other[0]} are of another size than its config says; it is damaged")
    broken = [name for name, value in model.named_parameters() if not torch.isfinite(value).all()]
    if broken and not all(name in found["missing_keys"] for name in broken):
        raise UserError(f"{place}: the weights {broken[0]} hold NaN or infinite numbers")
    return model


def _from_pretrained(cls: str, place: str | Path, **settings: Any) -> Any:
    import transformers

    local = isinstance(place, Path)
    if local:
        check_checksums(place)
        _refuse_foreign_code(place / "config.json")
    try:
        with quiet():
            return getattr(transformers, cls).from_pretrained(
                str(place), local_files_only=local, trust_remote_code=False, **settings
            )
    except Exception as error:  # the readers of the files raise many kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        where = f"{place} has no loadable model" if local else f"no model {place!r} here or on the hub"
        raise UserError(
            f"{where} ({reason}); give a run folder of r2mae-text pretrain or a transformers folder"
        ) from None


def _refuse_foreign_code(config: Path) -> None:
    """Refuse a model that asks for code from elsewhere: transformers would fetch and run kernels that are named so."""
    if not config.exists():
        return  # transformers says what is missing
    for name, value in read_json(config).items():
        if name.strip("_").startswith(("attn_implementation", "experts_implementation", "use_kernels")) and value:
            raise UserError(f"{config} asks for code of its own ({name}: {value!r}), which is never run; remove it")
