"""Pruning the units that no training example uses."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from bayesdrop.errors import ConfigError, DataError
from bayesdrop.inference.arrays import arrays_of
from bayesdrop.inference.batches import Data, batches
from bayesdrop.nn import BayesianDropout, RecordedMasks
from bayesdrop.nn.mode import evaluation_mode
from bayesdrop.program.checks import check_program
from bayesdrop.program.explaining import explained
from bayesdrop.program.finite import check_finite
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
        ConfigError: If it is no program, or has no such layer.
        DataError: If the data are empty or not finite.
    """
    who = "prune_unused_units"
    check_program(who, bnn)
    data = arrays_of(who, bnn, data)
    layers = {name: m for name, m in bnn.named_dropout_layers() if m.input_dependent}
    device = next(bnn.parameters()).device
    recorder, row = _UsedUnits(), 0
    with evaluation_mode(bnn), recorder:
        for x, _ in batches(data, _ROWS) if layers else ():
            check_finite(who, x, row, DataError, "input")
            row += len(x)
            with explained(who, bnn.network, x):
                outputs_of(bnn.network, x.to(device))
    pruned = {}
    for name, layer in layers.items():
        if layer not in recorder.used:  # it has not run
            continue
        unused = layer.kept() & ~recorder.used[layer]
        if layer.prune(unused):
            pruned[name] = int(unused.sum())
    if not pruned:
        raise ConfigError(
            who,
            expected="a network with input-dependent masks that can be pruned unit by unit, such "
            "as those of DependentBetaBernoulliDropout",
            got="none",
            hint="Other masks do not depend on the input: their units are pruned already.",
        )
    return pruned


class _UsedUnits(RecordedMasks):
    """Notes which units any example uses, in any call of their layer."""

    def __init__(self) -> None:
        super().__init__()
        self.used: dict[BayesianDropout, Tensor] = {}

    @override
    def mask(self, layer: BayesianDropout, x: Tensor) -> Tensor | None:
        mask = super().mask(layer, x)
        if mask is not None:
            used = (mask > 0).reshape(-1, layer.num_units).any(0)
            self.used[layer] = used | self.used.get(layer, torch.zeros_like(used))
        return mask
