"""What a prior, a posterior and a mask have to be, said of those that somebody wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from bayesdrop.errors import ConfigError, ShapeError, UnregisteredKLError
from bayesdrop.typing import Latents


def divergences(
    who: str,
    posterior: Mapping[str, TorchDistribution],
    prior: Mapping[str, TorchDistribution],
) -> list[Tensor]:
    """Return the KL divergence of each latent's posterior from its prior, in nats.

    Args:
        who: The owner's name, for messages.
        posterior: What ``posterior()`` of the owner returned.
        prior: The same of ``prior()``.

    Raises:
        ConfigError: If the two have other keys.
        ShapeError: If the two have other event shapes, or one has a batch shape.
        UnregisteredKLError: If no KL divergence is registered for a pair.
    """
    if posterior.keys() != prior.keys():
        raise ConfigError(
            who,
            expected="the same latents in prior() and posterior()",
            got=f"{sorted(prior)} and {sorted(posterior)}",
            hint="Both return a dictionary with the same keys.",
        )
    return [_divergence(who, name, q, prior[name]) for name, q in posterior.items()]


def _divergence(who: str, name: str, q: TorchDistribution, p: TorchDistribution) -> Tensor:
    if q.event_shape != p.event_shape or q.batch_shape or p.batch_shape:
        raise ShapeError(
            who,
            expected=f"a prior and a posterior of {name!r} with one event shape and no batch "
            "shape",
            got=f"event shapes {tuple(p.event_shape)} and {tuple(q.event_shape)}, batch shapes "
            f"{tuple(p.batch_shape)} and {tuple(q.batch_shape)}",
            hint="Give both the shape of the latent, and add .to_event().",
        )
    try:
        return kl_divergence(q, p)
    except NotImplementedError as error:
        names = f"{_law(q).__name__}, {_law(p).__name__}"
        raise UnregisteredKLError(
            who,
            expected=f"a KL divergence that is registered for posterior and prior of {name!r}",
            got=f"none for ({names})",
            hint=f"Write it under @torch.distributions.register_kl({names}); SVI with Trace_ELBO "
            "does without, by sampling it.",
        ) from error


def _law(fn: TorchDistribution) -> type:
    while isinstance(fn, Independent):
        fn = fn.base_dist
    return type(fn)


def mask_law(layer: Any, latents: Latents, x: Tensor | None) -> TorchDistribution:
    """Return ``layer.mask_distribution(latents, x)``, whose event shape is that of the units.

    Args:
        layer: The ``BayesianDropout``.
        latents: Values of its global latents.
        x: Its input.

    Raises:
        ShapeError: If it has another event shape.
    """
    fn: TorchDistribution = layer.mask_distribution(latents, x)
    if fn.event_shape != (layer.num_units,):
        raise ShapeError(
            layer.name,
            expected=f"a mask_distribution of event shape ({layer.num_units},)",
            got=f"event shape {tuple(fn.event_shape)} and batch shape {tuple(fn.batch_shape)}",
            hint="Units are one event: add .to_event(1).",
        )
    return fn
