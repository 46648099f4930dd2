"""Learning from one data set after another: the posterior of one is the prior of the next."""

from __future__ import annotations

from torch import nn

from bayesdrop.errors import ConfigError
from bayesdrop.nn.latents import named_owners


def update_prior(network: nn.Module) -> None:
    r"""Make the posterior of every layer its prior, in place, for the data that come next.

    .. math::
        p_{t+1}(\theta) = q_t(\theta) \approx p(\theta \mid D_1, \dots, D_t)

    where :math:`\theta` are the global latents: keep probabilities, sticks, random weights.
    Fitting on :math:`D_{t+1}` then gives :math:`q_{t+1}`, which knows all data so far although
    the earlier ones are gone. The new prior has the posterior's own family (a Kumaraswamy, say,
    where it was a Beta), so that before anything new is learned the divergence is zero.

    What is a point estimate has no posterior: plain weights, biases, the slope of a dependent
    gate. It goes on from where it is, with nothing to hold it there. Keep it fixed
    (``requires_grad_(False)``), give each task its own, or make the weights random
    (``bd.convert`` with a key of random weights). With ``kl_scale`` or ``kl_weight`` other than 1
    the posterior is a tempered one, and so is the next prior.

    The data of the next task have a size of their own: set ``bnn.num_data``, or make a new
    ``BayesianNetwork`` around the same layers, such as those that tasks share and the task's own
    head. ``bd.save`` and ``bd.load`` keep the prior with the rest.

    Args:
        network: A ``BayesianNetwork``, or any module with such layers. If one of them cannot do
            it nothing is changed.

    Raises:
        ConfigError: If a layer's posterior has no such form, as that of generalized dropout, of
            the group lasso, and of concrete dropout whose prior is one of masks and weights
            together (``length_scale``), or no layer learns a posterior.

    References:
        Nguyen, Li, Bui, Turner (2018), "Variational Continual Learning",
        https://arxiv.org/abs/1710.10628; Kessler, Nguyen, Zohren, Roberts (2021), "Hierarchical
        Indian Buffet Neural Networks for Bayesian Continual Learning",
        https://arxiv.org/abs/1912.02290.

    Example:
        >>> import torch, bayesdrop as bd
        >>> layer = bd.BetaBernoulliDropout(4)
        >>> bool(layer.kl_divergence() > 1)
        True
        >>> update_prior(layer)
        >>> bool(layer.kl_divergence() < 1e-5), layer.prior()["pi"].base_dist
        (True, Kumaraswamy(concentration1: torch.Size([4]), concentration0: torch.Size([4])))
    """
    carried = [(owner, owner.carried()) for _, owner in named_owners(network)]
    if not any(numbers for _, numbers in carried):
        raise ConfigError(
            "update_prior",
            expected="a layer that has learned a posterior of global latents",
            got=f"none in {type(network).__name__}",
            hint="Masks of a fixed rate learn nothing that could be carried on: use "
            "beta-Bernoulli or Indian buffet masks, or random weights.",
        )
    for owner, numbers in carried:
        owner.carry(numbers)
