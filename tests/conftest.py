import gc
import os

# The tests' tensors are small, tests run side by side, and results then agree with the loader's workers.
os.environ["OMP_NUM_THREADS"] = "1"  # also of the kernels and processes that tests start; before torch is loaded

import matplotlib.pyplot as plt
import pytest
import torch

from ctlib.data import arrow
from ctlib.data.catalog import load_samples
from ctlib.display import plotting

TINY = arrow.ArrowConfig(train_clips=32, val_clips=32, size=32, difficulty=0.2)


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))


def pytest_collection_finish():
    """What is imported by now stays. Accelerate and torch collect garbage often, and no longer look through it."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    gc.unfreeze()  # else extensions report at exit that objects are left


@pytest.fixture(autouse=True)
def one_thread():
    """Whatever a test asks for, the next one has a thread again."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def arrow_root(tmp_path_factory):
    """A small Arrow of Time data set, as files."""
    return arrow.write(TINY, tmp_path_factory.mktemp("data") / "arrow", workers=0)


@pytest.fixture
def train_samples(arrow_root):
    return load_samples("arrow", arrow_root, "train")


@pytest.fixture
def val_samples(arrow_root):
    return load_samples("arrow", arrow_root, "val")


@pytest.fixture
def figures_closed():
    """The study's style on a backend without a screen; what a test leaves open is closed."""
    plt.switch_backend("agg")
    plotting.use_style()
    yield
    plt.close("all")
