"""What layers share that put a price on the parameters which a unit switches on."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from bayesdrop.errors import ConfigError
from bayesdrop.nn.arguments import check_weights
from bayesdrop.nn.mask import BayesianDropout


class PricedUnits(BayesianDropout):
    r"""Abstract part of a layer whose loss has a price for each unit that is on.

    .. math:: \sum_k P(z_k \ne 0)\,\bigl(\lambda |g_k| + \tfrac{\tau}{2} \lVert w_k \rVert^2\bigr)

    where :math:`w_k` are the :math:`|g_k|` parameters that gate :math:`k` governs: the weights
    that a unit is multiplied by, or those that compute it, with its bias, where the gate is on a
    layer's outputs. ``convert`` says which layer that is (``bind_weights``). Without it
    :math:`|g_k| = 1`, the price is one of units, and a slab raises an error. The number is part of
    the state, so that loading restores it.
    """

    always_shown: ClassVar[tuple[str, ...]] = ("cost_per_parameter",)

    parameters_per_unit: Tensor

    def _set_prices(self, cost_per_parameter: float, prior_precision: float) -> None:
        """Check and keep both prices."""
        if not all(0.0 <= price < math.inf for price in (cost_per_parameter, prior_precision)):
            raise ConfigError(
                type(self).__name__,
                expected="finite cost_per_parameter >= 0 and prior_precision >= 0",
                got=f"{cost_per_parameter=} and {prior_precision=}",
                hint="Both are in nats of the whole data set; the default cost is 0.1.",
            )
        self.cost_per_parameter = cost_per_parameter
        self.prior_precision = prior_precision
        self.register_buffer("parameters_per_unit", torch.ones(()))

    @override
    def bind_weights(self, layer: nn.Module, dim: int) -> None:
        check_weights(self.name, layer, self.num_units, dim)
        self._bound = (layer, dim)
        self.parameters_per_unit.fill_(sum(value[0].numel() for value in _governed(layer, dim)))

    def _price(self) -> Tensor:
        """Return what a unit costs that is on, in nats: a number or ``(K,)``."""
        price = self.cost_per_parameter * self.parameters_per_unit
        if self.prior_precision == 0.0:
            return price
        if self._bound is None:
            raise ConfigError(
                self.name,
                expected="to know the layer whose weights have the prior",
                got=f"prior_precision={self.prior_precision} and no layer",
                hint="bd.convert tells it; in a network built by hand call "
                "dropout.bind_weights(linear, dim=1), or leave prior_precision=0.",
            )
        # Minus the log density of the slab, up to a constant, for the parameters of each gate.
        squares = [value.square().flatten(1).sum(1) for value in _governed(*self._bound)]
        return price + 0.5 * self.prior_precision * sum(squares[1:], start=squares[0])

    @override
    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, parameters_per_unit={int(self.parameters_per_unit)}"


def _governed(layer: Any, dim: int) -> list[Tensor]:
    """Return a layer's parameters with the units first: ``weight``, and for outputs ``bias``."""
    found, bias = [layer.weight.transpose(0, dim)], getattr(layer, "bias", None)
    return [*found, bias[:, None]] if dim == 0 and isinstance(bias, Tensor) else found
