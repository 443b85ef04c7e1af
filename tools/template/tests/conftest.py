import os

import numpy as np
import pytest
import torch

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # these tests hold on any machine
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a default run folder never lands in the checkout


@pytest.fixture
def table(tmp_path):
    """300 rows of 12 features that lie near a plane, so that hidden features can be predicted."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 2)) @ rng.normal(size=(2, 12)) + 0.1 * rng.normal(size=(300, 12))
    np.save(tmp_path / "rows.npy", rows)
    return tmp_path / "rows.npy"
