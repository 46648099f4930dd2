"""Pruning the units that no training example uses."""

from __future__ import annotations

import torch

from bayesdrop.errors import ConfigError
from bayesdrop.inference.batches import Data, batches
from bayesdrop.nn import RecordedMasks
from bayesdrop.nn.mode import evaluation_mode
from bayesdrop.program.inputs import outputs_of
from bayesdrop.program.network import BayesianNetwork

_ROWS = 1000


@torch.no_grad()
def prune_unused_units(bnn: BayesianNetwork, data: Data) -> dict[str, int]:
    """Prune, for good, the units whose mean mask is zero for every example of ``data``.

    The last step of training with masks that depend on the input. On these examples the
    mean-masked network's outputs stay as they are.

    Args:
        bnn: A trained network with input-dependent dropout layers; changed in place.
        data: The training data.

    Returns:
        Layer name to the number of units pruned now, for the layers that offer it (``prune``).

    Raises:
        ConfigError: If the network has no such layer.
    """
    layers = {name: m for name, m in bnn.named_dropout_layers() if m.input_dependent}
    device = next(bnn.parameters()).device
    used = {layer: torch.zeros_like(layer.kept()) for layer in layers.values()}
    recorder = RecordedMasks()
    with evaluation_mode(bnn), recorder:
        for x, _ in batches(data, _ROWS) if layers else ():
            outputs_of(bnn.network, x.to(device))
            for layer in used:
                used[layer] |= (recorder.masks[layer] > 0).any(0)
    pruned = {}
    for name, layer in layers.items():
        unused = layer.kept() & ~used[layer]
        if layer.prune(unused):
            pruned[name] = int(unused.sum())
    if not pruned:
        raise ConfigError(
            "prune_unused_units",
            expected="a network with input-dependent masks that can be pruned unit by unit, such "
            "as those of DependentBetaBernoulliDropout",
            got="none",
            hint="Other masks do not depend on the input: their units are pruned already.",
        )
    return pruned
