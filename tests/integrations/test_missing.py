"""Each module that needs a library names its extra where the library is missing."""

import importlib
import sys

import pytest

NEEDS = {
    "lightning": ("lightning.pytorch", r"bayesdrop\[lightning\]"),
    "transformers": ("transformers", r"bayesdrop\[transformers,accelerate\]"),
    "torchmetrics": ("torchmetrics", r"bayesdrop\[torchmetrics\]"),
    "pretrained": ("safetensors.torch", r"bayesdrop\[pretrained\]"),
}


@pytest.mark.parametrize("name", NEEDS)
def test_a_missing_library_is_named_by_its_extra(monkeypatch, name):
    library, extra = NEEDS[name]
    monkeypatch.delitem(sys.modules, f"bayesdrop.integrations.{name}", raising=False)
    monkeypatch.delitem(sys.modules, "pytorch_lightning", raising=False)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=extra):
        importlib.import_module(f"bayesdrop.integrations.{name}")
