import os

import pytest
import torch
from hypothesis import settings

settings.register_profile("ci", derandomize=True, deadline=None)
settings.load_profile("ci")
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # these tests hold on any machine; GPU checks are benchmarks
torch.set_num_threads(1)  # small tensors; threads would only wait for each other


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a default run folder never lands in the checkout
