"""`predict`: what a fine-tuned model says of the texts of a file."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from r2mae_core import UserError, check_output, default_run_path, left_out, precision, reading, resolve_device, say
from r2mae_text.batching import Encoded, encode
from r2mae_text.classifier import logits_of, open_classifier
from r2mae_text.data.conll import CONLL, read_conll
from r2mae_text.data.glue import Examples, Task, has_text, is_words
from r2mae_text.data.tables import TABLES, read_table
from r2mae_text.metrics import predicted_of
from r2mae_text.options import Predict
from r2mae_text.tuned import prediction_rows, write_csv


def predict_command(config: Predict) -> None:
    """`r2mae-text predict`."""
    say(f"Done: {predict(config)}")


def predict(config: Predict) -> Path:
    """Write the predictions for a file as a table, and return the table's path.

    Rows without a text are left out and counted; every row is named by its number in the file, from 1.

    Raises:
        UserError: the model has no classifier, the file is damaged or has no such columns, or the output exists.
    """
    out = config.out or default_run_path("r2mae-text", "predict").with_suffix(".csv")
    check_output(out, [config.data, config.model], overwrite=config.overwrite)
    device = resolve_device(config.device)
    model, tokenizer, task, longest = open_classifier(config.model)
    task = Task(
        config.text_columns or task.columns, task.labels, tags=task.tags, several=task.several, metric=task.metric
    )
    examples = read_texts(config.data, task.columns, words=task.tags)
    data = encode(tokenizer, examples, min(config.max_length or longest, longest))
    bf16 = precision(config.precision, device) == "bf16-mixed"
    logits = logits_of(model.to(device), data, tokenizer.pad_token_id, device, bf16, config.batch_size)
    write_csv(out, *prediction_rows(task, logits, examples, data, truth=False))
    say(f"{len(examples):,} texts; {left_out(examples.skipped)}{_cut(data)}")
    if task.labels:
        say(_counted(task, logits))
    return out


def read_texts(file: Path, columns: tuple[str, ...], *, words: bool = False) -> Examples:
    """Read the texts of a file: a table's columns, the lines of .txt, or the words of .conll.

    Args:
        file: .csv, .tsv, .jsonl, .parquet, .txt; where words have labels also .conll and .conllu.
        columns: of the text or texts; a line of .txt has no columns.
        words: whether a text is a list of words.

    Raises:
        UserError: the file is not there, is damaged, is of no known kind, or has no such columns; there is no text.
    """
    skipped = Counter[str]()
    rows = list[dict[str, Any]]()
    with reading(file, "a file of texts"):
        if words and file.suffix in CONLL:
            columns = columns[:1] or ("tokens",)
            rows = read_conll(file, columns[0], "label")
        elif file.suffix == ".txt" and not words:
            if len(columns) > 1:
                raise UserError(f"{file} has one text in each line, and the model takes two; give a table")
            columns = columns or ("text",)
            rows = [{columns[0]: line} for line in _lines(file)]
        elif file.suffix in TABLES:
            rows = read_table(file, skipped)
        else:
            known = ", ".join((*TABLES, *(CONLL if words else (".txt",))))
            raise UserError(f"{file} is of no kind that is read; known: {known}")
    if not rows:
        raise UserError(f"{file} has no rows: it is empty")
    have = dict.fromkeys(column for row in rows for column in row)
    if not columns:
        raise UserError(f"{file} has the columns {', '.join(have)}; say which is the text with --text_columns")
    if missing := [column for column in columns if column not in have]:
        raise UserError(f"{file}: no column {', '.join(missing)} but {', '.join(have)}; see --text_columns")
    whole = is_words if words else has_text
    kept = [i for i, row in enumerate(rows, 1) if all(whole(row.get(column)) for column in columns)]
    if not kept:
        raise UserError(f"{file}: none of {len(rows):,} rows has a text")
    skipped["rows without a text"] += len(rows) - len(kept)
    texts = tuple([rows[i - 1][column] for i in kept] for column in columns)
    n = sum(map(len, texts[0])) if words else len(kept)
    return Examples(texts, np.zeros(n, np.int64), dict(skipped), tuple(kept))


def _lines(file: Path) -> list[str]:
    try:
        lines = file.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 (byte {error.start:,}); convert it with iconv") from None
    return lines[:-1] if lines[-1] == "" else lines


def _cut(data: Encoded) -> str:
    said = f"; {data.n_cut:,} are longer than the model takes, and cut" if data.n_cut else ""
    return said + (f"; {data.n_lost:,} words have no prediction" if data.n_lost else "")


def _counted(task: Task, logits: np.ndarray) -> str:
    """Return how often each label is predicted."""
    predicted = predicted_of(task, logits)
    each: Any = predicted.sum(0) if task.several else np.bincount(predicted, minlength=len(task.labels))
    pairs = sorted(zip(each.tolist(), task.labels, strict=True), key=lambda pair: -pair[0])
    return "Predicted: " + ", ".join(f"{label} {n:,}" for n, label in pairs[:12]) + (" …" if pairs[12:] else "")
