"""A network with dropout layers, its objective and its Pyro programs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from typing_extensions import override

from bayesdrop.errors import ConfigError, DataError
from bayesdrop.likelihoods import Likelihood
from bayesdrop.nn import (
    BayesianDropout,
    BayesianWeights,
    LatentOwner,
    MaskContext,
    kl_divergence,
    named_dropout_layers,
    named_owners,
    named_weight_layers,
)
from bayesdrop.program.pyro_pair import Guide, Model
from bayesdrop.typing import Latents, LossTerms

_COUNTER = itertools.count()


class BayesianNetwork(nn.Module):
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

    def __init__(
        self,
        network: nn.Module,
        likelihood: Likelihood,
        num_data: int,
        *,
        kl_weight: float = 1.0,
        name: str | None = None,
    ) -> None:
        super().__init__()
        if num_data < 1:
            raise ConfigError(
                "BayesianNetwork",
                expected="num_data >= 1, the size of the training set",
                got=f"num_data={num_data}",
                hint="Pass len(train_set), not the batch size.",
            )
        if not isinstance(likelihood, Likelihood):
            raise ConfigError(
                "BayesianNetwork",
                expected="a likelihood object such as bd.Categorical()",
                got=repr(likelihood),
                hint="The order is BayesianNetwork(network, likelihood, num_data).",
            )
        self.network = network
        self.likelihood = likelihood
        self.num_data = int(num_data)
        self.kl_weight = kl_weight
        self.input_shape: tuple[int, ...] | None = None
        self._name = name
        self._automatic_name: tuple[int, str] | None = None
        for path, owner in self.named_owners():
            owner.path = path
        # Not registered as children: they hold this module as theirs.
        self.__dict__["_model"] = Model(self)
        self.__dict__["_guide"] = Guide(self)

    @property
    def model(self) -> nn.Module:
        """The Pyro model, called as ``model(x, y=None)``; an ``nn.Module`` with all parameters."""
        return self.__dict__["_model"]

    @property
    def guide(self) -> nn.Module:
        """The Pyro guide, called as ``guide(x, y=None)``; an ``nn.Module`` with all parameters."""
        return self.__dict__["_guide"]

    @property
    def kl_weight(self) -> float:
        """Factor on all KL divergences; 1 is the ELBO."""
        return self._kl_weight

    @kl_weight.setter
    def kl_weight(self, value: float) -> None:
        if not 0.0 < value < math.inf:
            raise ConfigError(
                "BayesianNetwork",
                expected="a finite kl_weight > 0",
                got=f"kl_weight={value}",
                hint="For a warm-up start from a small number, such as 1 / num_epochs.",
            )
        self._kl_weight = float(value)

    @property
    def store_name(self) -> str:
        """Prefix of this object's parameters in Pyro's parameter store; a copy gets its own."""
        if self._name is not None:
            return self._name
        if self._automatic_name is None or self._automatic_name[0] != id(self):
            self._automatic_name = (id(self), f"bayesdrop{next(_COUNTER)}")
        return self._automatic_name[1]

    @property
    def owns_store_name(self) -> bool:
        """Whether the prefix was chosen automatically, so that no other object can have it."""
        return self._name is None

    def named_dropout_layers(self) -> list[tuple[str, BayesianDropout]]:
        """Return the name within ``network`` and the module of every dropout layer."""
        return list(named_dropout_layers(self.network))

    def named_weight_layers(self) -> list[tuple[str, BayesianWeights]]:
        """Return the name within ``network`` and the module of every layer of random weights."""
        return list(named_weight_layers(self.network))

    @property
    def is_random(self) -> bool:
        """Whether prediction has anything to sample: a dropout layer or random weights."""
        return bool(self.named_dropout_layers() or self.named_weight_layers())

    def named_owners(self) -> list[tuple[str, LatentOwner]]:
        """Return the owners of all global sites: what layers share, each once, then all others."""
        return list(named_owners(self.network))

    def forward(self, x: Tensor) -> Tensor:
        """Run the network in plain torch; its mode decides between sampled and mean masks."""
        self.input_shape = tuple(x.shape[1:])
        return self.network(x)

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
        masks = _TrainingMasks()
        with masks:
            nll = self.likelihood.nll(self.network(x), y) * scale
        kl = kl_divergence(self.network, masks.posteriors)
        return LossTerms(nll, kl if self.kl_weight == 1.0 else self.kl_weight * kl)

    def draw_latents(self) -> Mapping[LatentOwner, Latents]:
        """Draw all layers' global latents once from the guide, for ``PosteriorSample``."""
        layers: list[tuple[str, LatentOwner]] = [*self.named_dropout_layers()]
        layers += self.named_weight_layers()
        return {layer: layer.draw_latents() for _, layer in layers}

    def units(self) -> list[int]:
        """Return the number of active units of each dropout layer, in network order."""
        return [int(layer.active().sum()) for _, layer in self.named_dropout_layers()]

    def units_total(self) -> list[int]:
        """Return the number of units of each dropout layer, in network order."""
        return [layer.num_units for _, layer in self.named_dropout_layers()]

    def weights(self) -> list[int]:
        """Return the number of weights that each layer of random weights keeps."""
        return [int(layer.active_weights().sum()) for _, layer in self.named_weight_layers()]

    def weights_total(self) -> list[int]:
        """Return the number of weights of each layer of random weights, in network order."""
        return [layer.weight.numel() for _, layer in self.named_weight_layers()]

    def check_batch(self, x: Tensor, y: Tensor | None = None) -> None:
        """Raise ``DataError`` if a batch is empty or larger than the data set it comes from.

        Remembers the shape of an example as ``input_shape``, from which ``compact`` traces.
        """
        if x.ndim == 0 or x.shape[0] == 0:
            raise DataError(
                "BayesianNetwork",
                expected="a batch with at least one example",
                got=f"x of shape {tuple(x.shape)}",
                hint="Is the data set empty?",
            )
        if y is not None and x.shape[0] > self.num_data:
            raise DataError(
                "BayesianNetwork",
                expected=f"a batch of at most num_data={self.num_data} examples",
                got=f"{x.shape[0]} examples",
                hint="num_data is the size of the training set, not of a batch.",
            )
        self.input_shape = tuple(x.shape[1:])

    def extra_repr(self) -> str:
        """Show the size of the data set."""
        return f"num_data={self.num_data}"


class _TrainingMasks(MaskContext):
    # What the layers do outside, but each posterior is computed and sampled once a step: the KL
    # divergence uses it again, and a layer called twice keeps its latents, as in the model.
    def __init__(self) -> None:
        super().__init__()
        self.posteriors: dict[LatentOwner, Mapping[str, TorchDistribution]] = {}
        self.latents: dict[LatentOwner, Latents] = {}

    @override
    def mask(self, layer: BayesianDropout, x: Tensor) -> Tensor | None:
        return layer.draw_mask(self._draw(layer), x) if layer.training else None

    @override
    def values(self, owner: LatentOwner) -> Latents | None:
        by_weight = isinstance(owner, BayesianWeights) and owner.noise == "weights"
        return self._draw(owner) if by_weight and owner.training else None

    def _draw(self, owner: LatentOwner) -> Latents:
        if owner not in self.latents:
            posterior = owner.posterior()
            self.posteriors[owner] = posterior
            self.latents[owner] = {name: q.rsample() for name, q in posterior.items()}
        return self.latents[owner]
