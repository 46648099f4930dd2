"""A variational auto-encoder with a learned number of features, as a Pyro model and guide."""

from __future__ import annotations

from typing import Any, cast

import pyro
import pyro.poutine as poutine
import torch
from torch import Tensor, nn
from typing_extensions import override

from bayesdrop.errors import ConfigError
from bayesdrop.likelihoods import Likelihood
from bayesdrop.nn import BayesianDropout, named_owners
from bayesdrop.nn.mode import in_turn
from bayesdrop.program.code import Code, Encoding, Sites, draw
from bayesdrop.program.finite import finite_rows
from bayesdrop.program.inputs import GivenInputs
from bayesdrop.program.latent_code import LatentCode, MaskPosterior
from bayesdrop.program.nested_code import NestedCode
from bayesdrop.program.program import Pass, Program
from bayesdrop.program.pyro_pair import PyroFunction
from bayesdrop.typing import Latents, LossTerms, NumMasks, SharedBy


class VariationalAutoencoder(Program):
    r"""A Gaussian code, switched on and off feature by feature, that a decoder turns into data.

    .. math::
        p(v)\ \text{(the prior of the mask's rates)}, \quad
        p(z_{nk} \mid v) = \mathrm{Bernoulli}(\pi_k(v)), \quad
        p(h_{nk}) = N(0, 1), \quad
        p(x_n \mid z_n, h_n) = p(x_n \mid f(z_n \odot h_n))

        q(v), \quad
        q(z_{nk} \mid v, x_n) = \mathrm{Bernoulli}(\sigma(\mathrm{logit}\,\pi_k(v) + d_k(x_n))),
        \quad q(h_{nk} \mid x_n) = N(\mu_k(x_n), \sigma_k^2(x_n))

    The rates ``v`` are global; the mask ``z`` and the features ``h`` belong to an example and are
    real sites of model and guide, whose divergences every example pays. With
    ``IndianBuffetDropout`` this is the structured IBP-VAE: its posterior shares the sampled
    sticks, and the encoder only says by how much an example departs from them. In training mode
    the mask is relaxed in prior and posterior; in evaluation mode it is exact, which is the model
    as stated.

    ``model``, ``guide``, ``fit``, ``save`` and ``load`` are used as for any ``BayesianNetwork``.
    Here the target ``y`` is the input itself unless one is given: ``svi.step(x)``, ``loss(x)``,
    ``fit(vae, (x, x), ...)``. So the model observes ``x``; for replicated data wrap it in
    ``poutine.uncondition``, or call ``reconstruct`` and ``sample``.

    Args:
        encoder: Maps ``x`` to ``(N, 3 K)``: log-odds offsets :math:`d`, means and log-variances of
            the features; without a mask to ``(N, 2 K)``: means and log-variances.
        decoder: Maps ``(N, K)`` to what the likelihood takes.
        likelihood: Of the target, such as ``Bernoulli()``.
        num_data: Number of training examples :math:`N`.
        latent_dropout: The prior and posterior of the rates: a dropout layer of :math:`K` units
            whose masks are independent given its latents. Its ``temperature`` and ``relaxation``
            are those of the mask. None is a plain variational auto-encoder. With a nested layer
            (``VariationalNestedDropout``, ``NestedDropout``) the features are ordered and each
            example uses a prefix of them: see ``NestedCode``; the two options of the mask below
            are then not looked at, and with ``NestedDropout`` the encoder gives ``(N, 2 K)``.
        latent_size: Number of features :math:`K`; needed without ``latent_dropout`` only.
        prior_temperature: Temperature of the relaxed prior, > 0; None is the posterior's. At equal
            temperatures the divergence of the mask is closed, and zero where :math:`d = 0`.
        mask_posterior: ``"structured"``, or ``"mean-field"``: log-odds :math:`d_k(x)` alone.
        kl_weight: Factor on all KL divergences, > 0; 1 is the ELBO.
        name: Prefix of the parameters in Pyro's parameter store.

    Sites:  ``code.mask.v`` (or what the layer's are called), event ``(K,)``; in the plate
        ``data``: ``code.mask.logits`` in training mode (the log-odds of the relaxed mask;
        ``code.mask.z`` is then deterministic), ``code.mask.z`` in evaluation mode, ``code.h``, all
        with event ``(K,)``, and ``obs``.

    Raises:
        ConfigError: If an argument makes no sense.

    References:
        Kingma, Welling (2014), https://arxiv.org/abs/1312.6114; Singh, Ling, Doshi-Velez (2017),
        "Structured Variational Autoencoders for the Beta-Bernoulli Process".
        Deviations: a scale is the root of the exponential of the log-variance (the authors' code
        samples with its square); relaxed masks are sampled as log-odds.

    Example:
        >>> import bayesdrop as bd
        >>> encoder, decoder, gates = nn.Linear(8, 6), nn.Linear(2, 8), bd.IndianBuffetDropout(2)
        >>> vae = VariationalAutoencoder(
        ...     encoder, decoder, bd.Bernoulli(), num_data=100, latent_dropout=gates
        ... )
        >>> vae.loss(torch.zeros(5, 8)).loss.shape, vae.sample(3).shape
        (torch.Size([]), torch.Size([3, 8]))
    """

    has_local_latents = True
    takes_several = False
    network: _Autoencoder

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: Likelihood,
        num_data: int,
        *,
        latent_dropout: BayesianDropout | None = None,
        latent_size: int | None = None,
        prior_temperature: float | None = None,
        mask_posterior: MaskPosterior = "structured",
        kl_weight: float = 1.0,
        name: str | None = None,
    ) -> None:
        if latent_size is None:
            latent_size = 0 if latent_dropout is None else latent_dropout.num_units
        if latent_size < 1:
            raise ConfigError(
                "VariationalAutoencoder",
                expected="latent_size >= 1, or a latent_dropout",
                got=f"latent_size={latent_size}",
                hint="Pass the number of features.",
            )
        code = make_code(
            latent_size,
            latent_dropout,
            prior_temperature=prior_temperature,
            mask_posterior=mask_posterior,
        )
        network = _Autoencoder(encoder, code, decoder)
        super().__init__(network, likelihood, num_data, kl_weight=kl_weight, name=name)

    @override
    def make_pair(self) -> tuple[nn.Module, nn.Module]:
        return _Model(self), _Guide(self)

    @property
    @override
    def is_random(self) -> bool:
        """True: the features of an example are random even where no mask is."""
        return True

    @override
    def posterior_passes(self, num_samples: int, *, shared_by: SharedBy) -> list[Pass]:
        """Return passes that reconstruct, each under one draw of the global rates.

        The latents of an example are drawn in the pass, whoever shares masks: they depend on it.
        """
        self.check_plain_torch("predict")
        return [self._posterior_pass() for _ in range(num_samples)]

    def _posterior_pass(self) -> Pass:
        rates = self.draw_rates()
        return lambda x: self.network.decode(
            draw(self.code.posterior(self.network.encode(cast(Tensor, x)), rates))
        )

    @property
    def code(self) -> Code:
        """The prior and posterior of an example's latents."""
        return self.network.code

    @property
    def latent_size(self) -> int:
        """Number of features :math:`K`."""
        return self.code.num_features

    @override
    @in_turn
    def loss(
        self, x: GivenInputs, y: Tensor | None = None, *, num_masks: NumMasks = 1
    ) -> LossTerms:
        """Return minus the ELBO for the whole data set, in nats: one reparameterised sample.

        In training mode it has the value and the gradient of ``TraceMeanField_ELBO`` for the same
        noise. In evaluation mode masks are exact, and have no gradient.

        Args:
            x: A batch of inputs, ``(B, ...)``.
            y: What to reconstruct; None is ``x``.
            num_masks: 1, as an example's mask has a posterior of its own.
        """
        x = self.check_batch(x, y)
        nll, kl = self._terms_of_examples(x, y, num_masks)
        scale = self.num_data / len(x)
        return LossTerms(nll * scale, self.kl_weight * kl * scale + self.shared_divergence())

    @override
    @in_turn
    def data_term(
        self, x: GivenInputs, y: Tensor | None = None, *, num_masks: NumMasks = 1
    ) -> Tensor:
        """Return the batch's reconstruction loss and the divergences of its own latents."""
        nll, kl = self._terms_of_examples(x, y, num_masks)
        return nll + self.kl_weight * kl

    @override
    def shared_divergence(self) -> Tensor:
        mask = self.code.mask
        if mask is None:
            return torch.zeros((), device=next(self.parameters()).device)
        return self.kl_weight * mask.kl_divergence()

    def _terms_of_examples(
        self, given: GivenInputs, y: Tensor | None, num_masks: NumMasks
    ) -> tuple[Tensor, Tensor]:
        self.check_num_masks(num_masks)
        self.check_plain_torch("VariationalAutoencoder.loss")
        x = self.check_batch(given, y)
        y = x if y is None else y
        rates = self.draw_rates()
        with finite_rows("VariationalAutoencoder.loss", x, y):
            posterior = self.code.posterior(self.network.encode(x), rates)
            latents = draw(posterior)
            nll = self.likelihood.nll(self.network.decode(latents), y)
        kl = self.code.kl_divergence(posterior, self.code.prior(rates), latents)
        penalty = self.code.penalty(posterior)
        return nll, kl if penalty is None else kl + penalty.sum()

    @override
    def check_batch(self, x: GivenInputs, y: Tensor | None = None) -> Tensor:
        return cast(Tensor, super().check_batch(x, cast(Any, x) if y is None else y))

    def draw_rates(self) -> Latents:
        """Draw the mask's global latents from their posterior; empty without a mask."""
        return {} if self.code.mask is None else self.code.mask.draw_latents()

    def keep_prob(self) -> Tensor:
        """Return the posterior probability of each feature over all examples, ``(K,)``.

        It is that of the global rates, before an example's own departure from them; their sum is
        the number of features that the trained prior gives an example.
        """
        return self.code.keep_prob()

    def feature_probs(self, x: Tensor) -> Tensor:
        r"""Return the posterior probability of each feature for each example, ``(B, K)``.

        The sum of a row is the number of features that the example is expected to use. The rates
        are held at their posterior means: :math:`\sigma(\mathrm{logit}\,E[\pi_k] + d_k(x))`.
        """
        return self.code.feature_probs(self.network.encode(x))

    @torch.no_grad()
    def reconstruct(
        self, x: Tensor, num_samples: int = 1, *, num_features: int | None = None
    ) -> Tensor:
        """Return the mean of a replicated ``x`` given ``x``, over draws of all latents.

        The masks are exact in evaluation mode.

        Args:
            x: A batch, ``(B, ...)``.
            num_samples: Draws to average over.
            num_features: Use the first so many features of an ordered code, and no other.

        Raises:
            ConfigError: If ``num_features`` does not fit the code, or it has no order.
        """
        encoding, means = self.network.encode(x), []
        for _ in range(num_samples):
            latents: Latents
            if num_features is None:
                latents = draw(self.code.posterior(encoding, self.draw_rates()))
            else:
                latents = self.code.prefix(encoding, len(encoding.mean), num_features)
            means.append(self.likelihood.moments(self.network.decode(latents))[0] / num_samples)
        return sum(means[1:], start=means[0])

    @torch.no_grad()
    def sample(self, num_samples: int, *, num_features: int | None = None) -> Tensor:
        """Return means of new examples, from the prior of the local latents.

        The rates are drawn from their posterior, one draw for each example; the masks are exact
        in evaluation mode.

        Args:
            num_samples: Number of examples.
            num_features: As for ``reconstruct``.
        """
        shape = torch.Size((num_samples,))
        if num_features is not None:
            latents = self.code.prefix(None, num_samples, num_features)
            return self.likelihood.moments(self.network.decode(latents))[0]
        sites: Sites = {} if self.code.mask is None else self.code.mask.posterior()
        rates = {name: q.sample(shape) for name, q in sites.items()}
        prior = {name: fn.expand(shape) for name, fn in self.code.prior(rates).items()}
        return self.likelihood.moments(self.network.decode(draw(prior)))[0]


def make_code(
    latent_size: int,
    latent_dropout: BayesianDropout | None,
    *,
    prior_temperature: float | None = None,
    mask_posterior: MaskPosterior = "structured",
) -> Code:
    """Return the code that a layer makes: ordered if its masks are, else features on and off.

    The arguments are those of ``VariationalAutoencoder``.
    """
    if latent_dropout is not None and latent_dropout.ordered_law() is not None:
        return NestedCode(latent_dropout)
    return LatentCode(
        latent_size,
        latent_dropout,
        prior_temperature=prior_temperature,
        mask_posterior=mask_posterior,
    )


class _Autoencoder(nn.Module):
    """Encoder, latent code and decoder in plain torch."""

    def __init__(self, encoder: nn.Module, code: Code, decoder: nn.Module) -> None:
        super().__init__()
        for part in (encoder, decoder):
            for path, layer in named_owners(part):
                raise ConfigError(
                    "VariationalAutoencoder",
                    expected="an encoder and a decoder without Bayesian layers",
                    got=f"{layer!r} at {path!r}",
                    hint="Pass the mask of the code as latent_dropout.",
                )
        self.encoder, self.code, self.decoder = encoder, code, decoder

    def encode(self, x: Tensor) -> Encoding:
        return self.code.encoding(self.encoder(x))

    def decode(self, latents: Latents) -> Tensor:
        code = self.code(latents)
        output = self.decoder(code.reshape(-1, code.shape[-1]))
        return output.reshape(code.shape[:-1] + output.shape[1:])

    @override
    def forward(self, x: Tensor) -> Tensor:
        # With sampled latents in training mode, else with their means.
        encoding, mask = self.encode(x), self.code.mask
        if self.training:
            rates = {} if mask is None else mask.draw_latents()
            return self.decode(draw(self.code.posterior(encoding, rates)))
        return self.decode(self.code.mean_latents(encoding))


class _LocalFunction(PyroFunction):
    bnn: VariationalAutoencoder

    def _sample_rates(self, sites: Sites) -> dict[str, Tensor]:
        mask = self.bnn.code.mask
        if mask is None:
            return {}
        with poutine.scale(scale=mask.kl_scale * self.bnn.kl_weight):
            return {name: pyro.sample(f"{mask.path}.{name}", fn) for name, fn in sites.items()}

    def _sample_local(self, sites: Sites) -> dict[str, Tensor]:
        with poutine.scale(scale=self.bnn.kl_weight):
            return {name: pyro.sample(f"code.{name}", fn) for name, fn in sites.items()}


class _Guide(_LocalFunction):
    @override
    def _run(self, x: Any, y: Tensor | None, num_masks: NumMasks) -> None:
        vae = self.bnn
        rates = self._sample_rates({} if vae.code.mask is None else vae.code.mask.posterior())
        # Networks run outside the plate: their weights may be sites, for all examples.
        encoding = vae.network.encode(x)
        with self._data_plate(x, x if y is None else y):
            self._sample_local(vae.code.posterior(encoding, rates))


class _Model(_LocalFunction):
    @override
    def _run(self, x: Any, y: Tensor | None, num_masks: NumMasks) -> Tensor:
        vae, y = self.bnn, x if y is None else y
        code = vae.code
        rates = self._sample_rates({} if code.mask is None else code.mask.prior())
        plate = self._data_plate(x, y)
        with plate:
            latents = self._sample_local(code.prior(rates))
            for name, value in code.deterministic(latents).items():
                pyro.deterministic(f"code.{name}", value, event_dim=1)
        output = vae.network.decode(latents)
        batch_ndim = latents["h"].ndim - 1
        rows = output.flatten(0, batch_ndim - 1)[: x.shape[0]]
        fn = vae.likelihood.distribution(output, batch_ndim=batch_ndim)
        with plate:
            pyro.sample("obs", fn, obs=vae.likelihood.target(rows, y))
        self._add_penalty(x, plate)
        return output

    def _add_penalty(self, x: Tensor, plate: Any) -> None:
        # The global rates are no part of it: only ordered codes, which have none, have a penalty.
        code = self.bnn.code
        if not code.is_ordered:
            return
        penalty = code.penalty(code.posterior(self.bnn.network.encode(x), {}))
        if penalty is not None:
            with plate, poutine.scale(scale=self.bnn.kl_weight):
                pyro.factor("code.penalty", -penalty)
