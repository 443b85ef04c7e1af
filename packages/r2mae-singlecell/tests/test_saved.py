"""What `save` writes is loaded if it is whole and names nothing that could run."""

from pathlib import Path

import pytest
import torch

from r2mae_core import UserError
from r2mae_singlecell import R2MAE


def test_a_saved_model_runs_no_code(trained, tmp_path, caplog, same_weights):
    """Not `save`'s own names: refused, looked up nowhere; with trust=True they run, as scvi-tools would run them."""
    trained.save(tmp_path / "m")
    assert same_weights(R2MAE.load(tmp_path / "m", trained.adata), trained)
    with pytest.raises(UserError, match="already exists"):
        trained.save(tmp_path / "m")
    trained.save(tmp_path / "m", overwrite=True)
    assert [file.name for file in (tmp_path / "m").iterdir()] == ["model.pt"]

    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    content = torch.load(tmp_path / "m" / "model.pt", weights_only=False)
    torch.save({**content, "more": Evil()}, tmp_path / "m" / "model.pt")
    query = trained.adata.copy()
    for call in (
        lambda: R2MAE.load(tmp_path / "m", trained.adata),
        lambda: R2MAE.load(tmp_path / "m", adata=False),
        lambda: R2MAE.load_registry(tmp_path / "m"),
        lambda: R2MAE.view_setup_args(tmp_path / "m"),
        lambda: R2MAE.load_query_data(query, tmp_path / "m"),
        lambda: R2MAE.prepare_query_anndata(query, str(tmp_path / "m")),
    ):
        with pytest.raises(UserError, match=r"model.pt is a pickle that names .*trust=True"):
            call()
    assert not (tmp_path / "ran").exists()
    R2MAE.load(tmp_path / "m", trained.adata, trust=True)
    assert (tmp_path / "ran").exists()
    assert "is a pickle" in caplog.text


def test_a_damaged_saved_model_is_named(trained, tmp_path):
    trained.save(tmp_path / "m")
    file = tmp_path / "m" / "model.pt"
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for content in (whole[:1000], b"", b"no zip", bytes(flipped)):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"model.pt cannot be read: it is damaged, or not a model that save wrote"):
            R2MAE.load(tmp_path / "m", trained.adata)
    with pytest.raises(UserError, match="no saved model in"):
        R2MAE.load(tmp_path / "nowhere")
