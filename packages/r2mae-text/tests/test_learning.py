"""Does it learn? A task whose optimum is known, and the line that a model without context reaches on real text."""

import math

import numpy as np
import pytest
import torch
from transformers import RobertaConfig, RobertaForMaskedLM

from r2mae_core import MaskDraw, StepOrder, Uniform, linear
from r2mae_text.data.shards import TokenRows
from r2mae_text.masking import MaskingRule
from r2mae_text.module import MaskedLanguageModule

N_TOPICS, WORDS, LENGTH = 32, 8, 32


def topics(n=4096, seed=0):
    """Rows of words of one topic each: the context says the topic, so ln 8 nats are left, against ln 256 without it."""
    rng = np.random.default_rng(seed)
    rows = 5 + WORDS * rng.integers(N_TOPICS, size=(n, 1)) + rng.integers(WORDS, size=(n, LENGTH - 1))
    return TokenRows([rows.astype(np.uint16)], 0)


def module(lr=2e-3):
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=5 + N_TOPICS * WORDS, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=256, max_position_embeddings=LENGTH + 2, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, type_vocab_size=1,
    )  # fmt: skip
    rule = MaskingRule(4, (0, 1, 2), config.vocab_size, 1.0, 0.0)
    return MaskedLanguageModule(RobertaForMaskedLM(config), Uniform(0.15, 0.4), rule, batch_size=64, lr=lr)


def train(model, rows, steps):
    order, losses = StepOrder(len(rows), 64, 64), []
    model.total_steps = lambda: steps
    optimizer, generator = model.configure_optimizers()["optimizer"], torch.Generator()
    model._shard = 0
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = model.lr * linear(step, steps, 0.1)
        draw = MaskDraw(model.mask_ratio.sample(step, steps), generator.manual_seed(step))
        loss = model.masked_loss(torch.from_numpy(rows[order.batch(step)]), draw)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.slow
def test_topics_are_learned_to_their_optimum():
    losses = train(module(), topics(), 400)
    assert losses[0] == pytest.approx(math.log(N_TOPICS * WORDS), abs=0.3)
    assert np.mean(losses[-20:]) < 2.3  # the optimum is 2.079, the unigram line 5.545


def test_without_context_nothing_is_learned():
    """The same words without topics: the loss must stay at the unigram line, or something leaks."""
    rng = np.random.default_rng(0)
    rows = TokenRows([rng.integers(5, 5 + N_TOPICS * WORDS, (4096, LENGTH - 1)).astype(np.uint16)], 0)
    losses = train(module(), rows, 60)
    assert np.mean(losses[-20:]) > math.log(N_TOPICS * WORDS) - 0.05
