"""R2MAE on an AnnData, as in scvi-tools: 700 real blood cells, their embedding, and imputed counts."""

import warnings

import numpy as np
from sklearn.neighbors import KNeighborsClassifier

from r2mae_singlecell import R2MAE
from r2mae_singlecell.data.pbmc import load_pbmc

warnings.filterwarnings("ignore")  # of scanpy's and anndata's own deprecations

adata = load_pbmc()
R2MAE.setup_anndata(adata)
model = R2MAE(adata, n_hidden=64, n_latent=16, mask_ratio="r2mae")  # or "fixed", 0.25, "r2mae+cl", Uniform(0.1, 0.5)
model.train(max_epochs=30, batch_size=64, accelerator="cpu", enable_progress_bar=False)
adata.obsm["X_r2mae"] = model.get_latent_representation()

train = np.random.default_rng(0).random(adata.n_obs) < 0.7
labels = adata.obs["cell_type"].to_numpy()
classifier = KNeighborsClassifier(9).fit(adata.obsm["X_r2mae"][train], labels[train])
accuracy = classifier.score(adata.obsm["X_r2mae"][~train], labels[~train])
largest = max(np.mean(labels[~train] == kind) for kind in np.unique(labels))
print(
    f"cell types of held-out cells: {accuracy:.3f} right by nearest neighbours; the largest class alone {largest:.3f}"
)
imputed = model.get_reconstruction(mask_ratio=0.25)  # no value was computed from the count that it stands for
print("imputed counts:", imputed.shape)
assert accuracy > largest + 0.1
