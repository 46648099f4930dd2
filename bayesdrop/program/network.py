"""A network with dropout layers, its objective and its Pyro programs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import pyro.poutine as poutine
import torch
from torch import Tensor, nn
from typing_extensions import override

from bayesdrop.distributions import log_mixture
from bayesdrop.errors import ShapeError
from bayesdrop.likelihoods import Likelihood
from bayesdrop.nn import (
    ImposedMasks,
    LatentOwner,
    LocalDivergences,
    MaskSum,
    PosteriorSample,
    TrainingPass,
    active_context,
    repeat_rows,
)
from bayesdrop.nn.mode import evaluation_mode, in_turn
from bayesdrop.ops.transforms import takes_plain_operations
from bayesdrop.program.checks import require_output
from bayesdrop.program.explaining import explained
from bayesdrop.program.finite import finite_rows
from bayesdrop.program.inputs import (
    GivenInputs,
    Inputs,
    each_input,
    outputs_of,
    require_data,
    tensors_of,
)
from bayesdrop.program.program import Pass, Program
from bayesdrop.program.pyro_pair import Guide, Model
from bayesdrop.typing import Latents, LossTerms, NumMasks, SharedBy


class BayesianNetwork(Program):
    r"""A network, a likelihood and the size of the data set: a probabilistic program.

    .. math::
        \log p(y \mid x) \ge \frac{N}{B} \sum_{n=1}^{B} \log p(y_n \mid f(x_n; z_n))
        - \sum_l \mathrm{KL}(q_l \,\|\, p_l), \qquad z_n \sim q(z \mid \pi),\ \pi \sim q(\pi)

    ``model`` and ``guide`` go to stock Pyro (``SVI``, ``Predictive``, ``poutine``); ``loss`` is
    the same objective in plain torch; calling the object runs the network. All three take
    ``num_masks``, as in ``svi.step(x, y, num_masks=4)``.

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
    @in_turn
    def loss(self, x: GivenInputs, y: Tensor, *, num_masks: NumMasks = 1) -> LossTerms:
        r"""Return minus the ELBO for the whole data set, in nats, as NLL and KL.

        .. math::
            -\frac{N}{B} \sum_{n=1}^{B} \log \frac1M \sum_{m=1}^{M} p(y_n \mid f(x_n; z_{nm}))
            + \sum_l \mathrm{KL}(q_l \,\|\, p_l)

        and :math:`N / B` times what masks cost that have a posterior of each example's own
        (``nn.ExampleRatesDropout``). In training mode this is one reparameterised sample of what
        ``TraceMeanField_ELBO`` computes from ``model`` and ``guide``, without running them: same
        value and gradient for the same noise. In evaluation mode it takes the mean masks, whatever
        ``num_masks`` is.

        All :math:`M` masks come from one draw of the global latents, and the batch runs once, with
        each example :math:`M` times in a row: batch norm, and the running statistics of
        input-dependent layers, see :math:`M B` rows and are updated once. ``M > 1`` is a bound of
        the evidence where a mask is an example's own given its rates. Where its noise stands for
        what all examples share (Monte Carlo, Gaussian, concrete and hard-concrete dropout, layers
        with ``shared_by="example"``) it is the likelihood of predictions, and no bound (Li and
        Gal, 2017).

        Args:
            x: A batch of inputs, ``(B, ...)``; a tuple of them for a network that takes several
                arguments, or a mapping by their names.
            y: The batch's targets.
            num_masks: Masks :math:`M` of each example. More bring the optimum nearer to the
                posterior, each at the price of another pass. ``"exact"`` sums over all masks of
                the one layer, of at most 10 Bernoulli units; they are then not relaxed.

        Raises:
            ConfigError: If the network cannot have several masks, or not be summed over.

        References:
            Burda, Grosse, Salakhutdinov (2016), "Importance Weighted Autoencoders", section 3,
            https://arxiv.org/abs/1509.00519; here weights are likelihoods, as q(z | pi) is the
            prior. Li, Gal (2017), https://arxiv.org/abs/1703.02914.
        """
        x = self._checked(x, y, num_masks)
        scale = self.num_data / len(x)
        if not self.training:
            with LocalDivergences(active_context()) as local:
                output = self._output(x)
            with finite_rows("BayesianNetwork.loss", x, y, output):
                nll = self.likelihood.nll(output, y) * scale
            own = self.kl_weight * scale * local.divergence_by_example().sum()
            return LossTerms(nll, self.shared_divergence() + own)
        nll, draws = self._data_term(x, y, num_masks)
        kl = draws.kl_divergence(self.network)
        if draws.divergences:
            kl = kl + scale * draws.divergence_by_example().sum()
        return LossTerms(nll * scale, kl if self.kl_weight == 1.0 else self.kl_weight * kl)

    @override
    @in_turn
    def data_term(self, x: GivenInputs, y: Tensor, *, num_masks: NumMasks = 1) -> Tensor:
        nll, draws = self._data_term(self._checked(x, y, num_masks), y, num_masks)
        return nll + self.kl_weight * draws.divergence_by_example().sum()

    def _data_term(self, x: Inputs, y: Tensor, num_masks: NumMasks) -> tuple[Tensor, TrainingPass]:
        """Return the batch's negative log-likelihood, and what was drawn for it."""
        mask_sum = MaskSum(self.network) if num_masks == "exact" else None
        masks = int(num_masks) if mask_sum is None else len(mask_sum)
        draws = TrainingPass(len(x) * masks, mask_sum)
        draws.draw_jointly(self.network)
        with draws:
            output = self._output(each_input(lambda t: repeat_rows(t, masks), x))
        with finite_rows("BayesianNetwork.loss", x, y, output):
            if masks == 1:
                return self.likelihood.nll(output, y), draws
            y = self.likelihood.target(output[::masks], y)  # names a row of the batch itself
            terms = self.likelihood.log_prob(output, repeat_rows(y, masks)).reshape(-1, masks)
        weights = None if mask_sum is None else mask_sum.log_weights
        return -log_mixture(terms, weights).sum(), draws

    def _checked(self, x: GivenInputs, y: Tensor, num_masks: NumMasks) -> Inputs:
        self.check_num_masks(num_masks)
        self.check_plain_torch("BayesianNetwork.loss")
        return self.check_batch(x, require_data("BayesianNetwork.loss", "y", y))

    @override
    def check_batch(self, x: GivenInputs, y: Tensor | None = None) -> Inputs:
        before = self.inputs_seen()
        x = super().check_batch(x, y)
        shapes = [t.shape[1:] for t in tensors_of(x)]
        if len(x) > 1 and any(len(x) in shape for shape in shapes):
            if before is None or [t.shape[1:] for t in tensors_of(before)] != shapes:
                self._check_examples(x)
        return x

    @torch.no_grad()
    def _check_examples(self, x: Inputs) -> None:
        """Raise ``ShapeError`` if a layer takes a dimension of the same length for the examples.

        With as many steps as examples nothing else would tell; with an example less it does.
        """
        if self._pyro_samples or takes_plain_operations():
            return
        context = ImposedMasks({}, num_rows=len(x) - 1)
        devices = [t.device for t in tensors_of(x) if t.device.type != "cpu"]
        quietly = poutine.block()  # No handler hears of sites of the network's own.
        with torch.random.fork_rng(devices), evaluation_mode(self.network), context, quietly:
            try:
                outputs_of(self.network, each_input(lambda t: t[:-1], x))
            except ShapeError:
                self.input_shape = self.several_inputs = None  # and so once more, if asked again
                raise
            except Exception:  # the pass itself will say it better
                return

    def _output(self, x: Inputs) -> Tensor:
        with explained("BayesianNetwork.loss", self.network, x):
            output = outputs_of(self.network, x)
        return require_output("BayesianNetwork.loss", output, len(x))

    def draw_latents(self) -> Mapping[LatentOwner, Latents]:
        """Draw all layers' global latents once from the guide, for ``PosteriorSample``."""
        layers: list[tuple[str, LatentOwner]] = [*self.named_dropout_layers()]
        layers += self.named_weight_layers()
        return {layer: layer.draw_latents() for _, layer in layers}

    @override
    def posterior_passes(self, num_samples: int, *, shared_by: SharedBy) -> list[Pass]:
        self.check_plain_torch("predict")
        if not self.is_random:
            return [partial(outputs_of, self.network)]
        return [self._posterior_pass(shared_by) for _ in range(num_samples)]

    def _posterior_pass(self, shared_by: SharedBy) -> Pass:
        sample = PosteriorSample(self.draw_latents(), shared=shared_by == "batch")
        return PosteriorPass(self.network, sample)


class PosteriorPass:
    """A pass through a network under one draw from the posterior.

    Args:
        network: The network.
        sample: The draw.
    """

    def __init__(self, network: nn.Module, sample: PosteriorSample) -> None:
        self.network, self.sample = network, sample

    def __call__(self, x: Inputs) -> Tensor:
        """Run the network."""
        return self.within(partial(outputs_of, self.network), x)

    def within(self, other: Pass, x: Inputs) -> Tensor:
        """Run anything else in its place."""
        self.sample.num_rows = len(x)
        with self.sample:
            return other(x)
