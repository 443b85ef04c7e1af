"""No command writes over what it reads; what is read is checked; a full disk and a second writer are named."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import anndata
import h5py
import pytest

from r2mae_core import UserError, fingerprint
from r2mae_singlecell import R2MAE, Simulation, prepare_atlas, simulate_atlas
from r2mae_singlecell.data.prepared import read_prepared


def test_no_command_writes_over_what_it_reads(refused, here):
    (here / "l.h5ad").symlink_to("a.h5ad")
    os.link("p.h5ad", "hard.h5ad")
    before = fingerprint(here)
    for argv in (
        ("prepare", "a.h5ad", "--out", "a.h5ad", "--overwrite"),
        ("prepare", "a.h5ad", "--out", "l.h5ad", "--overwrite"),
        ("prepare", "l.h5ad", "--out", "./run/../a.h5ad", "--overwrite"),
        ("embed", "run", "p.h5ad", "--out", "p.h5ad", "--overwrite"),
        ("embed", "run", "p.h5ad", "--out", "hard.h5ad", "--overwrite"),
        ("embed", "run", "p.h5ad", "--out", "run/model/e.h5ad"),
        ("pretrain", "p.h5ad", "--out", "p.h5ad"),
        ("probe", "run", "p.h5ad", "--out", "run"),
        ("reconstruct", "run", "p.h5ad", "--out", "run/x"),
        ("reproduce", "table6", "p.h5ad", "--out", "hard.h5ad"),
    ):
        refused(argv, "is an input of this command|lies inside the input")
    assert fingerprint(here) == before


def test_a_file_that_is_there_is_replaced_only_when_told(refused, call, here):
    (here / "mine.h5ad").write_text("mine")
    size = ("--n-donors", 6, "--n-cells", 30, "--n-genes", 20)
    for argv in (("prepare", "a.h5ad", "--no-progress"), ("embed", "run", "p.h5ad"), ("simulate", *size)):
        refused((*argv, "--out", "mine.h5ad"), "mine.h5ad is there already; give --overwrite")
        refused(
            (*argv, "--out", "run", "--overwrite"), "run is a folder; name a file|lies inside|is an input|ends in .h5ad"
        )
        assert (here / "mine.h5ad").read_text() == "mine"
        assert call(*argv, "--out", "mine.h5ad", "--overwrite")[0] == 0
        anndata.read_h5ad("mine.h5ad")
        (here / "mine.h5ad").write_text("mine")


def test_a_failed_start_leaves_nothing(refused, here):
    before = sorted(here.rglob("*"))
    for argv, message in {
        ("prepare", "a.h5ad", "--out", "new/x.h5ad", "--counts", "layers/none"): "no counts at layers/none",
        ("prepare", "a.h5ad", "--out", "new/x.h5ad", "--min_genes", 99): "no cell has 99 of the 40 variable genes",
        ("prepare", "a.h5ad", "--out", "new/x.h5ad", "--n_genes", 0): "--n_genes must be at least 1",
        ("prepare", "a.h5ad", "--out", "new/x.h5ad", "--target_sum", 0): "--target_sum must be above 0",
        ("pretrain", "p.h5ad", "--out", "new", "--epochs", -1): "--epochs must be at least 1",
        ("pretrain", "p.h5ad", "--out", "new", "--lr", 0): "--lr must be above 0",
        ("pretrain", "p.h5ad", "--out", "new", "--mask_ratio", "nonsense"): "unknown mask scheme",
        ("probe", "run", "p.h5ad", "--out", "new", "--baselines", "[obsm:X]"): "adata.obsm has no 'X'; its keys: none",
        ("probe", "run", "p.h5ad", "--out", "new", "--baselines", "[scvi=0]"): "unknown baseline 'scvi=0'",
        ("probe", "run", "p.h5ad", "--out", "new", "--baselines", "[pca,pca]"): "--baselines has pca more than once",
        ("probe", "run", "p.h5ad", "--out", "new", "--tasks", "[]"): "--tasks is empty",
        (
            "probe",
            "run",
            "p.h5ad",
            "--out",
            "new",
            "--train_share",
            2,
        ): "--train_share must be at least 0 and at most 1",
        ("reconstruct", "run", "p.h5ad", "--out", "new", "--ratios", "[0.1,0.10]"): "--ratios has 0.1 more than once",
        ("reconstruct", "run", "p.h5ad", "--out", "new", "--ratios", "[]"): "--ratios is empty",
        ("reproduce", "table8", "p.h5ad", "--out", "new", "--schemes", "[]", "--baselines", "[pca]"): "has no rows",
        ("reproduce", "table6", "p.h5ad", "--out", "new", "--baselines", "[obsm:X]"): "adata.obsm has no 'X'",
        ("reproduce", "table6", "p.h5ad", "--dry-run", "--epochs", -1): "--epochs must be at least 1",
        ("simulate", "--out", "new/x.h5ad", "--age_effect", "1e308"): "--age_effect must be",
        ("demo", "--out", "new", "--seeds", "[0,0]"): "--seeds has 0 more than once",
    }.items():
        refused(argv, message)
    assert sorted(here.rglob("*")) == before


def test_every_flipped_bit_of_prepared_data_is_noticed_or_means_nothing(here):
    whole, original = Path("p.h5ad").read_bytes(), read_prepared(Path("p.h5ad")).to_memory()
    silent = [at for at in range(0, len(whole), len(whole) // 60) if not _noticed(whole, at, original)]
    assert len(silent) < 40


def _noticed(whole, at, original):
    """Flip a bit of prepared data; where that is not noticed, the data are as they were."""
    flipped, file = bytearray(whole), Path(f"flipped-{at}.h5ad")
    flipped[at] ^= 1 << (at % 8)
    file.write_bytes(flipped)
    try:
        adata = read_prepared(file).to_memory()
    except UserError:
        return True
    assert (adata.X != original.X).nnz == 0
    assert adata.obs.equals(original.obs)
    assert adata.var_names.equals(original.var_names)
    return False


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"[1, 2]", "half"])
def test_damaged_data_and_models_are_named(refused, here, content):
    for name, argv in {
        "a.h5ad": ("prepare", "a.h5ad", "--out", "x.h5ad"),
        "p.h5ad": ("pretrain", "p.h5ad", "--out", "x"),
        "run/model/model.json": ("embed", "run", "p.h5ad", "--out", "x.h5ad"),
        "run/model/model.safetensors": ("embed", "run", "p.h5ad", "--out", "x.h5ad"),
        "run/model/SHA256SUMS": ("embed", "run", "p.h5ad", "--out", "x.h5ad"),
        "run/config.yaml": ("probe", "run", "p.h5ad", "--out", "x"),
    }.items():
        whole = Path(name).read_bytes()
        Path(name).write_bytes(whole[: len(whole) // 2] if content == "half" else content)
        if name.endswith("SUMS") and not content:
            continue  # an empty list of checksums holds none that is wrong
        refused(argv, re.escape(Path(name).name))
        assert not [*Path.cwd().glob("x*")]
        Path(name).write_bytes(whole)


def test_a_flipped_bit_in_a_model_is_noticed(refused, here):
    for name in ("model.safetensors", "model.json"):
        file = here / "run" / "model" / name
        whole = file.read_bytes()
        for at in (len(whole) // 3, len(whole) - 5):
            file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            refused(("embed", "run", "p.h5ad", "--out", "x.h5ad"), f"{name} is (damaged|not)")
        file.unlink()
        refused(("embed", "run", "p.h5ad", "--out", "x.h5ad"), f"{name} is missing|no finished model")
        file.write_bytes(whole)


def test_a_model_file_imports_and_calls_nothing(here):
    (here / "run" / "model" / "SHA256SUMS").unlink()
    file = here / "run" / "model" / "model.json"
    described = json.loads(file.read_text())
    described.pop("sha256")
    popen = {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", str(here / "ran")]}}
    for evil in (popen, {"class_path": "r2mae_core.Curriculum", "init_args": {"ratio": popen, "n_columns": 1}}):
        described["arguments"]["mask_ratio"] = evil
        file.write_text(json.dumps(described))
        with pytest.raises(UserError, match=r"subprocess\.Popen"):
            R2MAE.from_export(here / "run" / "model")
        assert not (here / "ran").exists()


@pytest.mark.filterwarnings("ignore:.*zarr.*", "ignore:.*Consolidated.*", "ignore:.*separators.*", "ignore:.*codec.*")
def test_a_zarr_store_with_a_codec_that_runs_code_is_refused(here):
    simulate_atlas(Simulation(n_donors=20, n_cells=120, n_genes=40, unknown=0.0)).write_zarr(here / "a.zarr")
    prepare_atlas(here / "a.zarr", here / "x.h5ad", n_genes=30, progress=False)
    for name, described in {
        ".zarray": {"filters": [{"id": "pickle"}], "compressor": None},
        "zarr.json": {"node_type": "array", "codecs": [{"name": "numcodecs.pickle", "configuration": {}}]},
    }.items():
        (here / "a.zarr" / "obs" / "evil").mkdir(exist_ok=True)
        (here / "a.zarr" / "obs" / "evil" / name).write_text(json.dumps(described))
        with pytest.raises(UserError, match=f"{name} uses the codec 'pickle', which can run code"):
            prepare_atlas(here / "a.zarr", here / "y.h5ad", n_genes=30, progress=False)
        shutil.rmtree(here / "a.zarr" / "obs" / "evil")


def test_data_in_another_file_are_not_followed(here):
    with h5py.File("a.h5ad", "r+") as file:
        del file["obs/disease"]
        file["obs/disease"] = h5py.ExternalLink("secret.h5", "/x")
    with h5py.File("p.h5ad", "r+") as file:
        shape, dtype = file["X/data"].shape, file["X/data"].dtype
        del file["X/data"]
        file["X"].create_dataset("data", shape, dtype, external=[("secret.bin", 0, h5py.h5f.UNLIMITED)])
    with pytest.raises(UserError, match="obs/disease lies in another file, which is not followed"):
        prepare_atlas(here / "a.h5ad", here / "x.h5ad", progress=False)
    with pytest.raises(UserError, match="X/data lies in another file"):
        read_prepared(here / "p.h5ad")


def test_columns_that_are_none_are_noticed_before_they_are_added_up(here):
    with h5py.File("a.h5ad", "r+") as file:
        file["raw/X/indices"][7] = 2_000_000_000
    with pytest.raises(UserError, match=r"a.h5ad cannot be read: it is damaged"):
        prepare_atlas(here / "a.h5ad", here / "x.h5ad", progress=False)


def test_a_full_disk_is_named_and_the_older_output_is_whole(refused, here, monkeypatch):
    (here / "old.h5ad").write_text("old")
    before = sorted(here.rglob("*"))

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    size = ("--n-donors", 6, "--n-cells", 30, "--n-genes", 20)
    for argv in (("prepare", "a.h5ad", "--no-progress"), ("embed", "run", "p.h5ad"), ("simulate", *size)):
        refused((*argv, "--out", "old.h5ad", "--overwrite"), "does not have|is full|are free")
        assert (here / "old.h5ad").read_text() == "old"
    assert sorted(here.rglob("*")) == before


def test_a_second_writer_is_refused(refused, here):
    code = (
        "import sys, pathlib; from r2mae_core import one_writer\n"
        "with one_writer(pathlib.Path('x.h5ad'), folder=False), one_writer(pathlib.Path('x')):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        for argv in (
            ("prepare", "a.h5ad", "--out", "x.h5ad"),
            ("embed", "run", "p.h5ad", "--out", "x.h5ad"),
            ("simulate", "--out", "x.h5ad"),
            ("pretrain", "p.h5ad", "--out", "x"),
            ("probe", "run", "p.h5ad", "--out", "x"),
        ):
            refused(argv, f"is being written by process {other.pid}")
        other.stdin.close()
    assert not [*Path.cwd().glob("x*")]
