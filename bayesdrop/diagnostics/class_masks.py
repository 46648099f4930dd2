"""What masks that depend on the input look like on average, class by class."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bayesdrop.errors import DataError, ShapeError
from bayesdrop.inference.arrays import arrays_of
from bayesdrop.inference.batches import Data, batches
from bayesdrop.metrics.arrays import Array, as_tensor
from bayesdrop.nn import RecordedMasks, named_dropout_layers
from bayesdrop.nn.mode import evaluation_mode
from bayesdrop.program.checks import require_module
from bayesdrop.program.explaining import explained
from bayesdrop.program.finite import check_finite
from bayesdrop.program.inputs import outputs_of
from bayesdrop.program.program import Program

_ROWS = 1000


@torch.no_grad()
def class_averaged_masks(network: nn.Module, data: Data) -> dict[str, Tensor]:
    r"""Average each layer's mean mask over the examples of each class.

    .. math:: \bar m_{ck} = \frac{1}{N_c} \sum_{n: y_n = c} E[z_{nk} \mid x_n]

    Args:
        network: A ``BayesianNetwork`` or any module with Bayesian dropout layers; it is not
            changed, and runs in evaluation mode.
        data: Inputs with labels in ``0 .. C - 1``; read batch by batch.

    Returns:
        Layer name to ``(C, K)``. Masks that do not depend on the input are the same for all
        classes; of a layer that is called several times in a pass it is the last call's.

    Raises:
        DataError: If there are no labels, or a class has no example.

    Example:
        >>> import bayesdrop as bd
        >>> net = nn.Sequential(bd.DependentBetaBernoulliDropout(4), nn.Linear(4, 2))
        >>> class_averaged_masks(net, (torch.randn(6, 4), torch.arange(6) % 2))["0"].shape
        torch.Size([2, 4])
    """
    require_module("class_averaged_masks", network)
    data = arrays_of("class_averaged_masks", network, data)
    network = network.network if isinstance(network, Program) else network
    device = next(network.parameters(), torch.empty(0)).device
    totals: dict[str, Tensor] = {}
    counts = torch.zeros(0)
    recorder = RecordedMasks()
    with evaluation_mode(network), recorder:
        for x, y in batches(data, _ROWS):
            labels = _labels(y)
            missing = int(labels.max()) + 1 - len(counts) if len(labels) else 0
            counts = nn.functional.pad(counts, (0, max(0, missing)))
            member = nn.functional.one_hot(labels, len(counts)).T.to(counts)
            counts = counts + member.sum(1)
            start = int(counts.sum()) - len(labels)
            check_finite("class_averaged_masks", x, start, DataError, "input")
            with explained("class_averaged_masks", network, x):
                outputs_of(network, x.to(device))
            for name, layer in named_dropout_layers(network):
                if layer in recorder.masks:
                    masks = recorder.masks[layer].cpu().to(member)
                    added = member @ masks.expand(len(labels), -1)
                    former = totals.get(name, torch.zeros(0, layer.num_units))
                    padding = (0, 0, 0, len(counts) - len(former))
                    totals[name] = nn.functional.pad(former, padding) + added
    empty = (counts == 0).nonzero().flatten().tolist()
    if empty or not len(counts):
        raise DataError(
            "class_averaged_masks",
            expected="at least one example of each class",
            got=f"none of {empty}" if empty else "no examples",
            hint="Number the classes 0 .. C - 1, and take a larger sample.",
        )
    return {name: total / counts[:, None] for name, total in totals.items()}


def class_correlations(masks: Array) -> Tensor:
    """Return the correlation between classes over the units that some class has open, ``(C, C)``.

    NaN for a class whose open units all have the same mask.

    Args:
        masks: One layer's class averages ``(C, K)``.

    Raises:
        DataError: If they are no numbers; ``ShapeError`` if they are no matrix.

    Example:
        >>> class_correlations(torch.rand(3, 5)).shape
        torch.Size([3, 3])
    """
    averages = as_tensor("class_correlations", masks).double()
    if averages.ndim != 2:
        raise ShapeError(
            "class_correlations",
            expected="one layer's class averages, (classes, units)",
            got=str(tuple(averages.shape)),
            hint='Pass one entry of class_averaged_masks, such as found["fc1_dropout"].',
        )
    units = averages[:, (averages != 0).any(0)]
    centred = units - units.mean(1, keepdim=True)
    length = centred.norm(dim=1)
    # What rounding leaves of equal entries is no variation.
    length = torch.where(length > 1e-6 * units.norm(dim=1), length, torch.nan)
    return ((centred @ centred.T) / length / length[:, None]).clamp(-1.0, 1.0)


def _labels(y: Tensor | None) -> Tensor:
    if y is None or y.ndim != 1 or y.is_floating_point() or (len(y) and int(y.min()) < 0):
        got = "none" if y is None else f"{y.dtype} of shape {tuple(y.shape)}"
        raise DataError(
            "class_averaged_masks",
            expected="one label of at least 0 for each example",
            got=got,
            hint="Pass (x, y) with integer labels.",
        )
    return y.long().cpu()
