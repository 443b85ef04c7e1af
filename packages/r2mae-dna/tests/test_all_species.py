from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from Bio import Phylo

from r2mae_core import MaskDraw, UserError, read_json
from r2mae_dna.all_species import AllSpecies, hidden_letters, hide_letters
from r2mae_dna.data.codes import MASK, SOFT_MASK, TOKEN_BITS
from r2mae_dna.masking import MaskingConfig, position_weights, turn_strands
from r2mae_dna.model import AlignmentModel, ModelConfig
from r2mae_dna.options import Pretrain, Probe
from r2mae_dna.pretrain import DnaModality, pretrain
from r2mae_dna.species_weights import phylogeny_weights, read_tree, similarity_weights
from r2mae_dna.weights import load_model

TREE = "((mm9:0.1,rn4:0.2):0.3,(hg18:0.4,canFam2:0.5):0.1);"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    from r2mae_dna.data.build import build_alignment
    from r2mae_dna.data.samples import VERTEBRATES, sample_path
    from r2mae_dna.data.windows import prepare
    from r2mae_dna.options import Prepare

    home = tmp_path_factory.mktemp("small")
    build_alignment([sample_path(VERTEBRATES)], home / "s", reference="mm9", species=["rn4", "hg18", "canFam2"])
    prepare(Prepare(home / "s", out=home / "w", window=32, step=32, validation_regions="chr10:3,220,001-3,237,798"))
    return Pretrain(
        home / "w", mask_ratio="r2mae", n_hidden=32, n_layers=2, n_heads=2, steps=8, batch_size=16, lr=3e-3,
        targets="all", warmup=0.25, checkpoint_every=3, log_every=4, max_windows=32, device="cpu",
        progress=False, dropout=0.1,
    )  # fmt: skip


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def letters(n=6, length=32, rows=5, seed=0):
    """Codes with gaps, whole rows without a letter, and lower case in the reference."""
    codes = torch.randint(0, 5, (n, length, rows), dtype=torch.uint8, generator=generator(seed))
    codes[..., 0] = torch.randint(1, 5, (n, length), dtype=torch.uint8, generator=generator(seed + 1))
    codes[0, :, 2] = 0
    codes[1:3, 4:, 3] = 0
    return codes


RATIOS = [0.3, torch.tensor([0.02, 0.1, 0.3, 0.5, 0.8, 1.0], dtype=torch.float64)]


@pytest.mark.parametrize("ratio", RATIOS, ids=["one", "each"])
@pytest.mark.parametrize("over", ["letters", "columns", "rows"])
def test_exact_shares_of_bases_are_hidden_and_gaps_never(over, ratio):
    codes = letters()
    there = (codes >= 1) & (codes <= 4)
    hidden, positions = hidden_letters(codes, ratio, generator(), over)
    assert not (hidden & ~there).any()
    for window in range(6):
        r = ratio if isinstance(ratio, float) else ratio[window].item()
        mine, is_base = hidden[window], there[window]
        if over == "letters":
            for row in range(5):
                n = int(is_base[:, row].sum())
                assert int(mine[:, row].sum()) == min(max(1, round(r * n)), n)
        elif over == "columns":
            columns = mine[:, 0].nonzero().flatten().tolist()  # the reference has a base everywhere
            assert len(columns) == max(1, round(r * 32))
            assert torch.equal(mine, is_base & mine[:, :1])
            assert positions[window, : len(columns)].tolist() == columns
        else:
            rows = mine.any(0)
            assert int(rows.sum()) == max(1, round(r * int(is_base.any(0).sum())))
            assert torch.equal(mine, is_base & rows)


def test_hidden_letters_of_other_species_are_zeros_in_the_input():
    model = AlignmentModel(ModelConfig(4, 32, 1, 2, 64, 0.0))
    codes = letters()
    masked = codes.clone()
    masked[0, 3, 1] = MASK
    vector, other = model.one_hot(masked)[0, 3], model.one_hot(codes)[0, 3]
    assert vector[6:11].tolist() == [0] * 5
    assert torch.equal(vector[11:], other[11:])
    assert torch.equal(vector[:6], other[:6])


@pytest.mark.parametrize("over", ["letters", "columns", "rows"])
def test_only_hidden_letters_change_and_the_shares_are_those_of_the_reference(over):
    codes = letters(400, 32)
    batch = {"codes": codes, "reverse": torch.arange(400) % 2 == 1}
    species = torch.tensor([1.0, 0.1, 0.2, 0.3, 0.4])
    masked = hide_letters(batch, 0.5, generator(1), MaskingConfig(), species, over)
    turned = turn_strands(codes, batch["reverse"])
    hidden, _ = hidden_letters(turned, 0.5, generator(1), over)
    assert torch.equal(masked.codes[~hidden], turned[~hidden])
    shown, own = masked.codes[hidden], turned[hidden]
    assert (shown == MASK).float().mean().item() == pytest.approx(0.8, abs=0.02)
    assert ((shown != MASK) & (shown != own)).float().mean().item() == pytest.approx(0.075, abs=0.01)
    assert shown.min() >= 1


@pytest.mark.parametrize("loss_weight", ["none", "inverse_ratio"])
@pytest.mark.parametrize("ratio", RATIOS, ids=["one", "each"])
@pytest.mark.parametrize("over", ["letters", "columns", "rows"])
def test_the_loss_is_the_formula_written_out(over, ratio, loss_weight):
    model = AlignmentModel(ModelConfig(4, 32, 2, 2, 64, 0.0), seed=1)
    species = torch.tensor([1.0, 0.1, 0.2, 0.3, 0.4])
    objective = AllSpecies(32, species, over, seed=2)
    with torch.no_grad():
        objective.decoder.weight.add_(torch.randn(16, 32, generator=generator(4)))
    codes = letters()
    soft = (torch.rand(6, 32, generator=generator(3)) < 0.3).to(torch.uint8) * SOFT_MASK
    codes[..., 0] |= soft
    batch = {"codes": codes, "reverse": torch.zeros(6, dtype=torch.bool)}
    batch["conservation"] = torch.rand(6, 2, 32, generator=generator(5))
    config = MaskingConfig(label_flip=0.0)
    loss = objective(model, batch, ratio, generator(7), config, loss_weight)
    masked = hide_letters(batch, ratio, generator(7), config, species, over)
    tokens = codes & TOKEN_BITS
    hidden, _ = hidden_letters(tokens, ratio, generator(7), over)
    weights, _ = position_weights(codes, batch["conservation"], config)
    with torch.no_grad():
        encoded = model.encode(masked.codes)
        own = model.head(encoded).double().log_softmax(-1)
        others = objective.decoder(model.head.features(encoded)).double().view(6, 32, 4, 4).log_softmax(-1)
    total = hidden_weight = every = 0.0
    for b, column, row in ((tokens >= 1) & (tokens <= 4)).nonzero().tolist():
        w = weights[b, column].item() * species[row].item()
        every += w
        if not hidden[b, column, row]:
            continue
        letter = int(tokens[b, column, row])
        log_p = own[b, column, letter] if row == 0 else others[b, column, row - 1, letter - 1]
        r = ratio if isinstance(ratio, float) else ratio[b].item()
        n = 5 if over == "rows" else 32
        r = 1 / n if round(r * n) < 1 else r
        hidden_weight += w
        total -= w * log_p.item() / (r if loss_weight == "inverse_ratio" else 1.0)
    assert loss.item() == pytest.approx(total / (every if loss_weight == "inverse_ratio" else hidden_weight), rel=1e-5)


def test_labels_flip_for_all_species_where_nothing_is_conserved():
    codes = torch.randint(1, 5, (200, 32, 4), dtype=torch.uint8, generator=generator())
    batch = {"codes": codes, "reverse": torch.zeros(200, dtype=torch.bool), "conservation": torch.zeros(200, 2, 32)}
    batch["conservation"][:, 0, :16] = 0.9
    masked = hide_letters(batch, 1.0, generator(), MaskingConfig(), torch.ones(4), "letters")
    same = masked.labels == codes.long()
    assert same[:, :16].all()
    assert same[:, 19:].float().mean((0, 1)).tolist() == pytest.approx([0.625] * 4, abs=0.03)


def test_validation_and_export_are_those_of_the_reference(small):
    task = DnaModality(small)
    module = task.build(task.sampler())
    plain_task = DnaModality(replace(small, targets="reference"))
    plain = plain_task.build(plain_task.sampler())
    batch = task.windows.batch(np.arange(8))
    for it in (module, plain):
        it.eval()
    draws = [MaskDraw(0.15, generator(1)) for _ in range(2)]
    assert module.masked_loss(batch, draws[0]).item() == plain.masked_loss(batch, draws[1]).item()
    module.train()
    assert module.masked_loss(batch, MaskDraw(0.15, generator(1))).item() != draws[1].ratio
    run = pretrain(replace(small, out=Path("run")))
    found = load_model(run.path)
    assert set(found.model.state_dict()) == set(plain.model.state_dict())
    assert read_json(run.path / "model" / "config.json")["targets"] == "all"
    assert read_json(run.path / "facts.json")["species_weights"] == pytest.approx([1, 1 / 3, 1 / 3, 1 / 3], abs=1e-5)


@pytest.mark.parametrize("over", ["letters", "columns", "rows"])
def test_training_on_all_letters_lowers_the_held_out_loss_of_the_reference(small, over):
    from r2mae_dna.probe import probe

    losses = {}
    for steps in (1, 40):
        run = pretrain(replace(small, mask_over=over, steps=steps, dropout=0.0, out=Path(f"{over}{steps}")))
        losses[steps] = {r.metric: r.value for r in run.results()}["loss@0.15"]
    assert losses[40] < 0.97 * losses[1]
    probed = probe(Probe(run.path, small.data, max_windows=32, device="cpu", out=Path("probe"))).results()
    assert {r.metric: r.value for r in probed}["loss@0.15"] > 0


@pytest.mark.parametrize("changes", [{}, {"mask_over": "rows", "ratio_per": "sample", "loss_weight": "inverse_ratio"}])
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(small, monkeypatch, changes):
    import lightning.pytorch as pl

    class StopAt(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 5:
                raise RuntimeError("power cut")

    config = replace(small, species_weights="similarity", **changes)
    whole = pretrain(replace(config, out=Path("whole")))
    original = DnaModality.callbacks
    with monkeypatch.context() as patch:
        patch.setattr(DnaModality, "callbacks", lambda *a: [*original(*a), StopAt()])
        with pytest.raises(RuntimeError, match="power cut"):
            pretrain(replace(config, out=Path("cut")))
    resumed = pretrain(replace(config, out=Path("cut")))
    one, two = (load_model(run.path).model.state_dict() for run in (whole, resumed))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_near_copies_share_a_weight():
    rng = np.random.default_rng(0)
    codes = rng.integers(1, 5, (4000, 5))
    codes[:, 1] = np.where(rng.random(4000) < 0.85, codes[:, 0], codes[:, 1])  # 0.89 the same as the reference
    codes[:, 3] = np.where(rng.random(4000) < 0.85, codes[:, 2], codes[:, 3])
    codes[rng.random(4000) < 0.5, 3] = 0  # a gap is not compared
    codes[:, 4] = 0
    assert similarity_weights(codes.astype(np.uint8)).tolist() == [0.5, 0.5, 0.5, 0.5, 1.0]


def test_the_weights_of_a_tree_are_the_published_rule_by_hand():
    tree = Phylo.read(StringIO(TREE), "newick")
    # mm9 0.1 + 0.3 · 1/3, rn4 0.2 + 0.3 · 2/3, hg18 0.4 + 0.1 · 4/9, canFam2 0.5 + 0.1 · 5/9
    found = phylogeny_weights(tree, ["mm9", "rn4", "hg18", "canFam2"], "t")
    assert found.tolist() == pytest.approx([0.2, 0.4, 0.4 + 0.4 / 9, 0.5 + 0.5 / 9])
    # Without hg18, canFam2 has both of its branches.
    assert phylogeny_weights(tree, ["mm9", "canFam2"], "t").tolist() == pytest.approx([0.4, 0.6])
    assert sum(found) == pytest.approx(tree.total_branch_length())
    even = Phylo.read(StringIO("((a:0,b:0):1,c:1);"), "newick")
    assert phylogeny_weights(even, ["a", "b", "c"], "t").tolist() == [0.5, 0.5, 1.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("((mm9:0.1,rn4:0.2):0.3,hg18:0.4);", "lacks 1 of 4 species (canFam2)"),
        ("((mm9:0.1,rn4:0.2):0.3,(hg18:0.4,canFam2):0.1);", "the branch to canFam2 has the length None"),
        ("((mm9:0.1,rn4:0.2):0.3,(hg18:0.4,canFam2:-1):0.1);", "the branch to canFam2 has the length -1"),
        ("((mm9:0.1,rn4:0.2):0.3,(hg18:0.4,canFam2:0.1):0.1,rn4:1);", "has several leaves 'rn4'"),
        ("((mm9:0.1,rn4", "Newick tree"),
        ("", "holds 0 Newick trees"),
        (f"{TREE}\n{TREE}", "holds 2 Newick trees"),
    ],
)
def test_a_tree_that_does_not_fit_is_refused(small, text, message):
    Path("t.nwk").write_text(text)
    with pytest.raises(UserError) as error:
        pretrain(replace(small, species_weights="phylogeny", tree=Path("t.nwk"), out=Path("run")))
    assert message in str(error.value)
    assert not Path("run").exists()


def test_a_tree_reaches_the_loss(small):
    Path("t.nwk").write_text(TREE)
    config = replace(small, species_weights="phylogeny", tree=Path("t.nwk"), others_weight=2.0)
    task = DnaModality(config)
    raw = np.array([0.4, 0.4 + 0.4 / 9, 0.5 + 0.5 / 9])
    assert task.build(task.sampler()).all_species.weights.tolist() == pytest.approx([1, *(2 * raw / raw.sum())])
    assert read_tree(Path("t.nwk")).count_terminals() == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": "reference", "mask_over": "rows"}, "--mask_over (for --targets all) does not apply to"),
        ({"targets": "reference", "others_weight": 0.5}, "--others_weight (for --targets all) does not apply to"),
        (
            {"mask_shape": "spans"},
            "--mask_shape spans hides columns together, and does not go with --mask_over letters",
        ),
        ({"species_weights": "phylogeny"}, "--species_weights phylogeny and --tree FILE need each other"),
        ({"tree": Path("t")}, "--species_weights phylogeny and --tree FILE need each other"),
        ({"mask_ratio": "cl"}, "--targets all does not go together with the learned loss weights of a curriculum"),
    ],
)
def test_options_that_do_not_fit_are_refused(small, changes, message):
    with pytest.raises(UserError) as error:
        pretrain(replace(small, **{"out": Path("run"), **changes}))
    assert message in str(error.value)


def test_spans_of_columns(small):
    run = pretrain(replace(small, mask_over="columns", mask_shape="spans", mean_span=4.0, steps=3, out=Path("run")))
    assert {r.metric for r in run.results()} >= {"loss@0.15"}
