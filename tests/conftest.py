"""Isolation of every test: float64, seeded, validated, and nothing left behind."""

import gc
import os
import random
from pathlib import Path

# One thread, also in the processes that tests start: two workers with two threads each wait for
# one another, at several times the cost, and a forked process waits for ever for its parent's
# threads. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from bayesdrop.testing import isolated, noise_by_shape
from tests.browser import Browser, browser_path

# What imports and collection make stays to the end: looking through it for garbage took a tenth of
# the tests' time.
gc.disable()

UNLOCK_SEED = os.environ.get("BAYESDROP_UNLOCK_SEED") == "1"


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(autouse=True)
def isolation(request):
    """Clean parameter store, validation on, float64, seed 0; all is restored, threads too.

    With ``BAYESDROP_UNLOCK_SEED=1`` the seed is random; a failing test's report shows it.
    """
    seed = random.SystemRandom().randrange(2**32) if UNLOCK_SEED else 0
    request.node.add_report_section("setup", "seed", str(seed))
    with isolated(seed):
        yield


@pytest.fixture
def data_dir():
    """Local data root of the tests that need real data; they are skipped without one."""
    root = os.environ.get("BAYESDROP_DATA")
    if not root:
        pytest.skip("needs BAYESDROP_DATA, a folder with the data sets")
    return Path(root)


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A headless browser; tests of pages are skipped without one."""
    path = browser_path()
    if path is None:
        pytest.skip("needs Chromium or Chrome")
    with Browser(path, tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture
def same_noise(monkeypatch):
    """Noise that depends on its shape alone, not on the order or the number of draws."""
    noise_by_shape(monkeypatch)
