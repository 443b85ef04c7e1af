import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from r2mae_core import UserError
from r2mae_text import build_model, export_run, held_out_loss, load_pretrained
from r2mae_text.export import fill
from r2mae_text.masking import MaskingRule

ALONE = """
import sys, torch
from transformers import AutoModelForMaskedLM, AutoTokenizer
model, tokenizer = (c.from_pretrained(sys.argv[1]) for c in (AutoModelForMaskedLM, AutoTokenizer))
assert not [m for m in sys.modules if m.startswith("r2mae")]
ids = tokenizer("The Congress of the <mask> States", return_tensors="pt")["input_ids"]
torch.save((type(model).__name__, ids, model.eval()(ids).logits), sys.argv[2])
"""


def test_the_exported_folder_is_opened_by_transformers_alone_with_identical_logits(tiny, tokenizer, tmp_path):
    folder = export_run(tiny, tokenizer, tmp_path / "model")
    subprocess.run([sys.executable, "-c", ALONE, str(folder), str(tmp_path / "out.pt")], check=True)
    name, ids, logits = torch.load(tmp_path / "out.pt")
    assert name == "RobertaForMaskedLM"
    assert ids.tolist() == [tokenizer("The Congress of the <mask> States")["input_ids"]]
    assert torch.equal(logits, tiny.eval()(ids).logits)
    again, _ = load_pretrained(folder)
    assert torch.equal(again(ids).logits, logits)


def test_padding_is_taken_off_without_touching_the_model(tokenizer, tmp_path):
    model = build_model("tiny", tokenizer, pad_vocab_to=64).eval()
    ids = torch.tensor([[0, 17, 4, 99, 2]])
    before = model(ids).logits
    plain, _ = load_pretrained(export_run(model, tokenizer, tmp_path / "model"))
    torch.testing.assert_close(plain(ids).logits, before[..., :400], rtol=0, atol=1e-6)
    assert model.config.vocab_size == 448
    assert torch.equal(model(ids).logits, before)


def test_fill_names_words_and_shares(tiny, tokenizer):
    words = fill(tiny, tokenizer, "The <mask> of the <mask>", top=3)
    assert [len(place) for place in words] == [3, 3]
    assert all(0 < share < 1 for place in words for _, share in place)
    with pytest.raises(UserError, match="the text has no <mask>"):
        fill(tiny, tokenizer, "nothing")


def test_what_is_no_model_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty has no loadable model"):
        load_pretrained(tmp_path / "empty")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("data: x\nmask_ratio: y\n")
    with pytest.raises(UserError, match="has no finished model"):
        load_pretrained(tmp_path / "run")


def test_validation_is_the_same_for_every_batch_size_and_leaves_training_mode(tiny, corpus):
    rows, rule = corpus.rows("validation", 32), MaskingRule.of(corpus.tokenizer)
    tiny.train()
    state = torch.get_rng_state()
    losses = [held_out_loss(tiny, rows, rule, (0.15,), max_rows=40, batch_size=size)[0.15] for size in (64, 7)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert tiny.training
    assert torch.equal(torch.get_rng_state(), state)
    assert losses[0] == pytest.approx(np.log(400), abs=0.5)  # an untrained model knows nothing
    curve = held_out_loss(tiny, rows, rule, (0.15, 0.9))
    assert list(curve) == [0.15, 0.9]


def test_validation_is_what_transformers_computes(tiny, corpus):
    from r2mae_text import mask_tokens

    rows, rule = corpus.rows("validation", 32), MaskingRule(4, (0, 1, 2), 400, 1.0, 0.0)
    batch = torch.from_numpy(rows[np.arange(8)])
    masked = mask_tokens(batch, 0.3, rule, generator=torch.Generator().manual_seed(0))
    theirs = tiny.eval()(input_ids=masked.inputs, labels=masked.labels()).loss.item()
    assert held_out_loss(tiny, rows, rule, (0.3,), max_rows=8)[0.3] == pytest.approx(theirs, rel=1e-5)
    assert Path(corpus.path).is_dir()
