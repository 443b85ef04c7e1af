"""What comes into the shards is the text: no padding, no special ids, bounded memory, and a validation set."""

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from r2mae_core import UserError
from r2mae_text import Corpus, build_model, load_tokenizer, masked_lm_loss, train_tokenizer
from r2mae_text.data.prepare import prepare
from r2mae_text.options import Prepare

WORDS = ["the", "union", "of", "these", "states", "and", "their", "people", "is", "matter", "law", "peace", "land"]


def settings(*sources, **changes):
    options = {"vocab_size": 300, "validation_share": 0.0, "workers": 0, "out": Path("corpus"), "progress": False}
    return Prepare(tuple(map(Path, sources)), **{**options, **changes})


def ids_of(corpus, split="train"):
    shards = [s for s in corpus.index["shards"] if s["split"] == split and s["tokens"]]
    kind = np.dtype(corpus.index["dtype"])
    return np.concatenate([np.fromfile(corpus.path / s["file"], kind) for s in shards] or [np.zeros(0, kind)])


def some_text(n, seed=0):
    rng = np.random.default_rng(seed)
    return " ".join(f"{WORDS[w]}{'.' if w == 3 else ''}" for w in rng.integers(0, len(WORDS), n))


def test_a_tokenizers_own_padding_and_truncation_stay_out(tmp_path):
    tokenizer = train_tokenizer([some_text(500)], 300)
    tokenizer.backend_tokenizer.enable_padding(length=128, pad_id=1, pad_token="<pad>")
    tokenizer.backend_tokenizer.enable_truncation(8)
    tokenizer.save_pretrained("padded")
    assert '"padding": {' in Path("padded/tokenizer.json").read_text().replace('"padding":{', '"padding": {')
    Path("a.txt").write_text(some_text(50))
    corpus = prepare(settings("a.txt", tokenizer="padded"))
    assert 1 not in ids_of(corpus)
    assert corpus.tokenizer.decode(ids_of(corpus)[:-1]) == some_text(50)


@pytest.mark.parametrize("form", ["text", "ids"])
def test_literal_special_tokens_are_text_unless_asked_for(form):
    text = "Write <s> before and <mask> inside. </s><pad> " * 20
    Path("markup.md").write_text(text)
    corpus = prepare(settings("markup.md", special_tokens=form))
    special = set(ids_of(corpus)[:-1].tolist()) & {0, 1, 2, 4}
    assert special == (set() if form == "text" else {0, 1, 2, 4})
    if form == "text":
        assert corpus.tokenizer.decode(ids_of(corpus)[:-1]) == text


def test_validation_is_of_passages_where_documents_are_few(call):
    text = some_text(30_000)
    Path("book.txt").write_text(text)
    _, out, _ = call(
        "prepare", "book.txt", "--vocab_size", "300", "--validation_share", "0.1", "--workers", "0", "--out", "corpus"
    )
    corpus = Corpus.open("corpus")
    train, held_out = (corpus.n_tokens(split) for split in ("train", "validation"))
    assert 0.05 < held_out / (train + held_out) < 0.15
    assert "1 documents" in out
    assert f"{held_out:,} validation tokens ({corpus.index['validation']['count']} passages)" in out
    sides = [corpus.tokenizer.decode(ids_of(corpus, split)).split("</s>") for split in ("train", "validation")]
    assert all(passage in text for side in sides for passage in side)  # nothing is joined that was apart
    assert sum(len(passage) for side in sides for passage in side) == len(text)
    assert not set(sides[0]) & set(sides[1]) - {""}


def test_no_validation_text_is_said(call):
    Path("a.txt").write_text("a short one")
    _, out, _ = call("prepare", "a.txt", "--vocab_size", "300", "--workers", "0", "--out", "corpus")
    assert "0 validation tokens" in out
    assert "There is no validation text" in out


def test_a_large_text_is_divided_among_processes_and_loses_nothing(monkeypatch):
    monkeypatch.setattr("r2mae_text.data.sources.LARGE_TEXT", 20_000)
    monkeypatch.setattr("r2mae_text.data.sources.SMALLEST_PIECE", 30_000)
    text = some_text(40_000) + "é" * 70_000 + some_text(9_000)
    Path("large.txt").write_text(text)
    Path("large.txt.gz").write_bytes(gzip.compress(text.encode()))
    many = prepare(settings("large.txt", workers=2, out=Path("many")))
    assert len(many.index["shards"]) > 8
    assert many.index["documents"] == 1
    assert many.tokenizer.decode(ids_of(many)).replace("</s>", "") == text
    one = prepare(settings("large.txt.gz", tokenizer="many/tokenizer", out=Path("one")))
    assert one.tokenizer.decode(ids_of(one)) == text + "</s>"


PEAK = """
import resource, sys
from pathlib import Path
from r2mae_text.data.prepare import prepare
from r2mae_text.options import Prepare
options = dict(tokenizer="tokenizer", workers=0, validation_share=0.0, out=Path("corpus"), progress=False)
corpus = prepare(Prepare((Path(sys.argv[1]),), **options))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_memory_is_bounded_whatever_the_input():
    """A document of 4 MB took 500 MB; the base of the process, libraries and all, is measured with a small one."""
    train_tokenizer([some_text(500)], 300).save_pretrained("tokenizer")
    text = (some_text(2000) + " ") * 450
    Path("small.txt").write_text(text[:100])
    Path("large.txt").write_text(text)
    Path("large.jsonl").write_text(json.dumps({"text": text}))
    assert Path("large.txt").stat().st_size > 4_000_000
    peaks = []
    for name in ("small.txt", "large.txt", "large.jsonl"):
        done = subprocess.run([sys.executable, "-c", PEAK, name], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout))
        shutil.rmtree("corpus")
    assert max(peaks) - peaks[0] < 200, peaks


def test_large_vocabularies_have_shards_of_32_bits():
    train_tokenizer([some_text(500)], 300).save_pretrained("large")
    file = Path("large/tokenizer.json")
    state = json.loads(file.read_text())
    old = state["model"]["vocab"]["Ġunion"]
    assert old > 260
    state["model"]["vocab"]["Ġunion"] = 70_000
    file.write_text(json.dumps(state))
    text = "the union of the union " * 40
    Path("a.txt").write_text(text)
    corpus = prepare(settings("a.txt", tokenizer="large"))
    assert corpus.index["dtype"] == "uint32"
    assert old not in ids_of(corpus)
    assert 70_000 in ids_of(corpus)
    assert ids_of(corpus).tolist() == [*load_tokenizer("large").encode(text, add_special_tokens=False), 2]
    batch = corpus.rows("train", 32)[np.arange(2)]
    assert batch.dtype == np.int32
    args = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 1}
    model = build_model("tiny", corpus.tokenizer, model_args=args)
    places = torch.tensor([3, 5])
    ids = torch.from_numpy(batch).long()
    assert torch.isfinite(masked_lm_loss(model, ids, places, ids.flatten()[places]))
    shard = corpus.path / "train-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-4])
    with pytest.raises(UserError, match=r"train-00000\.bin has [\d,]+ bytes where its index says"):
        Corpus.open("corpus")
