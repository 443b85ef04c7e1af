"""`evaluate`: the loss on held-out text of corpora, as transformers computes it; what does not fit is refused."""

from pathlib import Path

import pytest
import torch

from r2mae_core import read_records
from r2mae_text import export_run
from r2mae_text.data.prepare import prepare
from r2mae_text.evaluate import shown_as_mask
from r2mae_text.masking import MaskingRule, mask_tokens
from r2mae_text.options import Prepare


@pytest.fixture
def model(tiny, tokenizer, tmp_path):
    return export_run(tiny, tokenizer, tmp_path / "model")


def test_the_loss_is_transformers_own_on_each_corpus(call, model, tiny, corpus, speeches):
    own = {"tokenizer": str(model), "validation_share": 0.3, "workers": 0, "progress": False}
    prepare(Prepare((speeches[0],), out=Path("domain"), **own))
    words = ("evaluate", model, corpus.path, "domain", "--length", 32, "--ratios", "[0.15,0.5]")
    code, out, _ = call(*words, "--device", "cpu", "--out", "measured")
    assert code == 0
    assert "domain" in out
    found = {(r.task, r.metric): r for r in read_records(Path("measured/results.json"))}
    assert set(found) == {
        (task, metric) for task in (corpus.path.name, "domain") for metric in ("loss@0.15", "loss@0.5")
    }
    rows = corpus.rows("validation", 32)
    n = min(len(rows), 1024)
    masked = mask_tokens(
        torch.from_numpy(rows[torch.arange(n).numpy()]), 0.5, shown_as_mask(MaskingRule.of(corpus.tokenizer)),
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    with torch.no_grad():
        theirs = tiny.eval()(input_ids=masked.inputs, labels=masked.labels()).loss.item()
    record = found[corpus.path.name, "loss@0.5"]
    assert record.value == pytest.approx(theirs, rel=1e-5)
    assert record.n == n


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("tokenizer", "was prepared with another tokenizer"),
        ("name", "two corpora are called"),
        ("no validation", "the validation split has 0 tokens"),
        ("length", "takes 512 tokens, fewer than --length"),
    ],
)
def test_what_does_not_fit_is_refused(call, model, corpus, speeches, change, message):
    tokenizer = "train" if change == "tokenizer" else str(model)
    share = 0.0 if change == "no validation" else 0.3
    folder = Path("x", corpus.path.name) if change == "name" else Path("other")
    options = {"tokenizer": tokenizer, "vocab_size": 300, "validation_share": share, "workers": 0, "progress": False}
    prepare(Prepare((speeches[0],), out=folder, **options))
    more = ("--length", 600) if change == "length" else ("--length", 32)
    code, _, err = call("evaluate", model, corpus.path, folder, *more, "--device", "cpu", "--out", "measured")
    assert code == 1
    assert message in err
    assert len(err.splitlines()) == 1
    assert not Path("measured/results.json").exists()
