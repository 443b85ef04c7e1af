"""Files with one word per line: CoNLL's columns (.conll) and Universal Dependencies' (.conllu)."""

import re
from pathlib import Path
from typing import Any

from r2mae_core import UserError

CONLL = (".conll", ".conllu")
_UD = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")


def read_conll(file: Path, words: str, labels: str) -> list[dict[str, Any]]:
    """Read sentences as rows with a list of words and a list of labels; an empty line ends a sentence.

    Args:
        file: .conll: the first column is the word, columns are divided by tabs or spaces, and -DOCSTART- lines are no
            sentences. .conllu: words that are written as one and empty nodes are left out, as the format says.
        words: name of the words' column in the rows.
        labels: name of the labels' column in the rows. "label" stands for the last column of .conll and for upos; else
            it names a column of .conllu, or is the number of a column of .conll, from 0.

    Raises:
        UserError: it is not UTF-8, a line has fewer columns than the first, or there is no such column.
    """
    ud = file.suffix == ".conllu"
    try:
        lines = re.split(r"\r\n|\r|\n", file.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 (byte {error.start:,}); convert it with iconv") from None
    rows, sentence, width = list[dict[str, Any]](), list[list[str]](), None
    for number, line in enumerate([*lines, ""], 1):
        if not line.strip(" \t"):
            if sentence:
                rows.append({words: [cells[0] for cells in sentence], labels: [cells[1] for cells in sentence]})
            sentence = []
            continue
        if (ud and line.startswith("#")) or line.startswith("-DOCSTART-"):
            continue
        cells = line.split("\t") if "\t" in line else re.split(" +", line.strip(" "))
        width = width or (len(_UD) if ud else len(cells))
        if len(cells) != width or width < 2:
            raise UserError(f"{file}, line {number:,} has {len(cells)} columns, not {max(width, 2)}")
        if ud and not cells[0].isdigit():
            continue  # 3-4: two words written as one; 3.1: a word that is not written
        sentence.append([cells[1 if ud else 0], cells[_column(file, labels, width)]])
    return rows


def _column(file: Path, labels: str, width: int) -> int:
    if file.suffix == ".conllu":
        name = "upos" if labels == "label" else labels.lower()
        if name not in _UD[2:]:
            raise UserError(f"{file} has no column {labels}; choose one of {', '.join(_UD[2:])}")
        return _UD.index(name)
    if labels == "label":
        return width - 1
    if not labels.isdigit() or not 0 < int(labels) < width:
        raise UserError(f"{file} has the columns 1 to {width - 1} besides the word, and no {labels}")
    return int(labels)
