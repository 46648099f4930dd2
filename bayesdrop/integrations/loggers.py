"""Callbacks of ``fit`` that write each epoch where experiments are compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from bayesdrop.inference.monitor import scalars


class WandbLogger:
    """Writes each epoch of ``fit`` to a run of Weights & Biases, over the number of the epoch.

    ::

        with wandb.init(project="digits") as run:
            bd.fit(bnn, data, epochs=20, callbacks=[WandbLogger(run)])

    Where several processes train, the first one writes.

    Args:
        run: What ``wandb.init`` returned.
    """

    def __init__(self, run: Any) -> None:
        self.run = run
        # A run's own steps only grow: those of a second fit would be dropped.
        run.define_metric("epoch")
        run.define_metric("*", step_metric="epoch")

    def __call__(self, bnn: object, record: Mapping[str, Any]) -> None:
        """Write an epoch's record."""
        if _leads():
            self.run.log({"epoch": record["epoch"], **scalars(record)})


class MLflowLogger:
    """Writes each epoch of ``fit`` to a run of MLflow.

    ::

        with mlflow.start_run():
            bd.fit(bnn, data, epochs=20, callbacks=[MLflowLogger(mlflow)])

    Where several processes train, the first one writes.

    Args:
        client: The module ``mlflow``, for its active run, or another object with its
            ``log_metrics``.
        **options: Of ``log_metrics``, such as ``run_id``.
    """

    def __init__(self, client: Any, **options: Any) -> None:
        self.client, self.options = client, options

    def __call__(self, bnn: object, record: Mapping[str, Any]) -> None:
        """Write an epoch's record."""
        if _leads():
            self.client.log_metrics(scalars(record), step=record["epoch"], **self.options)


def _leads() -> bool:
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized()) or (
        distributed.get_rank() == 0
    )
