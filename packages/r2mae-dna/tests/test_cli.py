import gzip
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pysam
import pytest
import yaml

from r2mae_core import read_records
from r2mae_dna.data.samples import APES, APES_TRAINING, VARIANTS, VERTEBRATES, sample_path

CPU = ["--device", "cpu", "--no-progress"]
TINY = ["--steps", "40", "--batch_size", "32", "--lr", "0.003", "--warmup", "0.1", *CPU]


def test_from_maf_to_evaluated_variants(call, tmp_path):
    code, out, err = call("msa", "build", "Hsap", sample_path(APES), "--out", "apes", "--no-progress")
    assert (code, err) == (0, "")
    assert "511 blocks, 4 species, 756,410 reference bases on 1 chromosome" in out
    code, out, _ = call("msa", "info", "apes")
    assert code == 0
    assert "22: 51,304,566 long" in out
    assert "Ptro" in out
    code, out, _ = call("msa", "show", "apes", "22:50,618,790-50,618,800", "--dots")
    assert code == 0
    assert "Hsap  " in out
    assert "Ptro  .......GG.." in out
    code, out, _ = call("prepare", "apes", "--out", "w", "--only", APES_TRAINING)
    assert code == 0
    assert "4,965 train windows of 128 bases × 4 species" in out
    code, out, _ = call("pretrain", "w", "-c", "small", "--mask_ratio", "r2mae", "--out", "run", *TINY)
    assert code == 0
    assert "Pretraining a network on 4,965 windows of 128 bases and 3 species beside the reference" in out
    assert "mask ratio uniform from 0.05 to 0.3, drawn at every step (seed 0), on cpu" in out
    assert "Done: run (model/). Next: r2mae-dna score run STORE VARIANTS" in out
    lines = gzip.decompress(sample_path(VARIANTS).read_bytes()).decode().splitlines()
    kept = [line for line in lines if line[0] == "#" or int(line.split("\t")[1]) <= 50_500_000]
    wanted = sum(line[0] != "#" for line in kept)
    Path("in.vcf").write_text("\n".join(kept) + "\n")
    code, out, _ = call("score", "run", "apes", "in.vcf", "--out", "out.vcf.gz", "--min_defined", "1", *CPU)
    assert code == 0
    assert "scored" in out
    with pysam.VariantFile("out.vcf.gz") as scored:
        assert sum(1 for _ in scored) == wanted
    code, out, _ = call(
        "score",
        "frequencies",
        "apes",
        "out.vcf.gz",
        "--out",
        "both.vcf",
        "--name",
        "freq",
        "--min_defined",
        "1",
        *CPU,
    )
    assert code == 0
    code, out, _ = call("evaluate", "both.vcf", "--preset", "rare-common", "--bootstrap", "20", "--out", "evaluated")
    assert code == 0
    assert "positive and" in out
    found = {(r.scheme, r.metric): r.value for r in read_records("evaluated")}
    assert found["R2MAE_LLR", "auroc"] > 0.6
    assert found["R2MAE_FREQ", "auroc"] > 0.6
    assert Path("evaluated/figures/curves.png").read_bytes()[:4] == b"\x89PNG"
    assert call("evaluate", "-c", "evaluated/config.yaml", "--out", "again")[0] == 0
    assert [r.value for r in read_records("again")] == [r.value for r in read_records("evaluated")]
    code, out, _ = call("compare", "evaluated", "--markdown")
    assert code == 0
    assert out.startswith("| scheme (n = 1) | auroc |")


def test_the_vertebrates_are_learned(call, tmp_path):
    """Better than the column's plurality on held-out sequence, and only because the columns are in their places."""
    species = "rn4,hg18,canFam2,bosTau3,loxAfr1,monDom4"
    source = sample_path(VERTEBRATES)
    build = ["--out", "mm9", "--species", species, "--no-progress"]
    assert call("msa", "build", "mm9", source, *build)[0] == 0
    regions = ["--validation_regions", "chr10:3,215,001-3,237,798"]
    assert call("prepare", "mm9", "--out", "w", "--window", "64", "--step", "32", *regions)[0] == 0
    recipe = ["--steps", "200", "--batch_size", "32", "--lr", "0.003", "--warmup", "0.1", "--soft_mask_weight", "1"]
    assert call("pretrain", "w", "-c", "small", "--out", "run", *recipe, "--max_windows", "64", *CPU)[0] == 0
    probe = ["--out", "probe", "--ratios", "[0.15]", "--max_windows", "300", "--device", "cpu"]
    code, out, _ = call("probe", "run", "w", *probe)
    assert code == 0
    assert "300 validation windows on cpu" in out
    found = {(r.scheme, r.metric): r.value for r in read_records("probe")}
    rows = ("r2mae", "plurality of the column", "r2mae, shuffled alignment")
    own, plurality, shuffled = (found[row, "loss@0.15"] for row in rows)
    assert own < plurality < shuffled
    assert found["r2mae", "accuracy@0.15"] > 0.6
    assert found["r2mae", "strand_difference@0.15"] < 0.15
    assert call("probe", "-c", "probe/config.yaml", "--out", "again")[0] == 0
    assert [r.value for r in read_records("again")] == [r.value for r in read_records("probe")]


def test_demo(call, tmp_path):
    argv = ["--seeds", "[0]", "--steps", "12", "--window", "32", "--schemes", '["fixed","r2mae+cl"]', "--out", "run"]
    code, out, err = call("demo", *argv, *CPU)
    assert (code, err) == (0, "")
    for text in ("[1/8] frequencies:", "[8/8] apes-r2mae+cl-0:", "3,", "NOT met (met on 0 of 2", "Run folder: run"):
        assert text in out
    records = read_records("run")
    trained = {"fixed 0.15", "r2mae+cl"}
    metrics = {
        ("rat", "auroc"): {
            "frequencies, then transitions",
            "frequencies",
            "no pretraining",
            "shuffled weights",
            *trained,
        },
        ("rat", "loss@0.15"): {"frequencies", "no pretraining", "shuffled weights", *trained},
        ("chr22", "auroc"): {"frequencies", *trained},
    }
    metrics |= {("rat", "pairwise_accuracy"): metrics["rat", "auroc"], ("chr22", "auprc"): metrics["chr22", "auroc"]}
    metrics |= {("rat", "accuracy@0.15"): metrics["rat", "loss@0.15"]}
    found = {}
    for record in records:
        found.setdefault((record.task, record.metric), {})[record.scheme] = record
    assert {key: set(rows) for key, rows in found.items()} == metrics
    assert all(r.device and r.split == "test" for r in records)
    assert Path("run/figures/demo.png").stat().st_size > 50_000
    assert call("demo", "-c", "run/config.yaml", "--print_config")[0] == 0
    assert "| fixed 0.15 |" in Path("run/table.md").read_text()
    # A dozen steps are enough for what a network that learnt nothing cannot do.
    for metric in ("pairwise_accuracy", "auroc", "accuracy@0.15"):
        values = {row: record.value for row, record in found["rat", metric].items()}
        assert min(values[row] for row in trained) > max(values["no pretraining"], values["shuffled weights"]) + 0.05


def test_reproduce_computes_each_cell_once(call):
    grid = [
        "--schemes",
        '["fixed","r2mae+cl-k0"]',
        "--seeds",
        "[0]",
        "--n_hidden",
        "32",
        "--n_layers",
        "1",
        "--steps",
        "6",
        *CPU,
    ]
    code, out, _ = call("reproduce", "table3", *grid, "--out", "run")
    assert code == 0
    assert "done before" not in out
    code, out, _ = call("reproduce", "table3", *[w.replace("[0]", "[0,1]") for w in grid], "--out", "run")
    assert code == 0
    assert out.count("done before") == 3
    assert "[2/5] fixed-0: done before" in out
    assert Path("run/fixed-1/pretrain/model/config.json").exists()
    assert "| fixed 0.15 |" in Path("run/table3.md").read_text()
    assert {(r.scheme, r.seed) for r in read_records("run")} == {
        ("frequencies", 0), ("fixed 0.15", 0), ("fixed 0.15", 1), ("r2mae+cl-k0", 0), ("r2mae+cl-k0", 1),
    }  # fmt: skip
    code, out, _ = call("reproduce", "table3", *grid, "--dry_run")
    assert code == 0
    assert "2 models of about" in out
    assert "4 models of about" in call("reproduce", "-c", "run/config.yaml", "--seeds", "[0,1]", "--dry_run")[1]


@pytest.mark.slow
def test_reproduce_on_two_devices(tmp_path):
    words = ["reproduce", "table3", "--schemes", '["fixed","r2mae"]', "--seeds", "[0]", "--n_hidden", "32",
             "--n_layers", "1", "--steps", "4", "--devices", "2", "--device", "cpu", "--out", "run"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "r2mae_dna.cli", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=400)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Done: run") == 1
    assert {(r.scheme, r.metric) for r in read_records(tmp_path / "run")} == {
        (scheme, metric) for scheme in ("frequencies", "fixed 0.15", "r2mae") for metric in ("auroc", "auprc")
    }


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["pretrain", "w", "--hidden", "64"], "--hidden is now written --n_hidden"),
        (["pretrain", "w", "--layers=2"], "--layers is now written --n_layers"),
        (["pretrain", "w", "--heads", "2"], "--heads is now written --n_heads"),
        (["pretrain", "-c", "old.yaml"], "old.yaml has windows, which is now written data"),
        (["probe", "-c", "old.yaml"], "old.yaml has windows, which is now written data"),
        (["prepare", "s", "--validation", "chr1"], "--validation is now written --validation_regions"),
        (["prepare", "s", "--test", "chr1"], "--test is now written --test_regions"),
        (["demo", "--n_seeds", "1"], "--n_seeds is now written --seeds, a list such as [0,1,2]"),
        (["reproduce", "table3", "--windows", "w"], "--windows is now written --data"),
    ],
)
def test_old_spellings_answer_with_the_new_one(call, argv, message):
    Path("old.yaml").write_text("windows: w\n")
    code, _, err = call(*argv)
    assert code == 2
    assert message in err


def test_a_published_models_folder_names_its_rows(call, apes, toy_model):
    from r2mae_dna.model import AlignmentModel, ModelConfig
    from r2mae_dna.weights import save_model

    save_model(AlignmentModel(ModelConfig(3, 32, 1, 2, 64, 0.0)), Path("gpn-msa"), None)
    assert call("probe", "gpn-msa", apes[1], "--split", "test", "--max_windows", "8", "--out", "p", *CPU)[0] == 0
    assert {(r.scheme, r.seed) for r in read_records("p")} == {
        ("gpn-msa", 0), ("plurality of the column", 0), ("gpn-msa, shuffled alignment", 0),
    }  # fmt: skip


def test_reproduce_puts_ours_beside_the_papers(call, apes, tmp_path):
    # The tables' own layout, filled with the bundled variants: the path that a user of the real tables takes.
    import polars as pl

    from r2mae_dna.data.vcf import read_vcf_frame

    store, windows, variants = apes
    frame = read_vcf_frame(variants, ["AC", "AN"]).with_columns(label=pl.col("AC") <= 2).drop("AC", "AN").head(80)
    rng = np.random.default_rng(0)
    frame = frame.with_columns(CADD=pl.Series(rng.normal(size=len(frame))))
    frame.drop("label").with_columns(label=frame["label"]).write_parquet(tmp_path / "clinvar.parquet")
    classes = pl.Series([("5' UTR", "ncRNA", "Promoter")[i % 3] for i in range(len(frame))])
    frame.with_columns(consequence=classes).write_parquet(tmp_path / "omim.parquet")
    code, out, _ = call(
        "reproduce", "table3", "--data", windows, "--msa", store, "--clinvar", "clinvar.parquet", "--omim",
        "omim.parquet", "--schemes", '["r2mae"]', "--seeds", "[0,1]", "--model", "tiny", "--steps", "2", "--batch_size",
        "8", "--micro_batch_size", "4", "--patience", "null", "--out", "run", *CPU,
    )  # fmt: skip
    assert code == 0
    assert "(paper 0.148)" in out.replace("\n", " ") or "0.148" in Path("run/table3.md").read_text()
    found = {(r.scheme, r.task, r.metric, r.seed): r.paper for r in read_records("run")}
    assert found["r2mae", "omim", "auprc", 1] == 0.148
    assert found["r2mae", "omim 5' UTR", "auprc", 0] == 0.339
    assert found["r2mae", "clinvar", "auroc", 0] == 0.969
    assert found["CADD", "omim", "partial_auroc", 0] == 0.595
    assert found["r2mae", "omim Promoter", "auprc", 0] is None
    assert ("CADD", "omim", "partial_auroc", 1) not in found


def test_a_dumped_config_replays_to_the_same_model(call, apes):
    _, windows, _ = apes
    others = ["--ratio_per", "sample", "--mask_shape", "spans", "--mean_span", "4", "--loss_weight", "inverse_ratio"]
    assert call("pretrain", windows, "-c", "small", "--out", "a", *TINY[2:], "--steps", "5", *others)[0] == 0
    assert call("pretrain", "-c", "a/config.yaml", "--out", "b", "--no-progress")[0] == 0
    assert "windows_digest" in Path("b/facts.json").read_text()
    assert Path("a/model/model.safetensors").read_bytes() == Path("b/model/model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["msa", "build", "hg", "nowhere.maf", "--out", "s"], "no file nowhere.maf"),
        (["msa", "info", "nowhere"], "no alignment store at nowhere"),
        (["prepare", "nowhere"], "no alignment store at nowhere"),
        (["pretrain", "nowhere"], "no windows at nowhere"),
        (["pretrain", "nowhere", "--device", "cuda"], "'cuda' was requested, but torch"),
        (["probe", "nowhere", "w"], "no model at nowhere"),
        (["score", "frequencies", "s", "x.vcf"], "no file x.vcf"),
        (["evaluate", "nowhere.tsv"], "no file nowhere.tsv"),
        (["compare", "nowhere"], "no results at"),
        (["demo", "--schemes", '["r3mae"]'], "unknown mask scheme 'r3mae' for dna"),
        (["reproduce", "table3", "--omim", "x.parquet"], "the full experiment needs --data, --msa"),
        (["reproduce", "table3", "--data", "w", "--msa", "s"], "--clinvar or --omim"),
        (
            ["reproduce", "table3", "--model", "tiny"],
            "--model (for your own alignment) does not apply to the bundled alignment",
        ),
    ],
)
def test_bad_input_is_one_line_on_stderr(call, argv, message):
    code, _, err = call(*argv)
    assert code == 1
    assert message in err
    assert len(err.splitlines()) == 1


def test_regions_that_cannot_be_shown(call, toy):
    for region, message in [("7:250-301", "ends beyond 7, which is 300 long"), ("9", "has no chromosome '9'")]:
        code, _, err = call("msa", "show", toy[0], region)
        assert code == 1
        assert message in err
    code, out, _ = call("msa", "show", toy[0], "7:95-110")
    assert code == 0
    assert out.splitlines()[1].startswith("hg  ")
    assert out.splitlines()[1][10:].islower()  # soft-masked from 101


def test_usage(call):
    assert call("msa", "--help")[0] == 0
    for words in (["msa"], ["msa", "nonsense"], ["score", "frequencies"]):
        code, _, err = call(*words)
        assert code == 2
        assert err.startswith("r2mae-dna")
        assert "For the options: r2mae-dna" in err
    assert call("msa", "build")[0] == 2
    assert call("nonsense")[0] == 2
    code, out, _ = call("score", "--help")
    assert code == 0
    assert "Stop when more of the reference alleles than this disagree" in " ".join(out.split())


def test_help_is_quick_and_loads_nothing_heavy():
    code = "import sys; sys.argv=['x','pretrain','--help']\nfrom r2mae_dna.cli import main\n"
    code += "try: main()\nexcept SystemExit as e: assert e.code == 0\n"
    code += "heavy = ('torch','numpy','lightning','sklearn','matplotlib','zarr','polars','Bio')\n"
    code += "print([m for m in heavy if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_every_recipe_is_one_of_its_command(call):
    import r2mae_dna.cli as cli
    from r2mae_core import recipes

    found = {(verb, name) for verb in cli.COMMANDS for name in recipes("r2mae_dna", verb)}
    assert found == {("pretrain", "paper"), ("pretrain", "small"), ("sweep", "small"), ("demo", "small")}
    for verb, name in found:
        needed = [] if verb == "demo" else ["w"]
        code, out, _ = call(verb, *needed, "-c", name, "--print_config")
        assert code == 0, (verb, name)
        assert yaml.safe_load(out)


def test_the_small_sweep_trains_the_small_recipe():
    from r2mae_core import recipes

    swept, recipe = (
        yaml.safe_load(Path(recipes("r2mae_dna", verb)["small"]).read_text()) for verb in ("sweep", "pretrain")
    )
    decided = {"mask_ratio", "freeze_steps"}  # by the sweep, and of a curriculum
    assert swept["pretrain"] == {name: value for name, value in recipe.items() if name not in decided}


def test_the_samples_are_the_ones_of_their_provenance():
    import hashlib

    text = sample_path("PROVENANCE.md").read_text()
    for name in (APES, VERTEBRATES, VARIANTS):
        assert hashlib.sha256(sample_path(name).read_bytes()).hexdigest() in text, name
