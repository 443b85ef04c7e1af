"""Whole words: where they start, against transformers' own, and masks that divide none of them."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from r2mae_core import UserError
from r2mae_text import R2MAECollator, gpt2_tokenizer
from r2mae_text.words import Words, word_mask

TEXT = "The states' unions, in 1887 (and later), were naïvely tokenized: unbelievable antidisestablishmentarianism!"


def pieces(kind):
    """A tokenizer of WordPiece or of SentencePiece's form, trained on the text."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    if kind == "wordpiece":
        core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        core.train_from_iterator([TEXT] * 3, trainers.WordPieceTrainer(vocab_size=70, special_tokens=special))
    else:
        core = Tokenizer(models.BPE(unk_token="[UNK]"))
        core.pre_tokenizer = pre_tokenizers.Metaspace() if kind == "metaspace" else pre_tokenizers.Whitespace()
        core.train_from_iterator([TEXT] * 3, trainers.BpeTrainer(vocab_size=70, special_tokens=special))
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(tokenizer_object=core, **dict(zip(names, special, strict=True)))


@pytest.mark.parametrize("kind", ["byte-level", "wordpiece", "metaspace"])
def test_words_are_those_of_transformers(kind):
    tokenizer = gpt2_tokenizer() if kind == "byte-level" else pieces(kind)
    encoded = tokenizer([TEXT], add_special_tokens=False)
    ids, words = torch.tensor(encoded["input_ids"]), encoded.word_ids(0)
    theirs = [i == 0 or a != b for i, (a, b) in enumerate(zip([None, *words], words, strict=False))]
    assert max(words) + 1 < len(words)
    assert Words(tokenizer).starts(ids)[0].tolist() == theirs


def test_pieces_that_do_not_say_where_words_start_are_refused():
    with pytest.raises(UserError, match="do not say where words start"):
        R2MAECollator(pieces("bare"), mask_shape="words")


@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("count", ["exact", "bernoulli"])
def test_no_word_is_divided_and_the_share_is_the_ratio(per_row, count):
    rng = torch.Generator().manual_seed(0)
    starts = torch.rand(400, 64, generator=rng) < 0.5
    starts[:, 0] = True
    valid = torch.ones_like(starts)
    valid[:, -5:] = False  # a special token starts a word
    starts[:, -5:] = True
    ratio = torch.rand(400, generator=rng).double() if per_row else 0.3
    hidden = word_mask(starts, ratio, generator=rng, valid=valid, count=count)
    assert not (hidden & ~valid).any()
    same_word = ~starts[:, 1:]
    assert (hidden[:, 1:] == hidden[:, :-1])[same_word].all()
    share = hidden.sum(1).double() / valid.sum(1)
    assert float((share - ratio).mean()) == pytest.approx(0, abs=0.02)
    if count == "exact":
        longest = max(len(run) for row in starts for run in "".join("s" if s else "." for s in row).split("s")) + 1
        wanted = (torch.as_tensor(ratio) * valid.sum(1)).round().clamp(min=1)
        near = (hidden.sum(1) - wanted).abs() <= longest / 2
        assert (near | (hidden.sum(1) <= longest)).all()  # one word is hidden, however long
        assert (hidden.sum(1) >= 1).all()


def test_the_collator_hides_whole_words_and_evaluates_on_tokens():
    tokenizer = gpt2_tokenizer()
    rows = [{"input_ids": tokenizer(TEXT + " " + word)["input_ids"]} for word in ("union", "of", "states")]
    collator = R2MAECollator(tokenizer, 0.4, mask_shape="words", mask_share=1.0, random_share=0.0)
    batch = collator(rows)
    starts = Words(tokenizer).starts(batch["input_ids"])
    labels = torch.stack([collator.mask(batch, step)["labels"] for step in range(30)]) != -100
    assert (labels[:, :, 1:] == labels[:, :, :-1])[:, ~starts[:, 1:]].all()
    assert not labels[:, batch["attention_mask"] == 0].any()
    ordinary = (batch["attention_mask"].sum(1) - 2)[None]
    assert float((labels.sum(2) / ordinary).mean()) == pytest.approx(0.4, abs=0.03)
    words_differ = [collator.mask(batch, 0)["labels"], collator.mask(batch, 1)["labels"]]
    assert not torch.equal(*words_differ)
    plain = collator.mask(batch, 0, plain=True)["labels"] != -100
    assert not (plain[:, 1:] == plain[:, :-1])[~starts[:, 1:]].all()
