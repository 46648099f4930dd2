"""A network with dropout layers, its objective and its Pyro programs."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from typing_extensions import override

from bayesdrop.likelihoods import Likelihood
from bayesdrop.nn import LatentOwner, PosteriorSample, TrainingPass, kl_divergence
from bayesdrop.program.program import Pass, Program
from bayesdrop.program.pyro_pair import Guide, Model
from bayesdrop.typing import Latents, LossTerms, SharedBy


class BayesianNetwork(Program):
    r"""A network, a likelihood and the size of the data set: a probabilistic program.

    .. math::
        \log p(y \mid x) \ge \frac{N}{B} \sum_{n=1}^{B} \log p(y_n \mid f(x_n; z_n))
        - \sum_l \mathrm{KL}(q_l \,\|\, p_l), \qquad z_n \sim q(z \mid \pi),\ \pi \sim q(\pi)

    ``model`` and ``guide`` go to stock Pyro (``SVI``, ``Predictive``, ``poutine``); ``loss`` is
    the same objective in plain torch; calling the object runs the network.

    Args:
        network: Any module; its ``BayesianDropout`` layers are found by name. It is used, not
            copied: training this object trains it.
        likelihood: What the output means, such as ``Categorical()``.
        num_data: Number of training examples :math:`N`.
        kl_weight: Factor on all KL divergences, > 0; 1 is the ELBO. ``fit`` can schedule it.
        name: Prefix of the parameters in Pyro's parameter store. By default every object has its
            own, so that two models in one process never share parameters by accident.

    Sites:  the dropout layers' (such as ``{module path}.pi`` and ``{module path}.z``), ``obs``,
        and the plate ``data``. The guide also has ``data.plate``, a constant that tells
        ``Predictive(parallel=True)`` that there is a data plate.

    Raises:
        ConfigError: If ``num_data`` or ``kl_weight`` is not positive.

    Example:
        >>> import torch, bayesdrop as bd
        >>> net = nn.Sequential(bd.BetaBernoulliDropout(4), nn.Linear(4, 3))
        >>> bnn = BayesianNetwork(net, bd.Categorical(), num_data=100)
        >>> bnn.loss(torch.zeros(10, 4), torch.zeros(10).long()).loss.shape
        torch.Size([])
    """

    has_local_latents = False

    def __init__(
        self,
        network: nn.Module,
        likelihood: Likelihood,
        num_data: int,
        *,
        kl_weight: float = 1.0,
        name: str | None = None,
    ) -> None:
        super().__init__(network, likelihood, num_data, kl_weight=kl_weight, name=name)

    @override
    def make_pair(self) -> tuple[nn.Module, nn.Module]:
        return Model(self), Guide(self)

    @property
    @override
    def is_random(self) -> bool:
        """Whether prediction has anything to sample: a dropout layer or random weights."""
        return bool(self.named_owners())

    @override
    def loss(self, x: Tensor, y: Tensor) -> LossTerms:
        """Return minus the ELBO for the whole data set, in nats, as NLL and KL.

        In training mode this is one reparameterised sample of what ``TraceMeanField_ELBO``
        computes from ``model`` and ``guide``, without running them: same value and gradient for
        the same noise.

        Args:
            x: A batch of inputs, ``(B, ...)``.
            y: The batch's targets.
        """
        self.check_batch(x, y)
        scale = self.num_data / x.shape[0]
        if not self.training:
            nll = self.likelihood.nll(self.network(x), y) * scale
            return LossTerms(nll, self.kl_weight * kl_divergence(self.network))
        draws = TrainingPass(x.shape[0])
        with draws:
            nll = self.likelihood.nll(self.network(x), y) * scale
        kl = kl_divergence(self.network, draws.posteriors)
        return LossTerms(nll, kl if self.kl_weight == 1.0 else self.kl_weight * kl)

    def draw_latents(self) -> Mapping[LatentOwner, Latents]:
        """Draw all layers' global latents once from the guide, for ``PosteriorSample``."""
        layers: list[tuple[str, LatentOwner]] = [*self.named_dropout_layers()]
        layers += self.named_weight_layers()
        return {layer: layer.draw_latents() for _, layer in layers}

    @override
    def posterior_passes(self, num_samples: int, *, shared_by: SharedBy) -> list[Pass]:
        if not self.is_random:
            return [self.network]
        return [self._posterior_pass(shared_by) for _ in range(num_samples)]

    def _posterior_pass(self, shared_by: SharedBy) -> Pass:
        sample = PosteriorSample(self.draw_latents(), shared=shared_by == "batch")

        def run(x: Tensor) -> Tensor:
            sample.num_rows = x.shape[0]
            with sample:
                return self.network(x)

        return run
