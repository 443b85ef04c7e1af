"""Documents isolated in a row have the loss, and the gradients, that each has in a batch of its own."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from r2mae_core import UserError
from r2mae_text import build_model, load_pretrained, mask_tokens, masked_lm_loss
from r2mae_text.data.prepare import prepare
from r2mae_text.evaluate import held_out_loss
from r2mae_text.isolation import Isolation, document_numbers
from r2mae_text.masking import MaskingRule
from r2mae_text.options import Prepare, Pretrain
from r2mae_text.pretrain import pretrain

_WIDTH = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
_SHAPES = {
    "roberta": _WIDTH,
    "bert": _WIDTH,
    "modernbert": {**_WIDTH, "local_attention": 8},
    "electra": {**_WIDTH, "embedding_size": 32},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
}


def packed(tokenizer, lengths=(1, 9, 30, 2, 6), seed=0):
    """A row of documents, each ended by </s>, and the documents alone."""
    rng = np.random.default_rng(seed)
    documents = [torch.from_numpy(np.append(rng.integers(5, 400, n - 1), tokenizer.eos_token_id)) for n in lengths]
    return torch.cat(documents)[None], documents


@pytest.mark.parametrize("kind", _SHAPES)
def test_the_loss_is_that_of_documents_alone(kind, tokenizer):
    shape = {**_SHAPES[kind], "initializer_range": 0.3}  # new weights hardly look at other tokens
    model = build_model(kind, tokenizer, length=64, model_args=shape, dropout=0.0)
    isolation, (row, documents) = Isolation.of(model, tokenizer, 64), packed(tokenizer)
    if kind == "modernbert":
        assert isolation.window == 4  # half of the local attention, to each side
    masked = mask_tokens(row, 0.4, MaskingRule.of(tokenizer), generator=torch.Generator().manual_seed(1))
    labels, inputs = masked.labels()[0], masked.inputs[0]
    together = masked_lm_loss(model, masked.inputs, masked.positions, masked.targets, **isolation.arguments(row))
    together.backward()
    ours = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    total, start = torch.zeros(()), 0
    for document in documents:
        here = slice(start, start + len(document))
        logits = model(input_ids=inputs[here][None]).logits[0]
        total = total + torch.nn.functional.cross_entropy(logits, labels[here], reduction="sum")
        start = here.stop
    alone = total / (labels >= 0).sum()
    alone.backward()
    assert together.item() == pytest.approx(alone.item(), rel=1e-5)
    for a, p in zip(ours, [p for p in model.parameters() if p.grad is not None], strict=True):
        torch.testing.assert_close(a, p.grad, rtol=1e-3, atol=1e-5)
    plain = masked_lm_loss(model, masked.inputs, masked.positions, masked.targets)
    assert plain.item() != pytest.approx(alone.item(), rel=1e-3)  # or the test would prove nothing


def test_the_end_belongs_to_its_document():
    tokens = torch.tensor([[0, 7, 2, 2, 8, 9, 2, 5]])
    assert document_numbers(tokens, 2).tolist() == [[0, 0, 0, 1, 2, 2, 2, 3]]


def test_a_family_that_takes_no_such_mask_is_refused(tokenizer):
    shape = {"d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 64, "block_sizes": [1, 1], "num_decoder_layers": 1}
    model = build_model("funnel", tokenizer, model_args=shape)
    with pytest.raises(UserError, match="FunnelForMaskedLM does not keep the documents of a row apart"):
        Isolation.of(model, tokenizer, 64)


def test_a_family_that_does_not_heed_the_mask_is_refused_however_new_its_weights(tiny, tokenizer, monkeypatch):
    monkeypatch.setattr(Isolation, "arguments", lambda self, tokens: {"attention_mask": torch.ones_like(tokens)})
    with pytest.raises(UserError, match="RobertaForMaskedLM does not keep the documents of a row apart"):
        Isolation.of(build_model("tiny", tokenizer), tokenizer, 64)


def test_a_run_trains_and_is_measured_with_isolated_documents(speeches):
    Path("short.txt").write_text("".join(f"{part}\n" for part in Path(speeches[0]).read_text().split(".")))
    source = Prepare(
        (Path("short.txt"),), document="line", vocab_size=300, validation_share=0.3, workers=0, out=Path("short")
    )
    corpus = prepare(replace(source, progress=False))
    shape = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    config = Pretrain(
        corpus.path, model="tiny", model_args=shape, length=32, batch_size=4, steps=3, dropout=0.0, device="cpu",
        progress=False, isolate_documents=True, out=Path("isolated"),
    )  # fmt: skip
    run = pretrain(config)
    plain = pretrain(replace(config, isolate_documents=False, out=Path("plain")))
    model, tokenizer = load_pretrained(run.path)
    rows, rule = corpus.rows("validation", 32), MaskingRule.of(tokenizer)
    measured = {r.metric: r.value for r in run.results()}["loss@0.6"]
    for isolation, same in ((Isolation.of(model, tokenizer, 32), True), (None, False)):
        value = held_out_loss(model, rows, rule, (0.6,), isolation=isolation)[0.6]
        assert (value == pytest.approx(measured, rel=1e-6)) == same
    assert run.results()[0].value != plain.results()[0].value
