"""Importance-weighted bounds on the log-likelihood of a variational auto-encoder."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bayesdrop.errors import ConfigError, DataError, unknown_name
from bayesdrop.inference.arrays import arrays_of
from bayesdrop.inference.batches import Data, batches
from bayesdrop.nn.arguments import is_whole
from bayesdrop.nn.mode import evaluation_mode
from bayesdrop.ops.seeding import seeded
from bayesdrop.program.autoencoder import VariationalAutoencoder
from bayesdrop.program.code import Encoding, draw
from bayesdrop.program.finite import check_finite
from bayesdrop.record import Record
from bayesdrop.typing import Latents

_MAX_ROWS = 1000


@dataclass(frozen=True, eq=False)
class LikelihoodBound(
    Record,
    also=("mean", "standard_error", "evidence", "published_metric"),
    without=("per_example", "given_rates"),
):
    r"""Lower bounds on log-likelihoods in nats per example; all tensors are on the CPU.

    Args:
        per_example: Bound on :math:`\log p(x_n) = \log \int q(v)\,p(x_n \mid v)\,dv`, the density
            that the trained model gives a new example, ``(N,)``.
        given_rates: Bound on :math:`E_{q(v)}[\log p(x_n \mid v)]`, ``(N,)``: never larger.
        global_kl: :math:`\mathrm{KL}(q(v)\,\|\,p(v))` in nats, paid once for all examples, and in
            full whatever the mask's ``kl_scale`` in training was.
        num_samples: Importance samples of an example.
        num_rates: Draws of the global rates among them.
    """

    per_example: Tensor
    given_rates: Tensor
    global_kl: float
    num_samples: int
    num_rates: int

    @property
    def mean(self) -> float:
        """Bound on the average log-likelihood of a held-out example."""
        return float(self.per_example.mean())

    @property
    def standard_error(self) -> float:
        """Standard error of ``mean`` as an estimate for all possible examples."""
        return float(self.per_example.std() / math.sqrt(self.per_example.numel()))

    @property
    def evidence(self) -> float:
        r"""Bound on :math:`\frac1N \log p(x_1, \dots, x_N)` under the prior of the rates."""
        return float(self.given_rates.mean()) - self.global_kl / self.given_rates.numel()

    @property
    def published_metric(self) -> float:
        """``mean`` less the global KL divided by these examples, as Singh et al. (2017) report.

        A looser bound on the same density; none on the evidence.
        """
        return self.mean - self.global_kl / self.per_example.numel()


@torch.no_grad()
def log_likelihood_bound(
    vae: VariationalAutoencoder,
    data: Data,
    *,
    num_samples: int = 100,
    num_rates: int | None = None,
    masks: Literal["exact", "relaxed"] = "exact",
    batch_size: int = _MAX_ROWS,
    seed: int | None = None,
) -> LikelihoodBound:
    r"""Bound the log-likelihood of each example by importance sampling.

    .. math::
        \log p(x) \ge E \log \frac1S \sum_s \frac{p(x \mid z_s, h_s)\,p(z_s \mid v_s)\,p(h_s)}
        {q(z_s \mid v_s, x)\,q(h_s \mid x)}, \qquad
        v_s \sim q(v),\ z_s \sim q(z \mid v_s, x),\ h_s \sim q(h \mid x)

    ``S = 1`` is the evidence lower bound; larger is tighter, in expectation. The rates are global:
    a draw of them serves all examples. After training their posterior is part of the model, so
    that the density of a new example is an average over it, and there is nothing to pay for them;
    only the evidence of a whole data set contains their divergence (``evidence``). For the latter
    to be tight, let each draw of the rates have many samples: ``num_rates < num_samples``.

    Args:
        vae: The auto-encoder.
        data: Examples, or pairs whose second half is ignored.
        num_samples: Importance samples :math:`S` of each example.
        num_rates: Draws of the global rates, which divide ``num_samples`` among them; None takes
            one for each sample, as in the publication.
        masks: ``"exact"``: zeros and ones, the model as stated. ``"relaxed"``: the model that
            training sees, whose masks are in (0, 1).
        batch_size: Examples that pass through the networks at a time.
        seed: Makes the draw reproducible, and leaves torch's global generator alone.

    Raises:
        ConfigError: For bad options.
        DataError: If the data is empty, does not fit the likelihood, or has a bound of NaN.

    References:
        Burda, Grosse, Salakhutdinov (2016), https://arxiv.org/abs/1509.00519.

    Example:
        >>> import bayesdrop as bd
        >>> vae = bd.networks.vae(100, input_shape=8, latent_size=2)
        >>> log_likelihood_bound(vae, torch.ones(5, 8), num_samples=10).per_example.shape
        torch.Size([5])
    """
    num_rates = num_samples if num_rates is None else num_rates
    _check_options(num_samples, num_rates, batch_size, masks)
    if not isinstance(vae, VariationalAutoencoder):
        raise ConfigError(
            "log_likelihood_bound",
            expected="a VariationalAutoencoder",
            got=f"a {type(vae).__name__}",
            hint="For the density of a network's targets take bd.evaluate or bd.loo.",
        )
    data = arrays_of("log_likelihood_bound", vae, data)
    device = next(vae.parameters()).device
    results: list[Tensor] = []
    with seeded(seed), evaluation_mode(vae):
        if masks == "relaxed":
            vae.code.training = True  # and the networks in evaluation mode
        # All rates come first, so that every batch sees the same ones.
        rates = [vae.draw_rates() for _ in range(num_rates)]
        for given, _ in batches(data, batch_size, device=device):
            x = vae.check_batch(given)
            start = sum(map(len, results))
            check_finite("log_likelihood_bound", x, start, DataError, "input")
            encoding, repeats = vae.network.encode(x), num_samples // num_rates
            groups = [_log_mean_weight(vae, x, encoding, v, repeats) for v in rates]
            bounds = torch.stack(groups, dim=1)
            check_finite("log_likelihood_bound", bounds, start, DataError, "bound")
            results.append(bounds.cpu())
        global_kl = _global_kl(vae)
    by_rates = torch.cat(results)
    per_example = by_rates.logsumexp(1) - math.log(num_rates)
    return LikelihoodBound(per_example, by_rates.mean(1), global_kl, num_samples, num_rates)


def _log_mean_weight(
    vae: VariationalAutoencoder, x: Tensor, encoding: Encoding, rates: Latents, num_samples: int
) -> Tensor:
    # The logarithm of the average weight given one draw of the rates, (B,), one sample at a time.
    prior, posterior = vae.code.prior(rates), vae.code.posterior(encoding, rates)
    total = torch.full((), -math.inf, device=x.device)
    for _ in range(num_samples):
        local = draw(posterior)
        output = vae.network.decode(local)
        log_weight = vae.likelihood.distribution(output).log_prob(vae.likelihood.target(output, x))
        for name, q in posterior.items():
            log_weight = log_weight + prior[name].log_prob(local[name])
            log_weight = log_weight - q.log_prob(local[name])
        total = torch.logaddexp(total, log_weight.double())
    return total - math.log(num_samples)


def _global_kl(vae: VariationalAutoencoder) -> float:
    # Of the model as stated: neither tempered nor with a penalty, as training may have it.
    mask = vae.code.mask
    if mask is None:
        return 0.0
    return float(mask.kl_divergence()) / mask.kl_scale - float(mask.penalty() or 0.0)


def _check_options(num_samples: int, num_rates: int, batch_size: int, masks: str) -> None:
    if masks not in ("exact", "relaxed"):
        raise unknown_name("masks", masks, ("exact", "relaxed"))
    counts = (num_samples, num_rates, batch_size)
    if not all(map(is_whole, counts)) or min(counts) < 1 or num_samples % num_rates:
        raise ConfigError(
            "log_likelihood_bound",
            expected="num_samples >= 1, a multiple of num_rates >= 1, and batch_size >= 1",
            got=f"{num_samples=}, {num_rates=}, {batch_size=}",
            hint="Leave num_rates out for one draw of the rates for each sample.",
        )
