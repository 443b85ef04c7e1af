"""A run on the hub: the same embedding from there, by this package without a pickle, and by scvi-tools."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from r2mae_core import UserError
from r2mae_singlecell import R2MAE

pytest.importorskip("requests", reason="scvi.hub imports it; the extra `hub` brings it")
pytest.importorskip("huggingface_hub", reason="the extra `hub` brings it")
sys.path.append(str(Path(__file__).parents[2] / "r2mae-core" / "tests"))

from hub_check import Hub, code_of, push_code, run_python, sent


def test_push_and_load_by_name(made, call, tmp_path):
    import anndata

    run = made / "run"
    assert call("push", run, "lab/cells", "--license", "cc0-1.0", "--dry_run", "--out", "dry")[0] == 0
    card = Path("dry/README.md").read_text()
    for text in (
        "library_name: scvi-tools",
        "- model_cls_name:R2MAE",
        "| genes | 30 |",
        "| data | p.h5ad |",
        "scvi_version:",
    ):
        assert text in card, text
    adata = anndata.read_h5ad(made / "p.h5ad")
    expected = R2MAE.from_pretrained(run, adata=adata).get_latent_representation()
    (theirs,) = (code for library, code in code_of(card).items() if library.startswith("scvi-tools"))
    ask = f"from r2mae_singlecell import R2MAE\nimport anndata\nadata = anndata.read_h5ad({str(made / 'p.h5ad')!r})\n"
    ask += "one = R2MAE.from_pretrained('lab/cells', adata=adata.copy())\n"
    ask += "model.load_model(adata, accelerator='cpu')\n"
    ask += "found = [*(model.get_latent_representation().tolist() for model in (one, model.model))]"
    with Hub() as hub:
        env = hub.environment(tmp_path / "home")
        pushed = f"{push_code('r2mae_singlecell', run, 'lab/cells')}\nfound = code"
        assert run_python(pushed, env, tmp_path) == 0
        # Each snippet begins a process: one must not live on what the other imports.
        ours = next(iter(code_of(card).values()))
        assert run_python(f"{ours}\nfound = model.is_trained_", env, tmp_path)
        one, theirs = run_python(f"{theirs}\n{ask}", env, tmp_path)
        there = sent(hub, "lab/cells")
    assert np.array_equal(np.array(one, np.float32), expected)
    assert np.array_equal(np.array(theirs, np.float32), expected)
    names = {file.relative_to("dry").as_posix() for file in Path("dry").rglob("*") if file.is_file()}
    assert set(there) == names == {
        "README.md", "_scvi_required_metadata.json", "model.pt", "training.png", "r2mae_export/model.json",
        "r2mae_export/model.safetensors", "r2mae_export/SHA256SUMS",
    }  # fmt: skip


def test_save_and_load(trained, tmp_path, same_weights):
    trained.save_pretrained(tmp_path / "m")
    trained.save_pretrained(tmp_path / "m")
    assert same_weights(R2MAE.from_pretrained(tmp_path / "m"), trained)
    card = (tmp_path / "m" / "README.md").read_text()
    assert "uniform from 0.1 to 0.5 (seed 0)." in card  # whether for a step or a cell, the model does not know
    assert 'from_pretrained("OWNER/NAME")' in card
    assert "# R2MAE\n" in card
    assert "| cells of its data, with those held out | 120 |" in card
    with pytest.raises(UserError, match="no exported model"):
        R2MAE.from_pretrained(tmp_path)


def test_a_run_without_a_model(made, call, tmp_path):
    shutil.copytree(made / "run", tmp_path / "r")
    shutil.rmtree(tmp_path / "r" / "model")
    code, _, err = call("push", "r", "a/b", "--license", "mit", "--dry_run")
    assert code == 1
    assert "no finished model" in err
