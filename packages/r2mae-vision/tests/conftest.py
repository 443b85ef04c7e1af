import gzip
import os
import struct

import numpy as np
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


@pytest.fixture(scope="session")
def digits():
    from r2mae_vision import load_images

    return load_images("digits")


def _idx_bytes(array, code=0x08):
    return bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def _write_mnist(folder, data, compress=False, **changes):
    """Write the digits in MNIST's own files."""
    arrays = {
        "train-images-idx3-ubyte": data.train_images.view(-1, 8, 8),
        "train-labels-idx1-ubyte": data.train_labels.to(torch.uint8),
        "t10k-images-idx3-ubyte": data.test_images.view(-1, 8, 8),
        "t10k-labels-idx1-ubyte": data.test_labels.to(torch.uint8),
    } | changes
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        content = _idx_bytes(np.asarray(array))
        (folder / (name + ".gz" if compress else name)).write_bytes(gzip.compress(content) if compress else content)


@pytest.fixture(scope="session")
def idx_bytes():
    return _idx_bytes


@pytest.fixture(scope="session")
def write_mnist():
    return _write_mnist
