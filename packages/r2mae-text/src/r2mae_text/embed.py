"""`embed`: a vector for each text of a file, and the model as sentence-transformers opens it."""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from r2mae_core import (
    atomic_path,
    check_output,
    default_run_path,
    left_out,
    precision,
    resolve_device,
    say,
    whole_folder,
    write_checksums,
)
from r2mae_text.batching import Encoded, collate, encode
from r2mae_text.model import usable_positions
from r2mae_text.options import Embed
from r2mae_text.predict import read_texts
from r2mae_text.weights import load_pretrained, save_model

Pooling = Literal["mean", "first"]


def embed_command(config: Embed) -> None:
    """`r2mae-text embed`."""
    out = embed(config)
    say(f"Done: {out}. In Python: numpy.load('{out}')['vectors'], and their 'rows' in the file, from 1")


def embed(config: Embed) -> Path:
    """Write the vectors of a file's texts as .npz (`vectors`, (N, D) float32; `rows`, (N,)), and return its path.

    Raises:
        UserError: there is no such model, the file is damaged or has no such columns, or the output exists.
    """
    out = config.out or default_run_path("r2mae-text", "embed").with_suffix(".npz")
    check_output(out, [config.data, config.model], overwrite=config.overwrite)
    if config.out_model is not None:
        check_output(config.out_model, [config.data, config.model], overwrite=config.overwrite)
    device = resolve_device(config.device)
    model, tokenizer = load_pretrained(config.model, "AutoModel", new_head=False)
    longest = min(config.max_length or 512, usable_positions(model.config))
    if config.out_model is not None:
        save_sentence_model(model, tokenizer, config.out_model, config.pooling, longest)
    examples = read_texts(config.data, config.text_columns)
    data = encode(tokenizer, examples, longest)
    bf16 = precision(config.precision, device) == "bf16-mixed"
    vectors = vectors_of(
        model.to(device), data, tokenizer.pad_token_id, config.pooling, device, bf16, config.batch_size
    )
    with atomic_path(out) as temporary, temporary.open("wb") as stream:
        np.savez(stream, vectors=vectors, rows=np.array(examples.rows))
    cut = f"; {data.n_cut:,} are longer than {longest} tokens, and cut" if data.n_cut else ""
    say(f"{len(examples):,} texts, {vectors.shape[1]} numbers each; {left_out(examples.skipped)}{cut}")
    return out


@torch.no_grad()
def vectors_of(
    model: Any, data: Encoded, pad_id: int, pooling: Pooling, device: str, bf16: bool = False, batch_size: int = 64
) -> np.ndarray:
    """Return a vector for each example, (N, D) float32: the mean of its last states, or the first one.

    Special tokens count, as in sentence-transformers.
    """
    model.eval()
    order = np.argsort(data.lengths(), kind="stable")
    parts = list[np.ndarray]()
    for first in range(0, len(order), batch_size):
        ids, mask, types = (part.to(device) for part in collate(data, order[first : first + batch_size], pad_id))
        extra = {"token_type_ids": types} if getattr(model.config, "type_vocab_size", 1) > 1 else {}
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            states = model(input_ids=ids, attention_mask=mask, **extra).last_hidden_state
        parts.append(pooled(states.float(), mask, pooling).cpu().numpy())
    return np.concatenate(parts)[np.argsort(order)]


def pooled(states: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """Return one vector for each row, (B, D), of states (B, W, D) and a mask (B, W) of what is no padding."""
    if pooling == "first":
        return states[:, 0]
    share = mask[..., None].to(states.dtype)
    return (states * share).sum(1) / share.sum(1)


def save_sentence_model(model: Any, tokenizer: Any, folder: Path, pooling: Pooling, longest: int) -> None:
    """Write a model as a folder that sentence-transformers, and transformers, open; `embed` gives the same vectors."""
    with whole_folder(folder) as temporary:
        save_model(model, tokenizer, temporary)
        modules = [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        ]
        (temporary / "modules.json").write_text(json.dumps(modules, indent=1), encoding="utf-8")
        plain = {"max_seq_length": longest, "do_lower_case": False}
        (temporary / "sentence_bert_config.json").write_text(json.dumps(plain), encoding="utf-8")
        (temporary / "1_Pooling").mkdir()
        how = {
            "word_embedding_dimension": model.config.hidden_size,
            "pooling_mode_cls_token": pooling == "first",
            "pooling_mode_mean_tokens": pooling == "mean",
        }
        (temporary / "1_Pooling" / "config.json").write_text(json.dumps(how), encoding="utf-8")
        write_checksums(temporary)
