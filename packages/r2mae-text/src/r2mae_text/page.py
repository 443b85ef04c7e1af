"""`report RUN…`: one HTML page of runs, with words that their models fill in."""

from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch

from r2mae_core import Example, Page, Reporter, RunSummary, UserError, read_json, write_page_command
from r2mae_text.classifier import DESCRIPTION
from r2mae_text.cli import COMMANDS
from r2mae_text.data.shards import Corpus
from r2mae_text.evaluate import RANK_BY, shown_as_mask
from r2mae_text.isolation import Isolation
from r2mae_text.masking import MaskingRule, mask_tokens
from r2mae_text.weights import load_pretrained

N_ROWS, N_TOKENS, RATIO = 3, 80, 0.15


def report_command(config: Page) -> None:
    """Run `r2mae-text report`."""
    write_page_command(config, reporter())


def reporter() -> Reporter:
    """Return what is special to this package's pages."""
    return Reporter("r2mae-text", COMMANDS, RANK_BY, filled_in, how_to_load)


def how_to_load(run: RunSummary) -> str | None:
    """Return Python that loads a run's model, or None where there is none."""
    if not (run.path / "model" / "config.json").exists():
        return _how_to_load_tuned(run)
    return (
        "from transformers import AutoModelForMaskedLM, AutoTokenizer\n\n"
        f"folder = {run.path.name + '/model'!r}  # wherever the run folder lies\n"
        "model = AutoModelForMaskedLM.from_pretrained(folder)\n"
        "tokenizer = AutoTokenizer.from_pretrained(folder)\n"
    )


def _how_to_load_tuned(run: RunSummary) -> str | None:
    """Return Python that loads the first of a fine-tuning's models, which lie in a folder for each task and seed."""
    found = sorted(run.path.glob(f"*/model/{DESCRIPTION}"))
    if not found:
        return None
    config = read_json(found[0].parent / "config.json")
    (network,) = config["architectures"]
    folder = "/".join((run.path.name, *found[0].parent.relative_to(run.path).parts))
    others = f"  # likewise the other {len(found) - 1}" if len(found) > 1 else ""
    return (
        f"from transformers import AutoTokenizer, {network}\n\n"
        f"folder = {folder!r}{others}\n"
        f"model = {network}.from_pretrained(folder)\n"
        "tokenizer = AutoTokenizer.from_pretrained(folder)\n"
        f"# The answers for any file: r2mae-text predict {folder} FILE\n"
    )


@torch.inference_mode()
def filled_in(run: RunSummary) -> list[Example]:
    """Return what a pretrained model fills in on held-out text; nothing for other runs.

    Raises:
        UserError: the corpus is not there, is another one, or has no held-out text; the model is damaged.
    """
    if not (run.path / "model" / "config.json").exists() or "corpus" not in run.facts:
        return []
    corpus = Corpus.open(Path(str(run.data)))
    if corpus.digest != run.facts["corpus"]:
        raise UserError(f"{run.data} is another corpus than the one that the run was trained on")
    length = int(run.options["length"])
    if not corpus.n_rows("validation", length):
        raise UserError(f"{run.data} has no held-out text")
    model, tokenizer = load_pretrained(run.path)
    rows = corpus.rows("validation", length)
    tokens = torch.from_numpy(rows[np.arange(min(N_ROWS, len(rows)))].astype(np.int64))
    masked = mask_tokens(
        tokens, RATIO, shown_as_mask(MaskingRule.of(tokenizer)), generator=torch.Generator().manual_seed(0)
    )
    isolation = Isolation.of(model, tokenizer, length) if run.options.get("isolate_documents") else None
    context = {} if isolation is None else isolation.arguments(masked.inputs)
    likeliest = model.eval()(input_ids=masked.inputs, **context).logits.argmax(-1)
    hidden = torch.zeros(tokens.numel(), dtype=torch.bool)
    hidden[masked.positions] = True
    hidden = hidden.view_as(tokens)
    parts = zip(tokens[:, :N_TOKENS], likeliest[:, :N_TOKENS], hidden[:, :N_TOKENS], strict=True)
    texts = [_html(tokenizer, *(part.tolist() for part in row)) for row in parts]
    right, n = int((likeliest == tokens)[hidden].sum()), int(hidden.sum())
    caption = (
        f"The beginnings of {len(tokens)} held-out rows with {RATIO:.0%} of the tokens hidden. Green: the likeliest "
        "is the true one. Red: the likeliest, then the true one. "
        f"Of all {n} hidden tokens of these rows {right} are right."
    )
    return [Example("Words filled in", html="".join(f"<p>{text}</p>" for text in texts), caption=caption, wide=True)]


def _html(tokenizer: Any, tokens: list[int], likeliest: list[int], hidden: list[bool]) -> str:
    """Return a row as HTML, with hidden tokens marked."""
    parts: list[str] = []
    visible: list[int] = []
    for token, guess, is_hidden in zip(tokens, likeliest, hidden, strict=True):
        if is_hidden:
            parts += [escape(tokenizer.decode(visible)), _mark(tokenizer, token, guess)]
            visible = []
        else:
            visible.append(token)
    parts.append(escape(tokenizer.decode(visible)))
    # Pieces of bytes have their own spaces; those of other tokenizers have none when they are decoded one by one.
    return ("" if any(part.startswith(" ") for part in parts) else " ").join(parts)


def _mark(tokenizer: Any, token: int, guess: int) -> str:
    text = tokenizer.decode([token])
    space = " " if text.startswith(" ") else ""
    true, guessed = (escape(one.strip() or "(space)") for one in (text, tokenizer.decode([guess])))
    if token == guess:
        return f'{space}<mark class="right">{true}</mark>'
    return f'{space}<mark class="wrong">{guessed} <s>{true}</s></mark>'
