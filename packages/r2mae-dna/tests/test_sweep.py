"""`sweep` trains, evaluates by variants or by the held-out loss, and refuses what cannot be evaluated at the start."""

import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from dna_files import vcf
from r2mae_core import Fixed, UserError, read_json, read_records
from r2mae_dna.data.windows import prepare
from r2mae_dna.evaluate import evaluate_table
from r2mae_dna.options import Evaluate, Prepare, Pretrain, Score, Sweep
from r2mae_dna.pretrain import pretrain
from r2mae_dna.score import score_variants
from r2mae_dna.sweep import evaluation_of, pretrain_options, shortened, sweep

TINY = {"n_hidden": 32, "n_layers": 2, "n_heads": 2, "steps": 5, "batch_size": 8, "lr": 3e-3, "max_windows": 16}
FEW = {"ratios": (0.15, 0.5), "ranges": ((0.05, 0.3),), "budget_runs": 1.6, "device": "cpu", "progress": False}


@pytest.fixture
def data(toy, tmp_path):
    """The toy store, windows of it with validation, and labelled variants in a table."""
    store, codes = toy
    prepare(Prepare(store, out=tmp_path / "w", window=32, step=1, validation_regions="7:201-300"))
    letters = "?ACGT"
    rng, rows = np.random.default_rng(1), range(40, 140)
    reference = [letters[codes[i, 0] & 7] for i in rows]
    table = pl.DataFrame(
        {
            "chrom": ["7"] * 100,
            "pos": [i + 1 for i in rows],
            "ref": reference,
            "alt": ["CGTA"["ACGT".index(base)] for base in reference],
            "label": rng.random(100) < 0.5,
            "CADD": rng.normal(size=100),
            "consequence": ["ncRNA", "intron"] * 50,
        }
    )
    table.write_parquet(tmp_path / "mine.parquet")
    return store, tmp_path / "w", tmp_path / "mine.parquet"


def test_a_sweep_by_the_held_out_loss_from_the_command_line(call, data):
    _, windows, _ = data
    given = [f"--pretrain.{name}={value}" for name, value in TINY.items()]
    argv = ["sweep", windows, *given, "--ratios", "[0.15,0.5]", "--ranges", "[[0.05,0.3]]", "--budget_runs", "1.6"]
    code, out, err = call(*argv, "--out", "s", "--seed", "7", "--device", "cpu", "--no-progress")
    assert (code, err) == (0, "")
    assert "No --variants are given, so models are compared by the loss on validation windows" in " ".join(out.split())
    answer = read_json(Path("s/sweep.json"))
    assert (answer["metric"], answer["direction"]) == ("loss@0.15", "min")
    assert [row["arm"] for row in answer["curve"]] == ["0.05-0.3", "0.5", "0.15"]
    assert 0.6 <= answer["runs_spent"] <= 1.6
    trials = sorted(Path("s/trials").glob("*/*/results.json"))
    assert len(trials) == answer["trainings"]
    for file in trials:  # each is what its own pretraining recorded, for the length that its folder names
        run = file.parent / "pretrain"
        found = {r.metric: r.value for r in read_records(file)}
        assert found == {r.metric: r.value for r in read_records(run)}
        assert not (run / "checkpoints").exists()
        config = (run / "config.yaml").read_text()
        assert f"steps: {round(float(file.parent.name) * 5)}\n" in config
        assert f"seed: {file.parent.parent.name.rpartition('seed')[2]}\n" in config
    words = shlex.split(answer["pretrain"])
    assert words[:2] == ["r2mae-dna", "pretrain"]
    code, out, _ = call(*words[1:], "--print_config")  # a command that can be given as it is
    assert code == 0
    assert "n_hidden: 32" in out


def test_a_sweep_by_a_users_variants_compares_their_scores(data, capsys):
    store, windows, table = data
    config = Sweep(windows, variants=table, msa=store, metric="auprc", pretrain=TINY, **FEW)
    run = sweep(replace(config, out=Path("s")))
    answer = read_json(run.path / "sweep.json")
    assert (answer["metric"], answer["direction"]) == ("auprc", "max")
    home = run.path / "trials" / "0.5-seed0" / "0.2"
    score_variants(
        Score(str(home / "pretrain"), store, table, window=32, out=Path("x.parquet"), device="cpu", progress=False)
    )
    expected = evaluate_table(Evaluate(Path("x.parquet"), scores=("r2mae_llr",), bootstrap=0))[0]
    found = {r.metric: (r.task, r.value, r.n) for r in read_records(home)}
    assert found == {r.metric: ("mine", r.value, 100) for r in expected if r.task == "x"}  # of all classes together
    assert len(read_records(home)) == 3
    assert set(found) == {"auroc", "auprc", "partial_auroc"}
    assert f"0.5, seed 0, 20% of the length: {found['auprc'][1]:.4f}" in capsys.readouterr().out


def test_a_vcf_of_rare_and_common_alleles_is_a_users_variants_too(data, toy, tmp_path):
    store, windows, _ = data
    file, codes = tmp_path / "mine.vcf", toy[1]
    text = vcf(file, codes).read_text().splitlines()
    counts = ("AC=1;AN=900", "AC=400;AN=900", "AC=20;AN=900")  # rare, common, neither
    lines = [line.replace("AC=1;AN=9", counts[i % 3]) for i, line in enumerate(text)]
    file.write_text("\n".join(lines) + "\n")
    given = {"variants": file, "msa": store, "pretrain": TINY, **FEW}
    config = Sweep(windows, evaluate={"preset": "rare-common"}, score={"min_defined": 0.5}, **given)
    full = pretrain_options(config)
    found = evaluation_of(config, full, "cpu", tmp_path)
    run = pretrain(replace(full, mask_ratio=Fixed(0.15), steps=1, out=tmp_path / "run"))
    records = found.records(run, tmp_path)
    n = sum(any(f"\t{count}" in line for count in counts[:2]) for line in lines)
    assert [(r.task, r.metric, r.n) for r in records] == [("mine", name, n) for name in found.metrics]
    assert n == 66
    with pytest.raises(UserError, match="cannot be evaluated: a VCF has labels only for --preset rare-common"):
        evaluation_of(Sweep(windows, **given), full, "cpu", tmp_path)


def test_an_interrupted_sweep_goes_on_and_finds_the_same(data, monkeypatch):
    import r2mae_dna.sweep as code

    config = Sweep(data[1], pretrain=TINY, **FEW)
    whole = read_json(sweep(replace(config, out=Path("whole"))).path / "sweep.json")
    calls, original = [], code.stamped

    def cut(records, device):  # after a pretraining, before its records are written
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("power cut")
        return original(records, device)

    with monkeypatch.context() as patch:
        patch.setattr(code, "stamped", cut)
        with pytest.raises(RuntimeError, match="power cut"):
            sweep(replace(config, out=Path("cut")))
    found = read_json(sweep(replace(config, out=Path("cut"))).path / "sweep.json")
    assert {**found, "seconds": whole["seconds"]} == whole


def test_windows_of_the_bundled_alignment_are_compared_by_its_variants(apes, tmp_path):
    _, windows, _ = apes
    config = Sweep(windows, pretrain=TINY, **FEW)
    full = pretrain_options(config)
    found = evaluation_of(config, full, "cpu", tmp_path)
    assert dict(found.metrics) == {"auroc": "max", "auprc": "max"}
    assert "samples" in found.facts
    run = pretrain(replace(full, mask_ratio=Fixed(0.15), steps=1, n_layers=1, out=tmp_path / "run"))
    records = found.records(run, tmp_path)
    assert [(r.metric, r.n, r.scheme) for r in records] == [(m, 3167, "fixed 0.15") for m in ("auroc", "auprc")]


def test_the_pretraining_has_the_options_and_its_share_of_the_steps():
    config = Sweep(
        Path("w"), pretrain={"steps": 50, "ratio_per": "sample", "validate_every": 20, "lr": 1}, device="cpu"
    )
    full = pretrain_options(config)
    assert full == Pretrain(Path("w"), steps=50, ratio_per="sample", validate_every=20, lr=1.0, device="cpu")
    assert shortened(full, 0.2) == replace(full, steps=10, validate_every=10)
    assert shortened(full, 1.0) == full


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "auroc"}, "--metric auroc is not measured here; there is loss@0.15, loss@0.05, loss@0.3"),
        ({"msa": None}, "--variants needs --msa: variants are scored with the alignment store; give both or none"),
        ({"variants": None}, "--msa needs --variants"),
        ({"metric": "f1", "all": True}, "--metric f1 is not measured here; there is auroc, auprc, partial_auroc"),
        ({"all": True, "evaluate": {"label": "truth"}}, "mine.parquet cannot be evaluated: "),
        ({"all": True, "evaluate": {"label": "pos"}}, "labels must be true/false, 1/0"),
        ({"all": True, "variants": Path("one.parquet")}, "one.parquet cannot be evaluated: "),
        ({"all": True, "variants": Path("none.parquet")}, "no file none.parquet"),
        ({"all": True, "msa": Path("other")}, "--msa other has other species than the windows"),
        ({"score": {"window": 8}}, "--score is for --variants, and none are given; leave it out"),
        ({"all": True, "score": {"out": "x"}}, "--score takes no out (the sweep decides it); it takes batch_size"),
        ({"pretrain": {"mask_ratio": 0.5}}, "--pretrain takes no mask_ratio (the sweep decides it)"),
        ({"pretrain": {"stepz": 5}}, "--pretrain takes no stepz; it takes batch_size"),
        ({"pretrain": {"lr": "fast"}}, "--pretrain: "),
        ({"pretrain": {"steps": 4}}, "--pretrain.steps must be at least 5"),
        ({"pretrain": {**TINY, "batch_size": 1000}}, "do not fill a batch of 1,000"),
        ({"pretrain": {**TINY, "n_hidden": 8}}, "need a width of at least"),
        ({"data": Path("trained-on-all")}, "nothing to compare models by: trained-on-all has no validation windows"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_anything_is_trained(data, changes, message):
    from r2mae_dna.data.store import StoreWriter

    store, windows, table = data
    pl.read_parquet(table).with_columns(label=pl.lit(True)).write_parquet("one.parquet")
    writer = StoreWriter(Path("other"), ["hg", "mm", "pt"])
    writer.write("7", np.ones((300, 3), np.uint8))
    writer.close()
    prepare(Prepare(store, out=Path("trained-on-all"), window=32, step=1))
    given = {"data": windows, "pretrain": TINY, "out": Path("s"), **FEW}
    if changes.pop("all", False) or {"msa", "variants"} & set(changes):
        given |= {"variants": table, "msa": store}
    with pytest.raises(UserError) as error:
        sweep(Sweep(**{**given, **changes}))
    assert message in str(error.value)
    assert not list(Path().glob("s/trials/*"))
