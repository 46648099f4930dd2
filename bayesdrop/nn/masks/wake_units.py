"""Waking units that sleep, while validation gets better."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from bayesdrop.errors import ConfigError
from bayesdrop.nn.arguments import is_real, is_whole
from bayesdrop.nn.masks.neural_plasticity import NeuralPlasticityDropout


class WakeUnits:
    """A callback of ``fit`` that wakes units of ``NeuralPlasticityDropout`` layers.

    After each epoch whose validation loss is the lowest so far, every layer whose waking units are
    all kept wakes some more: the expansion rule of neural plasticity networks, on validation data
    (the authors' code has the test set in its place). What it remembers is part of a checkpoint.
    Not with ``fit(compact_every=)``, under which sleeping units leave for good.

    Args:
        num_units: Units that a layer wakes at a time.
        score: Their scores.
        monitor: What has to be the lowest: ``"val_nll"``, ``"val_error"`` or ``"val_rmse"``.

    Raises:
        ConfigError: If ``fit`` has no validation data, or an argument makes no sense.

    Example:
        >>> import bayesdrop as bd
        >>> network = nn.Sequential(bd.nn.NeuralPlasticityDropout(4, init_awake=1))
        >>> rule = WakeUnits()
        >>> for nll in (0.7, 0.6, 0.8):
        ...     rule(network, {"val_nll": nll})
        >>> network[0].awake.tolist()
        [True, True, True, False]
    """

    def __init__(
        self, num_units: int = 1, *, score: float = 0.0, monitor: str = "val_nll"
    ) -> None:
        if not is_whole(num_units) or num_units < 1 or not is_real(score):
            raise ConfigError(
                type(self).__name__,
                expected="num_units >= 1 and a real score",
                got=f"{num_units=} and {score=}",
                hint="The paper wakes one unit at a time, with a score of 0.",
            )
        self.num_units, self.score, self.monitor = num_units, score, monitor
        self.lowest = math.inf

    def __call__(self, bnn: nn.Module, record: dict[str, Any]) -> None:
        """Wake units if this epoch's validation is the best so far."""
        if self.monitor not in record:
            raise ConfigError(
                type(self).__name__,
                expected=f"{self.monitor!r} in the record of each epoch",
                got=f"one with {', '.join(record)}",
                hint="Pass validation data to fit.",
            )
        if not record[self.monitor] < self.lowest:
            return
        self.lowest = record[self.monitor]
        for layer in bnn.modules():
            if isinstance(layer, NeuralPlasticityDropout):
                if bool(layer.kept()[layer.awake].all()):
                    layer.wake(self.num_units, score=self.score)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint has to hold."""
        return {"lowest": self.lowest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.lowest = state["lowest"]
