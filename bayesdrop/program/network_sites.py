"""Sites of a network's own, such as a PyroSample's weights, where its layers expect them."""

from __future__ import annotations

from typing import Any

import torch
from pyro.poutine.messenger import Messenger

from bayesdrop.errors import ConfigError


class NetworkSites(Messenger):
    """Gives a network the values of its own sites without the dimensions of the plates around it.

    ``Predictive`` puts a dimension of size 1 for the data plate in front of each value that a
    guide has drawn. The layers of ``torch.nn`` take none.

    Args:
        particles: Batch shape to the left of the examples.

    Raises:
        ConfigError: Where a site of the network is met with several particles at once.
    """

    def __init__(self, particles: torch.Size) -> None:
        super().__init__()
        self.particles = particles

    def _pyro_post_sample(self, msg: Any) -> None:
        value, fn = msg["value"], msg["fn"]
        if any(frame.name == "data" for frame in msg["cond_indep_stack"]):
            return  # a mask
        if self.particles.numel() > 1:
            raise ConfigError(
                f"site {msg['name']!r}",
                expected="one particle at a time, for the sites of a network's own",
                got=f"{self.particles.numel()} at once",
                hint="Pass vectorize_particles=False to the ELBO, parallel=False to Predictive.",
            )
        extra = value.ndim - len(fn.batch_shape) - len(fn.event_shape)
        if extra > 0 and value.shape[:extra].numel() == 1:
            msg["value"] = value.reshape(value.shape[extra:])
