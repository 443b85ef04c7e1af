import importlib.util
import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

settings.register_profile("ci", derandomize=True, deadline=None)
settings.load_profile("ci")
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # these tests hold on any machine; GPU checks are benchmarks
torch.set_num_threads(1)  # small tensors; threads would only wait for each other

# Tests, workers and the ranks of a two-process test share a model, a modality and a sweep: `import tiny, toy, swept`.
for _name in ("tiny", "toy", "swept", "hub_stand_in", "shared_toy", "page_reader"):
    _spec = importlib.util.spec_from_file_location(_name, Path(__file__).with_name(f"{_name}.py"))
    sys.modules[_name] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules[_name])


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a default run folder never lands in the checkout
