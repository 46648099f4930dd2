"""Every example in the package's docstrings is run, in float32 as a reader would run it."""

import doctest
import importlib
import pkgutil

import pytest
import torch

import bayesdrop

MODULES = ["bayesdrop", *(m.name for m in pkgutil.walk_packages(bayesdrop.__path__, "bayesdrop."))]
# Those that need a library of their own are imported by their own tests.
ELSEWHERE = ["lightning", "transformers", "torchmetrics", "pretrained"]
MODULES = [m for m in MODULES if m not in {f"bayesdrop.integrations.{name}" for name in ELSEWHERE}]


def examples(name):
    return [t for t in doctest.DocTestFinder().find(importlib.import_module(name)) if t.examples]


@pytest.mark.parametrize("name", [m for m in MODULES if not m.endswith("__main__")])
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for test in examples(name):
        torch.manual_seed(0)
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


def test_examples_are_found():
    assert len(examples("bayesdrop.distributions.kumaraswamy")) >= 1
    assert len(examples("bayesdrop.nn.masks.beta_bernoulli")) >= 1
