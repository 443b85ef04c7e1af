import math

import pytest
import torch
from transformers import RobertaConfig, RobertaForMaskedLM

from r2mae_core import UserError
from r2mae_text import build_model, gpt2_tokenizer, mask_tokens, masked_lm_loss, train_flops_per_token
from r2mae_text.masking import MaskingRule
from r2mae_text.model import _ROBERTA, SIZES, has_masked_head, usable_positions


def masked_batch(tokenizer, corpus, ratio=0.3, n=6, length=32):
    import numpy as np

    tokens = torch.from_numpy(corpus.rows("train", length)[np.arange(n)])
    return mask_tokens(tokens, ratio, MaskingRule.of(tokenizer), generator=torch.Generator().manual_seed(0))


def both_losses(model, masked):
    """Loss and gradients of ours and of transformers' own head over all positions."""
    out = []
    for full in (False, True):
        model.zero_grad()
        if full:
            loss = model(input_ids=masked.inputs, labels=masked.labels()).loss
        else:
            loss = masked_lm_loss(model, masked.inputs, masked.positions, masked.targets)
        loss.backward()
        out.append((loss.item(), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    return out


_WIDTHS = {
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
    "flaubert": {"emb_dim": 32, "n_layers": 2, "n_heads": 2},
    "xlm": {"emb_dim": 32, "n_layers": 2, "n_heads": 2},
    "funnel": {"d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 64, "block_sizes": [1, 1], "num_decoder_layers": 1},
}
_WIDTH = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_KNOWN_HEADS = (
    "tiny", "bert", "roberta-prelayernorm", "distilbert", "modernbert", "mpnet", "deberta-v2", "roformer", "funnel",
)  # fmt: skip
_OWN_HEADS = ("electra", "albert", "convbert", "flaubert", "xlm")


@pytest.mark.parametrize("kind", [*_KNOWN_HEADS, *_OWN_HEADS])
def test_loss_on_hidden_positions_equals_transformers_own(kind, tokenizer, corpus):
    more = {"embedding_size": 32} if kind in ("electra", "albert", "convbert") else {}
    args = _WIDTHS.get(kind, _WIDTH | more)
    model = build_model(kind, tokenizer, length=32, model_args=args, dropout=0.0)
    assert has_masked_head(model) == (kind in _KNOWN_HEADS)
    assert train_flops_per_token(model.config, 32, 0.3) > 0
    for ratio in (0.0, 0.15, 1.0):
        (ours, our_gradients), (theirs, their_gradients) = both_losses(model, masked_batch(tokenizer, corpus, ratio))
        assert math.isfinite(ours)
        assert ours == pytest.approx(theirs, rel=1e-5)
        assert len(our_gradients) == len(their_gradients) > 10
        for a, b in zip(our_gradients, their_gradients, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_dropout_is_set_by_the_names_of_every_family(tokenizer):
    flaubert = build_model("flaubert", tokenizer, model_args=_WIDTHS["flaubert"], dropout=0.3).config
    assert (flaubert.dropout, flaubert.attention_dropout) == (0.3, 0.3)
    modern = build_model("modernbert", tokenizer, model_args=_WIDTH, dropout=0.3).config
    assert (modern.mlp_dropout, modern.attention_dropout) == (0.3, 0.3)
    with pytest.raises(UserError, match="the dropout of eurobert has names of its own; leave out --dropout"):
        build_model("eurobert", tokenizer, model_args=_WIDTH, dropout=0.3)


def test_the_papers_sizes():
    def parameters(size):
        with torch.device("meta"):
            model = RobertaForMaskedLM(RobertaConfig(vocab_size=50_265, **_ROBERTA, **SIZES[size]))
        return sum(p.numel() for p in model.parameters())

    counts = {size: parameters(size) for size in ("medium", "base")}
    assert counts == {"medium": 51_533_401, "base": 124_697_433}


def test_medium_is_what_the_paper_overrides():
    model = build_model("medium", gpt2_tokenizer())
    config = model.config
    shape = (config.vocab_size, config.hidden_size, config.num_hidden_layers, config.num_attention_heads)
    assert (*shape, config.intermediate_size, config.max_position_embeddings) == (50265, 512, 8, 8, 2048, 514)
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob, config.pad_token_id) == (0.1, 0.1, 1)


@pytest.mark.parametrize(
    ("size", "share", "mflop"),
    [("base", 1, 759), ("base", 0.15, 559), ("base", 0.275, 588), ("base", 0.4, 618), ("base", 0.5, 641),
     ("medium", 1, 313), ("medium", 0.15, 181), ("medium", 0.275, 200), ("medium", 0.5, 235)],
)  # fmt: skip
def test_operations_of_a_training_step(size, share, mflop):
    config = RobertaConfig(vocab_size=50_265, **SIZES[size])
    assert train_flops_per_token(config, 128, share) / 1e6 == pytest.approx(mflop, abs=1)


def test_operations_are_those_that_torch_counts(tiny, tokenizer, corpus):
    from torch.utils.flop_counter import FlopCounterMode

    masked = masked_batch(tokenizer, corpus, 0.3)
    tiny.config._attn_implementation = "eager"
    with FlopCounterMode(display=False) as counter:
        masked_lm_loss(tiny, masked.inputs, masked.positions, masked.targets).backward()
    share = len(masked.positions) / masked.inputs.numel()
    ours = train_flops_per_token(tiny.config, 32, share) * masked.inputs.numel()
    assert counter.get_total_flops() == pytest.approx(ours, rel=0.01)


def test_start_depends_on_the_seed_alone(tokenizer):
    state = torch.get_rng_state()
    one, two, other = (build_model("tiny", tokenizer, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.get_input_embeddings().weight, other.get_input_embeddings().weight)


def test_sinusoidal_positions_are_as_large_as_words_and_alike_to_their_neighbours(tokenizer):
    model = build_model("tiny", tokenizer, position_start="sinusoidal")
    table = model.base_model.embeddings.position_embeddings.weight[2:]
    assert table.std().item() == pytest.approx(0.02, rel=0.1)
    near, far = (torch.cosine_similarity(table[:400], table[gap : 400 + gap]).mean() for gap in (1, 40))
    assert near > 0.9 > far
    assert model.base_model.embeddings.position_embeddings.weight[1].abs().max() == 0
    args = {"num_hidden_layers": 3, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    with pytest.raises(UserError, match="modernbert has no learned position embeddings"):
        build_model("modernbert", tokenizer, model_args=args, position_start="sinusoidal")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("gigantic", {}, "unknown model 'gigantic'; known: tiny, small, medium, base"),
        ("tiny", {"model_args": {"hiden_size": 3}}, "roberta has no config hiden_size"),
        ("tiny", {"length": 600}, "rows of 600 tokens do not fit the model's 512 positions"),
        ("whisper", {}, "whisper has a decoder; masked language models are encoders"),
        ("gpt2", {}, "gpt2 is not a masked language model"),
        ("bart", {}, "bart has a decoder"),
    ],
)
def test_bad_models_are_refused(tokenizer, name, arguments, message):
    with pytest.raises(UserError, match=message):
        build_model(name, tokenizer, **arguments)


def test_positions():
    assert usable_positions(RobertaConfig(max_position_embeddings=514, pad_token_id=1)) == 512


def test_one_graph_for_every_ratio(tiny, tokenizer, corpus):
    """torch.compile traces the loss once or twice, not once for each number of hidden tokens."""
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(masked_lm_loss, backend=count, fullgraph=True)
    for ratio in (0.15, 0.2, 0.25, 0.3, 0.35, 0.4):
        masked = masked_batch(tokenizer, corpus, ratio)
        batch = (masked.inputs, masked.positions, masked.targets)
        assert compiled(tiny, *batch).item() == pytest.approx(masked_lm_loss(tiny, *batch).item(), rel=1e-5)
    assert len(graphs) <= 2
    torch._dynamo.reset()
