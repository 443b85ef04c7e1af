"""Muon for the matrices of the layers, AdamW for the rest: each does what torch's own does."""

import copy

import pytest
import torch

from r2mae_core import UserError
from r2mae_text import build_model
from r2mae_text.muon import muon
from r2mae_text.options import Pretrain


def gradients(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator)


def test_each_parameter_moves_as_with_torchs_own_optimizer(tiny):
    names = {name for name, p in tiny.named_parameters() if p.ndim == 2 and "embeddings" not in name}
    names.discard("lm_head.decoder.weight")
    assert len(names) == 2 * 6 + 1  # query, key, value, output, in, out; and the head's square matrix
    ours, theirs = copy.deepcopy(tiny), copy.deepcopy(tiny)
    both = muon(ours, lr=0.01, weight_decay=0.1, betas=(0.9, 0.98))
    moved = dict(theirs.named_parameters())
    alone = torch.optim.Muon(
        [moved[name] for name in sorted(names)], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )
    rest = {name: p for name, p in moved.items() if name not in names}
    groups = [
        {"params": [p for p in rest.values() if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in rest.values() if p.ndim < 2], "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.98), fused=True)
    for step in range(3):
        for model, optimizers in ((ours, (both,)), (theirs, (alone, adam))):
            gradients(model, step)
            for optimizer in optimizers:
                optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_loaded_state_goes_on_with_both_parts(tiny):
    whole, halves = copy.deepcopy(tiny), copy.deepcopy(tiny)
    optimizer = muon(whole, lr=0.01, weight_decay=0.1, betas=(0.9, 0.98))
    first = muon(halves, lr=0.01, weight_decay=0.1, betas=(0.9, 0.98))
    for step in range(4):
        if step == 2:
            state, first = copy.deepcopy(first.state_dict()), muon(halves, lr=1.0, weight_decay=0.0, betas=(0.1, 0.1))
            first.load_state_dict(state)
        for model, one in ((whole, optimizer), (halves, first)):
            gradients(model, step)
            one.step()
    for a, b in zip(whole.parameters(), halves.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_schedule_reaches_both_parts(tiny):
    both = muon(tiny, lr=0.01, weight_decay=0.1, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(both, lambda step: 0.5**step)
    before = copy.deepcopy(tiny.state_dict())
    schedule.base_lrs = [0.0] * len(schedule.base_lrs)
    gradients(tiny, 0)
    both.step()
    schedule.step()
    after = copy.deepcopy(tiny.state_dict())
    assert not torch.equal(
        before["roberta.encoder.layer.0.output.dense.weight"], after["roberta.encoder.layer.0.output.dense.weight"]
    )
    gradients(tiny, 1)
    both.step()
    assert all(torch.equal(p, after[name]) for name, p in tiny.state_dict().items())


def test_embeddings_of_every_family_stay_with_adamw(tokenizer):
    args = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    for kind in ("bert", "modernbert", "mpnet", "electra"):
        more = {"embedding_size": 32} if kind == "electra" else {}
        model = build_model(kind, tokenizer, model_args=args | more)
        names = {id(p): name for name, p in model.named_parameters()}
        matrices = {
            names[id(p)]
            for p in muon(model, lr=1, weight_decay=0, betas=(0.9, 0.99)).parts[0].param_groups[0]["params"]
        }
        assert not [
            name for name in matrices if "embeddings.weight" in name or "attention_bias" in name or "decoder" in name
        ]
        assert len(matrices) >= 4


def test_muon_and_fsdp_are_refused(tmp_path):
    with pytest.raises(UserError, match="--optimizer muon needs whole matrices"):
        Pretrain(tmp_path, optimizer="muon", strategy="fsdp")
