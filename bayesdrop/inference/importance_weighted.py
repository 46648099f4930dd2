"""The importance-weighted bound of an auto-encoder, as an objective of ``fit``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from bayesdrop.errors import ConfigError, unknown_name
from bayesdrop.nn.arguments import is_whole
from bayesdrop.program.autoencoder import VariationalAutoencoder
from bayesdrop.program.code import Encoding, draw
from bayesdrop.program.inputs import GivenInputs
from bayesdrop.program.program import Program
from bayesdrop.typing import Latents, LossTerms

ImportanceGradient: TypeAlias = Literal["doubly-reparameterised", "reparameterised"]
"""How the encoder gets its gradient, see ``ImportanceWeighted``."""


@dataclass(frozen=True)
class ImportanceWeighted:
    r"""Minus the importance-weighted bound (IWAE) of a ``VariationalAutoencoder``.

    .. math::
        \mathcal L_K = E_{q(v)} \sum_n E \log \frac1K \sum_{k=1}^K w_{nk}
        - \mathrm{KL}(q(v)\,\|\,p(v)), \qquad
        w_{nk} = \frac{p(x_n \mid z_{nk}, h_{nk})\,p(z_{nk} \mid v)\,p(h_{nk})}
        {q(z_{nk} \mid v, x_n)\,q(h_{nk} \mid x_n)}

    :math:`K = 1` is the ELBO; each :math:`\mathcal L_K` is a bound on the log evidence, and none
    is looser than one of fewer samples. The logarithm is that of each example. (Pyro's
    ``RenyiELBO(alpha=0)`` takes it of whole batches, whose weights hardly ever average.) The
    global rates :math:`v` are drawn once for a batch, and their divergence is closed; so is
    nothing else. Under a ``kl_weight`` other than 1 the densities of latents count that many
    times, and there is no bound.

    Passed to ``fit(objective=...)``. A step decodes :math:`K` codes of each example and encodes
    it once. In training mode masks are relaxed, in prior and posterior.

    Args:
        num_samples: Samples :math:`K` of each example.
        gradient: ``"doubly-reparameterised"``: the score of the posterior's parameters is replaced
            by its pathwise form, so that the encoder's gradient is
            :math:`\sum_k \tilde w_k^2\,\partial \log w_k / \partial (z, h)_k` along the samples,
            with normalised weights :math:`\tilde w`; under a ``kl_weight`` of :math:`c` it is
            :math:`c\,\tilde w_k^2 + (1 - c)\,\tilde w_k`. It has the same mean, and its signal
            does not drown in noise as :math:`K` grows. ``"reparameterised"``: of the bound as it
            stands.

    Raises:
        ConfigError: If an argument makes no sense; when called, if the program is no
            ``VariationalAutoencoder``, or its code is ordered (a prefix has no path).

    References:
        Burda, Grosse, Salakhutdinov (2016), https://arxiv.org/abs/1509.00519; the gradient:
        Tucker, Lawson, Gu, Maddison (2019), https://arxiv.org/abs/1810.04152.

    Example:
        >>> import bayesdrop as bd
        >>> vae = bd.networks.vae(100, input_shape=8, latent_size=2)
        >>> x = torch.ones(5, 8)
        >>> ImportanceWeighted(num_samples=4)(vae, x, x).loss.shape
        torch.Size([])
    """

    num_samples: int = 5
    gradient: ImportanceGradient = "doubly-reparameterised"

    def __post_init__(self) -> None:
        if not is_whole(self.num_samples) or self.num_samples < 1:
            raise ConfigError(
                "ImportanceWeighted",
                expected="num_samples >= 1",
                got=f"num_samples={self.num_samples!r}",
                hint="5 to 50 are usual; 1 is the ELBO.",
            )
        if self.gradient not in get_args(ImportanceGradient):
            raise unknown_name("gradient", self.gradient, get_args(ImportanceGradient))

    def __call__(self, bnn: Program, x: GivenInputs, y: Tensor | None = None) -> LossTerms:
        """Return minus the bound for the whole data set, in nats; ``kl`` is that of the rates.

        Args:
            bnn: The auto-encoder.
            x: A batch of inputs, ``(B, ...)``.
            y: What to reconstruct; None is ``x``.
        """
        vae = _checked(bnn)
        vae.check_plain_torch("ImportanceWeighted")
        x = vae.check_batch(x, y)
        y = x if y is None else y
        mask = vae.code.mask
        global_posterior = {} if mask is None else mask.posterior()
        rates = draw(global_posterior)
        encoding = vae.network.encode(x)
        posterior, prior = vae.code.posterior(encoding, rates), vae.code.prior(rates)
        latents = {name: _draws(q, self.num_samples) for name, q in posterior.items()}
        density = posterior
        if self.gradient == "doubly-reparameterised":
            density = vae.code.posterior(*_detached(encoding, rates))
        output = vae.network.decode(latents)
        log_weight = vae.likelihood.distribution(output, batch_ndim=2).log_prob(
            vae.likelihood.target(output[0], y)
        )
        for name, value in latents.items():
            ratio = prior[name].log_prob(value) - density[name].log_prob(value)
            log_weight = log_weight + vae.kl_weight * ratio
        if self.gradient == "doubly-reparameterised":
            share = torch.softmax(log_weight.detach(), 0).unsqueeze(-1)
            share = vae.kl_weight * share + (1.0 - vae.kl_weight)
            for value in latents.values():
                if value.requires_grad:
                    value.register_hook(lambda gradient: gradient * share)
        bound = (log_weight.logsumexp(0) - math.log(self.num_samples)).sum()
        kl = torch.zeros_like(bound) if mask is None else mask.kl_divergence(global_posterior)
        return LossTerms(-bound * (vae.num_data / x.shape[0]), vae.kl_weight * kl)


def _draws(q: TorchDistribution, num_samples: int) -> Tensor:
    # Exact masks, of evaluation mode, have no path.
    shape = torch.Size((num_samples,))
    return q.rsample(shape) if q.has_rsample else q.sample(shape)


def _detached(encoding: Encoding, rates: Mapping[str, Tensor]) -> tuple[Encoding, Latents]:
    offset = None if encoding.offset is None else encoding.offset.detach()
    fixed = Encoding(offset, encoding.mean.detach(), encoding.scale.detach())
    return fixed, {name: value.detach() for name, value in rates.items()}


def _checked(bnn: Program) -> VariationalAutoencoder:
    if not isinstance(bnn, VariationalAutoencoder):
        raise ConfigError(
            "ImportanceWeighted",
            expected="a VariationalAutoencoder",
            got=f"a {type(bnn).__name__}",
            hint="Masks of a network are averaged inside the logarithm by num_masks=8.",
        )
    if bnn.code.is_ordered:
        raise ConfigError(
            "ImportanceWeighted",
            expected="a code without an order, whose samples move with its parameters",
            got=repr(bnn.code),
            hint="Train with the ELBO, objective=None; "
            "bd.diagnostics.log_likelihood_bound evaluates the bound.",
        )
    return bnn
