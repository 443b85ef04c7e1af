"""scvi-hub: written, read by scvi-tools' HubModel, and the same model; no network."""

import numpy as np
import pytest
import scvi

from r2mae_core import UserError
from r2mae_singlecell import R2MAE
from r2mae_singlecell.hub import write_hub_model

pytest.importorskip("requests", reason="scvi.hub imports it; the extra `hub` brings it")
pytest.importorskip("huggingface_hub", reason="the extra `hub` brings it")


@pytest.mark.parametrize("save_anndata", [True, False])
def test_round_trip(trained, tmp_path, make_adata, same_weights, save_anndata):
    given = {"license": "cc-by-4.0", "title": "Two types", "description": "Counts that were drawn."}
    write_hub_model(trained, tmp_path / "hub", save_anndata=save_anndata, **given)
    hub = scvi.hub.HubModel(str(tmp_path / "hub"))
    assert (hub.metadata.model_cls_name, hub.metadata.model_parent_module) == ("R2MAE", "r2mae_singlecell")
    for text in ("license: cc-by-4.0", "# Two types", "Counts that were drawn.", "| genes | 40 |", "uniform from 0.1"):
        assert text in hub.model_card.content
    data = make_adata()
    hub.load_model(None if save_anndata else data, accelerator="cpu")
    assert isinstance(hub.model, R2MAE)
    assert same_weights(hub.model, trained)
    assert same_weights(R2MAE.from_export(tmp_path / "hub" / "r2mae_export"), trained)
    assert np.array_equal(hub.model.get_latent_representation(), trained.get_latent_representation())
    with pytest.raises(UserError, match="already exists"):
        write_hub_model(trained, tmp_path / "hub", **given)
