"""What a Pyro program's trace says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro.poutine as poutine
import torch
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn


def sites(program: Callable[..., object], *args: object) -> dict[str, Any]:
    """Return the sample sites of one run of a program, by name."""
    nodes = poutine.trace(program).get_trace(*args).nodes
    return {name: node for name, node in nodes.items() if node["type"] == "sample"}


def global_sites(program: Callable[..., object], *args: object) -> dict[str, Any]:
    """Return the latent sample sites outside any plate; a plate's choice of rows is not one."""
    return {
        name: node
        for name, node in sites(program, *args).items()
        if not (node["is_observed"] or node["cond_indep_stack"] or site_is_subsample(node))
    }


def gradients(loss: Tensor, module: nn.Module) -> dict[str, Tensor]:
    """Return the gradient of a loss in every parameter of a module, by name."""
    names, parameters = zip(*module.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))
