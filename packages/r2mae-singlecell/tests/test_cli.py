import json
import subprocess
import sys
import time
from pathlib import Path

import anndata
import numpy as np
import pytest

from r2mae_core import RunFolder, Slope, read_records, sampler_from_config
from r2mae_singlecell.cli import main
from r2mae_singlecell.published import COLUMNS, PUBLISHED, ROWS


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A simulated atlas, prepared by the commands."""
    folder = tmp_path_factory.mktemp("atlas")
    for argv in (
        ["simulate", "--out", folder / "a.h5ad", "--n-donors", 30, "--n-cells", 4000, "--n-genes", 1000],
        ["prepare", folder / "a.h5ad", "--out", folder / "p.h5ad", "--n-genes", 800, "--no-progress"],
    ):
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in argv])
        assert stop.value.code == 0
    return folder / "p.h5ad"


SIZE = ("--n-hidden", 128, "--n-latent", 64, "--batch-size", 100, "--device", "cpu", "--no-progress")


@pytest.fixture(scope="module")
def run(prepared, tmp_path_factory):
    """A model pretrained by the command."""
    out = tmp_path_factory.mktemp("runs") / "r2mae"
    with pytest.raises(SystemExit) as stop:
        main([str(w) for w in ("pretrain", prepared, "--out", out, "--epochs", 50, *SIZE)])
    assert stop.value.code == 0
    return out


def test_probes_beat_shuffled_labels_and_the_expression(call, prepared, run):
    """The end-to-end bar: chance is 0 (age) and 1/8 (cell type); a broken encoder is below the expression itself."""
    argv = ["probe", run, prepared, "--out", "probe", "--n-splits", 2, "--tasks", "[cell_type,age]", "--device", "cpu"]
    code, _, err = call(*argv)
    assert (code, err) == (0, "")
    values = {}
    for record in read_records(Path("probe")):
        values.setdefault((record.scheme, record.metric), []).append(record.value)
    mean = {key: np.mean(value) for key, value in values.items()}
    assert mean["r2mae", "spearman_donor"] > 0.85
    assert mean["r2mae", "spearman_donor"] > mean["shuffled", "spearman_donor"] + 0.4
    assert mean["r2mae", "spearman_cell"] > mean["log-norm", "spearman_cell"] + 0.05
    assert mean["r2mae", "balanced_accuracy"] > 0.9
    assert mean["shuffled", "balanced_accuracy"] < 0.3
    assert "| r2mae |" in Path("probe/table.md").read_text()


def test_reconstruction_beats_the_mean_profile(call, prepared, run):
    code, _, _ = call("reconstruct", run, prepared, "--out", "rec", "--ratios", "[0.3,0.7]", "--device", "cpu")
    assert code == 0
    records = read_records(Path("rec"))
    assert [r.metric for r in records] == ["pearson@0.3", "pearson@0.7"]
    adata = anndata.read_h5ad(prepared)
    from r2mae_singlecell import reconstruction_pearson
    from r2mae_singlecell.data.splitter import pretraining_split

    train, cells = pretraining_split(adata.n_obs)
    mean = np.asarray(adata.X[train].sum(0)).ravel() / adata.X[train].sum()
    plain = reconstruction_pearson(lambda block, hidden: np.tile(mean, (len(block), 1)), adata.X, cells, ratios=(0.3,))
    assert records[0].value > plain[0].value + 0.004


def test_embed(call, prepared, run):
    code, out, _ = call("embed", run, prepared, "--device", "cpu")
    assert code == 0
    (path,) = Path("runs").glob("r2mae-singlecell-embed-*.h5ad")
    assert f"Done: {path} (obs, obsm['X_r2mae'])" in out
    adata = anndata.read_h5ad(path)
    assert adata.obsm["X_r2mae"].shape == (adata.n_obs, 64)
    assert list(adata.obs_names) == list(anndata.read_h5ad(prepared, backed="r").obs_names)


def test_run_folder_and_resume(call, prepared, run):
    files = {"config.yaml", "facts.json", "versions.json", "metrics.csv", "model", "checkpoints", "results.json"}
    assert files == {path.name for path in run.iterdir()}
    code, _, err = call("pretrain", prepared, "--out", run, "--epochs", 51, *SIZE)
    assert code == 1
    assert "holds a run with another config: epochs is 50 there and 51 here" in err


def test_config_replays(call, prepared):
    argv = ["--epochs", 1, "--mask_ratio", "r2mae+cl", "--seed", 3, *SIZE]
    code, out, _ = call("pretrain", prepared, "--out", "one", *argv)
    assert code == 0
    assert "genes), mask ratio one of 10 ratios from 0.1 to 0.5, drawn at every step (seed 3), with learned" in out
    assert f"Done: one (results.json, model/). Next: r2mae-singlecell probe one {prepared}" in out
    assert call("pretrain", "-c", "one/config.yaml", "--out", "two")[0] == 0
    assert Path("one/config.yaml").read_text() == Path("two/config.yaml").read_text()
    weights = [(Path(name) / "model" / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]


def test_pretraining_runs_are_compared(call, prepared, run):
    records = read_records(run)
    assert [record.metric for record in records] == [f"loss@{ratio:g}" for ratio in (0.1, 0.2, 0.3, 0.5, 0.7)]
    assert {(r.scheme, r.task, r.seed, r.split, r.n) for r in records} == {("r2mae", "p", 0, "validation", 400)}
    assert all(record.device for record in records)
    code, out, _ = call("compare", run, "--csv")
    assert code == 0
    assert "r2mae,p,loss@0.5," in out


def test_held_out_loss_is_that_of_the_same_model_read_back(prepared, run):
    from r2mae_singlecell.data.prepared import read_prepared
    from r2mae_singlecell.data.splitter import pretraining_split
    from r2mae_singlecell.pretrain import load_run
    from r2mae_singlecell.reconstruction import held_out_loss

    adata = read_prepared(prepared)
    cells = pretraining_split(adata.n_obs)[1]
    again = held_out_loss(load_run(run, adata, "cpu"), cells)
    assert list(again) == [0.1, 0.2, 0.3, 0.5, 0.7]
    assert list(again.values()) == [r.value for r in read_records(run)]


def test_samplers_on_the_command_line(call, prepared):
    code, out, _ = call(
        "pretrain", prepared, "--out", "u", "--epochs", 1, *SIZE,
        "--mask_ratio", "Uniform", "--mask_ratio.low", 0.2, "--mask_ratio.high", 0.4,
    )  # fmt: skip
    assert code == 0
    assert "uniform from 0.2 to 0.4" in out
    assert (
        json.loads((Path("u") / "model" / "model.json").read_text())["arguments"]["mask_ratio"]["init_args"]["low"]
        == 0.2
    )


@pytest.mark.parametrize(("recipe", "n_steps"), [("hlca", 300_000), ("seaad", 150_000)])
def test_the_papers_slope_is_a_recipe(call, prepared, recipe, n_steps):
    argv = ("-c", f"paper-slope-{recipe}", "--epochs", 1, *SIZE, "--n-hidden", 8, "--n-latent", 4)
    code, out, _ = call("pretrain", prepared, "--out", "slope", *argv)
    assert code == 0
    assert f"mask ratio from 0.5 by {-0.4 / n_steps:g} a step to 0.1" in out
    sampler = sampler_from_config(RunFolder.open(Path("slope")).config["mask_ratio"])
    assert sampler == Slope(0.5, -0.4 / n_steps, 0.1)
    assert sampler.sample(n_steps // 2) == pytest.approx(0.3)
    assert sampler.sample(10 * n_steps) == 0.1


@pytest.mark.slow
@pytest.mark.parametrize(("target", "layout"), [("table4", "seaad"), ("table8", "hlca")])
def test_reproduce_computes_a_table_and_resumes(call, target, layout):
    call("simulate", "--out", "a.h5ad", "--layout", layout, "--n-donors", 32, "--n-cells", 1200, "--n-genes", 150)
    call("prepare", "a.h5ad", "--out", "p.h5ad", "--n-genes", 100, "--no-progress")
    argv = ["reproduce", target, "p.h5ad", "--n-splits", 1, "--epochs", 2, "--seeds", "[0,1]", *SIZE, "--out", "run"]
    argv += ["--schemes", "[fixed,r2mae+cl]", "--max-cells", 20]
    code, out, _ = call(*argv, "--dry-run")
    assert code == 0
    assert "h of pretraining" in out
    code, out, err = call(*argv)
    assert (code, err) == (0, "")
    n_cells = 1 + 2 + 4 if target == "table4" else 2 + 4  # the expression once, scVI twice, two schemes twice
    assert f"[{n_cells}/{n_cells}] r2mae+cl-1: " in out
    assert f"Done: run (results.json, {target}.md)" in out
    records = read_records(Path("run"))
    assert "| fixed 0.25 |" in Path(f"run/{target}.md").read_text()
    assert {"pretrain", target} == {path.name for path in Path("run/fixed-0").iterdir()}
    printed = {(r.scheme, r.task, r.metric): r.paper for r in records}
    for i, (task, metric) in enumerate(COLUMNS[target]):
        assert printed["fixed 0.25", task, metric] == PUBLISHED[target]["fixed"][i]
    start = time.perf_counter()
    code, out, _ = call("reproduce", "-c", "run/config.yaml", "--out", "run")
    assert out.count("done before") == n_cells
    assert time.perf_counter() - start < 20
    assert read_records(Path("run")) == records


def test_tables_of_one_atlas_share_models_and_results(call, prepared, run):
    """A cell's model is trained once; results.json holds every table's cells."""
    argv = ["--schemes", "[r2mae]", "--baselines", "[]", "--seeds", "[0]", "--n-splits", 1, "--max-cells", 20]
    argv += ["--epochs", 1, *SIZE, "--out", "run"]
    assert call("reproduce", "table8", prepared, *argv)[0] == 0
    before = Path("run/r2mae-0/pretrain/model/model.safetensors").stat().st_mtime_ns
    assert call("reproduce", "table6", prepared, *argv)[0] == 0
    assert Path("run/r2mae-0/pretrain/model/model.safetensors").stat().st_mtime_ns == before
    records = read_records(Path("run"))
    assert [r.task for r in records if r.metric == "pearson@0.5"] == ["hlca"]
    assert {(r.task, r.split) for r in records} >= {("age", "test 0"), ("hlca", "validation")}
    assert {"table6.md", "table8.md"} <= {path.name for path in Path("run").iterdir()}


@pytest.mark.parametrize(
    ("target", "row", "score"),
    [
        ("table4", "log-norm", 0.560), ("table4", "scvi", 0.605), ("table4", "fixed", 0.667), ("table4", "low", 0.582),
        ("table4", "high", 0.632), ("table4", "mdlm", 0.678), ("table4", "dynamic", 0.636), ("table4", "cl", 0.654),
        ("table4", "r2mae", 0.697), ("table4", "r2mae+dynamic", 0.665), ("table4", "r2mae+cl", 0.683),
        ("table4", "r2mae+cl-k0", 0.662), ("table6", "log-norm", 0.636), ("table6", "scvi", 0.711),
        ("table6", "fixed", 0.731), ("table6", "low", 0.732), ("table6", "high", 0.729), ("table6", "mdlm", 0.716),
        ("table6", "dynamic", 0.736), ("table6", "cl", 0.741), ("table6", "cl-k0", 0.638), ("table6", "r2mae", 0.744),
        ("table4", "obsm:X_scgpt", 0.486), ("table6", "obsm:X_scgpt_lung", 0.584),
        ("table6", "obsm:X_scgpt_all", 0.586), ("table6", "obsm:X_scgpt_cp", 0.578),
        ("table6", "obsm:X_uce_4l", 0.585), ("table6", "obsm:X_uce_33l", 0.587),
        ("table6", "r2mae+dynamic", 0.744), ("table6", "r2mae+cl", 0.729), ("table6", "r2mae+cl-k0", 0.737),
    ],
)  # fmt: skip
def test_published_rows_have_the_printed_average(target, row, score):
    """The paper prints each row's mean: a slip in copying would show."""
    assert np.mean(PUBLISHED[target][row]) == pytest.approx(score, abs=6e-4)


def test_published_tables_are_complete():
    for target, rows in PUBLISHED.items():
        assert set(rows) <= set(ROWS)
        assert all(len(values) == len(COLUMNS[target]) for values in rows.values())


def test_messages_for_what_cannot_be_done(call, prepared, run, tmp_path):
    for i, (argv, message) in enumerate(
        {
            ("pretrain", "nothing.h5ad"): "no file nothing.h5ad; `r2mae-singlecell prepare",
            ("pretrain", prepared.with_name("a.h5ad")): "was not prepared; run",
            ("pretrain", prepared, "--mask_ratio", "r3mae"): "unknown mask scheme 'r3mae' for singlecell",
            ("pretrain", prepared, "--device", "cuda"): "sees no CUDA GPU",
            ("probe", tmp_path, prepared): "is not a run folder: it has no config.yaml",
            ("pretrain", prepared, "--device", "cpu", "--devices", 2, "--batch-size", 25): "cannot be shared by 2",
            ("probe", run, run, prepared): "is named twice; leave out the repeat",
            ("probe", run, prepared, "--baselines", "[umap]"): "unknown baseline 'umap'",
            ("probe", run, prepared, "--baselines", "[obsm:X_scgpt]"): "adata.obsm has no 'X_scgpt'",
            ("reconstruct", run, prepared, "--baselines", "[pca]"): "'pca' does not predict genes",
            ("probe", prepared, run): "is a data file, not a run folder; the order is r2mae-singlecell probe RUN",
            ("reconstruct", prepared, run): "the order is r2mae-singlecell reconstruct RUN... DATA",
            ("embed", prepared, prepared): "is neither a run folder of pretrain nor a folder that export wrote",
            ("pretrain", prepared, "--batch-size", 100, "--micro_batch_size", 30): "is not a multiple of",
            ("pretrain", prepared, "--micro_batch_size", 1): "micro-batches of one cell are too small",
            ("compare", tmp_path): "no results at",
            ("simulate", "--n-donors", 2): "--n_donors must be at least 6",
        }.items()
    ):
        out = f"out{i}.h5ad" if argv[0] == "embed" else f"out{i}"
        code, _, err = call(*argv, *(("--out", out) if argv[0] not in ("compare", "simulate") else ()))
        assert (code, "Traceback" in err) == (1, False), argv
        assert message in err, err
    code, _, err = call("pretrain", prepared, "--devices", 2)
    assert (code, "several devices need --out DIR" in err) == (1, True)
    assert call("pretrain")[0] == 2
    assert call("probe", run, prepared, "--tasks", "[sex]")[0] == 2
    assert call("prepare", prepared, "--preset", "mouse")[0] == 2
    assert call("train")[0] == 2
    code, _, err = call("demo", "--n_seeds", 3)
    assert (code, "--n_seeds is now written --seeds '[0,1,2]'" in err) == (2, True)


def test_damaged_file(call, prepared, tmp_path):
    (tmp_path / "cut.h5ad").write_bytes(prepared.read_bytes()[:3000])
    code, _, err = call("pretrain", tmp_path / "cut.h5ad")
    assert code == 1
    assert "cannot be read: it is damaged, or not an h5ad file that `r2mae-singlecell prepare` wrote" in err


def test_unfinished_run_is_named(call, prepared, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("mask_ratio: r2mae\nseed: 0\n")
    code, _, err = call("probe", tmp_path / "run", prepared)
    assert code == 1
    assert "has no finished model; run the same pretrain command with --out" in err


@pytest.mark.slow
def test_help_and_import_are_fast():
    code = (
        "import sys, time; t = time.perf_counter(); import r2mae_singlecell; from r2mae_singlecell.cli import main\n"
        "try: main(['pretrain', '--help'])\nexcept SystemExit: pass\n"
        "assert not {'torch', 'scvi', 'anndata', 'scanpy', 'pandas'} & set(sys.modules), sorted(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--mask_ratio" in done.stdout
