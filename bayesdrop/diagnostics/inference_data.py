"""ArviZ: a network's posterior as InferenceData (0.x) or DataTree (1.x)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bayesdrop.diagnostics.arviz_bridge import data_from_dict, import_arviz
from bayesdrop.distributions import OrderedMask
from bayesdrop.errors import ConfigError, FewMasksWarning
from bayesdrop.inference.arrays import arrays_of
from bayesdrop.inference.batches import Data, num_examples
from bayesdrop.inference.draws import (
    Draw,
    DrawBatch,
    draw_posterior,
    draw_prior,
    evaluate_draws,
    log_densities,
    provides,
    stack_draws,
)
from bayesdrop.nn import BayesianDropout, LatentOwner
from bayesdrop.nn.arguments import is_real, is_whole
from bayesdrop.nn.mode import evaluation_mode
from bayesdrop.ops.seeding import seeded
from bayesdrop.program.checks import require_digits
from bayesdrop.program.inputs import named_inputs
from bayesdrop.program.program import Program
from bayesdrop.typing import NumMasks

_EXAMPLE = "example"


@torch.no_grad()
def to_inference_data(
    bnn: Program,
    x: Data,
    y: Tensor | None = None,
    *,
    num_samples: int = 64,
    num_masks: NumMasks | None = None,
    keep_inputs: bool = True,
    batch_size: int | None = None,
    memory_limit: int = 2**30,
    seed: int | None = None,
) -> Any:
    r"""Return what the posterior says of ``x`` and ``y`` as ArviZ's data structure.

    .. math::
        \pi_s \sim q(\pi), \qquad z_{nsm} \sim p(z \mid \pi_s), \qquad
        \ell_{sn} = \log \frac1M \sum_{m=1}^{M} p(y_n \mid x_n, z_{nsm})

    Draws are independent, so there is one chain. Groups:

    * ``posterior``: the global latents of every dropout layer under their Pyro site names, such as
      ``fc1_dropout.pi``, and ``fc1_dropout.keep_prob``: the probability that a unit is kept under
      that draw, :math:`P(z = 1 \mid \pi_s)` (for ``pi`` itself the same number, a constant for a
      layer without latents). Both have the dimension ``fc1_dropout.unit``. Masks that depend on
      the input have no such number and are left out.
      The order of nested layers is ``fc1_dropout.order`` where it is global: where the batch
      shares it; its dimension is ``fc1_dropout.group``.
      Random weights, such as ``fc1.weight``, have dimensions ``fc1.weight_0`` and so on; they are
      held in memory for every draw, within ``memory_limit``.
    * ``prior``: the same from the prior, where it can be sampled.
    * ``posterior_predictive``: ``obs``, one simulated class label or value for each draw and
      example.
    * ``log_likelihood``: ``obs``, :math:`\ell_{sn}`; the masks are averaged over within a draw,
      the draws are not.
    * ``sample_stats``: ``log_prior`` :math:`\log p(\pi_s)`, ``log_guide`` :math:`\log q(\pi_s)`
      and ``log_ratio``, their difference, whose mean is minus the KL divergence; in nats, without
      ``kl_scale`` and ``kl_weight``.
    * ``observed_data``: ``obs``. ``constant_data``: ``x``; each layer's ``keep_prob`` averaged
      over the posterior in closed form; and of nested layers the law that was learned, or fixed:
      ``fc1_dropout.width_prob``, the posterior probability of every number of kept groups, and
      ``fc1_dropout.prior_width_prob``. Their dimension is ``fc1_dropout.width``, in groups.
    * A regression of one output has no dimension ``output``, so that ``az.loo_pit`` and
      ``az.plot_loo_pit`` work. With several, ``log_likelihood`` is that of all of them.

    **What leave-one-out means here.** The latents of ``az.loo`` are :math:`\pi`. Its pointwise
    likelihood should be :math:`p(y_n \mid x_n, \pi_s)`, with the mask summed out. One mask
    (``num_masks=1``) conditions on :math:`z_n`, which the guide draws from its prior, not from its
    posterior given :math:`y_n`; ``az.loo`` then reweights towards the masks that fit
    :math:`y_n` worst, and its result is too low, by tens of nats with few examples, with large
    Pareto k. So there are 32 masks by default, or all of them; the bias of :math:`\ell_{sn}`
    itself is about :math:`-\mathrm{Var}_z[p] / (2 M E_z[p]^2)`.
    Two things no number of masks removes: the draws are the guide's, not the exact posterior's,
    for which ``bd.loo`` corrects and ``az.loo`` does not; and weights
    without a posterior were fitted to all examples, so that leaving one out does not remove its
    influence on them. Where ``x`` and ``y`` are the training set, take ``elpd_loo`` as optimistic.

    **Cost.** Every example passes through the network ``num_samples`` times ``num_masks`` times:
    2048 times by default. ``num_masks=1`` is enough for everything but ``log_likelihood``, and
    warns if there is one.

    Args:
        bnn: The Bayesian network.
        x: Inputs; or a Dataset, a DataLoader or a pair, which may bring the targets; arrays and
            tables as in ``fit``. Several are a tuple or a mapping, which with ``y`` are one.
        y: Targets. Without any there is no ``log_likelihood`` and no ``observed_data``.
        num_samples: Draws :math:`S`.
        num_masks: Masks :math:`M` for each draw and example; ``"exact"`` sums over all masks of
            one layer, of at most 10 Bernoulli units. None takes one where masks follow from the
            latents, all of them where there are at most 64, and 32 otherwise.
        keep_inputs: Whether ``constant_data`` has ``x``, or all inputs of a network with several:
            ``input_0`` and so on, or what they are called.
        batch_size: Examples that pass through the network at a time, each ``num_masks`` times;
            None derives it from ``memory_limit``.
        memory_limit: Bytes for the activations of one pass, and as many for the result.
        seed: Makes the draws reproducible, for the same batch size, and leaves torch's global
            generator alone.

    Returns:
        ``arviz.InferenceData``, or an ``xarray.DataTree`` with ArviZ 1.x.

    Warns:
        FewMasksWarning: If ``log_likelihood`` comes from one random mask.

    Raises:
        ConfigError: For bad options, a network in 16 bits, with nothing random in it or with
            latents for each example (an auto-encoder), targets of a likelihood with class weights
            or label smoothing, or a result larger than ``memory_limit``.
        DataError: If the data is empty or not finite.
        DivergenceError: If a log-likelihood is not finite.
        ImportError: If ArviZ is not installed.

    References:
        Vehtari, Gelman, Gabry (2017), "Practical Bayesian model evaluation using leave-one-out
        cross-validation and WAIC", https://arxiv.org/abs/1507.04544.

    Example:
        >>> import bayesdrop as bd
        >>> net = torch.nn.Sequential(bd.BetaBernoulliDropout(4), torch.nn.Linear(4, 3))
        >>> bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=100)
        >>> idata = to_inference_data(bnn, torch.zeros(5, 4), torch.zeros(5).long())
        >>> idata.posterior["0.pi"].dims, idata.log_likelihood["obs"].shape
        (('chain', 'draw', '0.unit'), (1, 64, 5))
    """
    who = "to_inference_data"
    check_options(who, bnn, num_samples, num_masks, batch_size, memory_limit)
    require_digits(who, bnn)
    import_arviz()
    data = arrays_of(who, bnn, x if y is None else (x, y))
    weights = sum(bnn.total().get("weights", []))
    check_fits(who, num_samples, num_examples(data), weights, memory_limit)
    contents = _Contents()
    with evaluation_mode(bnn), seeded(seed):
        draws = draw_posterior(bnn, num_samples)
        stacked = stack_draws(draws)
        contents.add_latents("posterior", bnn, stacked, num_samples)
        contents.add_latents("prior", bnn, draw_prior(bnn, num_samples), num_samples)
        for path, layer in bnn.named_dropout_layers():
            name = _join_name(path, "keep_prob")
            contents.add("constant_data", name, layer.keep_prob(), [_unit(path)])
            contents.add_widths(path, layer)
        if (densities := log_densities(draws)) is not None:
            prior, guide = densities
            for name, value in (("prior", prior), ("guide", guide), ("ratio", prior - guide)):
                contents.add("sample_stats", f"log_{name}", value, sampled=True)
        parts = []
        for part in evaluate_draws(
            bnn,
            data,
            draws,
            who=who,
            num_masks=num_masks,
            batch_size=batch_size,
            memory_limit=memory_limit,
        ):
            if part.y is not None:
                check_density(f"log_likelihood of {who}", bnn)
            parts.append(part)
    warn_of_one_mask(who, parts[0])
    contents.add_examples(
        x=_inputs(parts) if keep_inputs else {},
        y=_join([part.y for part in parts], dim=0),
        log_likelihood=_join([part.log_likelihood for part in parts], dim=1),
        observations=_join([part.observations for part in parts], dim=1),
    )
    attrs = {"num_masks": parts[0].num_masks, "num_data": bnn.num_data}
    return data_from_dict(contents.groups, contents.dims, contents.coords, attrs)


def _inputs(parts: Sequence[DrawBatch]) -> dict[str, Tensor]:
    """Return the inputs of all examples by name: ``x``, or those of a network with several."""
    named = [named_inputs(part.x) for part in parts]
    names = [name.strip("'").replace(" ", "_") for name, _ in named[0]]
    return {name: torch.cat([tensors[i][1] for tensors in named]) for i, name in enumerate(names)}


def check_density(who: str, bnn: Program) -> None:
    """Raise ``ConfigError`` if the likelihood is weighted, and therefore no density of ``y``."""
    if not bnn.likelihood.is_density:
        raise ConfigError(
            who,
            expected="a likelihood that is a density of y",
            got=f"the weighted one of {bnn.likelihood}",
            hint="Leave the targets out, or compare on held-out data: bd.evaluate reports the NLL "
            "without weights and smoothing.",
        )


def warn_of_one_mask(who: str, part: DrawBatch) -> None:
    """Warn if a log-likelihood comes from one random mask."""
    if part.num_masks == 1 and part.enough_masks != 1 and part.y is not None:
        warnings.warn(
            f"{who}: expected several masks of each example, or all of them, in its "
            "log-likelihood, got num_masks=1. Leave-one-out figures of it are too low, by tens of "
            "nats and more. Leave num_masks at its default, or pass no targets.",
            FewMasksWarning,
            stacklevel=4,
        )


def check_options(
    who: str,
    bnn: object,
    num_samples: int,
    num_masks: NumMasks | None,
    batch_size: int | None,
    memory_limit: int,
    *,
    fewest: int = 1,
) -> None:
    """Raise ``ConfigError`` unless ``bnn`` has something to draw and the numbers make sense."""
    if not isinstance(bnn, Program) or not bnn.is_random:
        raise ConfigError(
            who,
            expected="a BayesianNetwork with Bayesian layers",
            got=type(bnn).__name__
            if not isinstance(bnn, Program)
            else "one without: there is nothing to draw",
            hint="Put layers in with bd.convert, wrap with bd.BayesianNetwork.",
        )
    if num_masks not in (None, "exact") and not (is_whole(num_masks) and int(num_masks) >= 1):
        raise ConfigError(
            who,
            expected="num_masks of at least 1, or 'exact', or None",
            got=f"num_masks={num_masks!r}",
            hint="32 are enough for most; 'exact' sums over those of one small layer.",
        )
    counts = (num_samples, fewest if batch_size is None else batch_size)
    numbers = all(map(is_whole, counts)) and is_real(memory_limit)
    if not numbers or num_samples < fewest or counts[1] < 1 or not memory_limit >= 1:
        raise ConfigError(
            who,
            expected=f"num_samples of at least {fewest}, and batch_size and memory_limit of at "
            "least 1",
            got=f"{num_samples!r}, {batch_size!r} and {memory_limit!r}",
            hint="Leave what you do not need at its default.",
        )


def check_fits(who: str, num_samples: int, rows: int, weights: int, memory_limit: int) -> None:
    """Raise ``ConfigError`` if what has a number for each draw and example is too large."""
    # A label and a log-likelihood for each draw and example; random weights also in float64.
    needed = num_samples * (16 * rows + 16 * weights)
    if needed > memory_limit:
        of_weights = f" and {weights:,} random weights" if weights else ""
        raise ConfigError(
            who,
            expected=f"a result of at most memory_limit={memory_limit} bytes",
            got=f"{num_samples} draws x {rows} examples{of_weights}, at least {needed} bytes",
            hint="Pass fewer examples or draws, or a larger memory_limit.",
        )


@dataclass
class _Contents:
    # Arrays by group, and the names of their dimensions, in the form that both versions take.
    groups: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    dims: dict[str, list[str]] = field(default_factory=dict)
    coords: dict[str, np.ndarray] = field(default_factory=dict)

    def add(
        self,
        group: str,
        name: str,
        value: Tensor,
        dims: Sequence[str] = (),
        *,
        sampled: bool = False,
        first: int = 0,
    ) -> None:
        """Add a variable, whose coordinates start at ``first``.

        ``sampled`` says that its first dimension is that of the draws.
        """
        array = value.detach().cpu().numpy()
        self.groups.setdefault(group, {})[name] = array[np.newaxis] if sampled else array
        self.dims[name] = list(dims)
        for dim, size in zip(dims, value.shape[1 if sampled else 0 :], strict=True):
            self.coords[dim] = np.arange(first, first + size)

    def add_latents(self, group: str, bnn: Program, stacked: Draw, num_samples: int) -> None:
        """Add the latents, and the keep probabilities that follow from them."""
        for path, owner in bnn.named_owners():
            if owner not in stacked:
                continue
            for name, value in stacked[owner].items():
                site = _join_name(path, name)
                law = owner.ordered_law() if isinstance(owner, BayesianDropout) else None
                if law is not None and tuple(value.shape[1:]) == tuple(law.prior_logits.shape):
                    dims, first = [_join_name(path, "group")], law.always_kept
                else:
                    dims, first = _dims(site, path, owner, value.shape[1:]), 0
                self.add(group, site, value, dims, sampled=True, first=first)
            if not isinstance(owner, BayesianDropout) or owner.input_dependent:
                continue
            mean: Tensor | None = None
            if not owner.posterior():
                mean = owner.keep_prob()
            # The mean of a mask that is rescaled, or noise, is no probability.
            elif owner.mask_kind == "gate":
                mask = owner.mask_distribution(stacked[owner])
                mean = mask.mean if provides(mask, "mean") else None
            if mean is not None:
                mean = mean.expand(num_samples, owner.num_units)
                self.add(group, _join_name(path, "keep_prob"), mean, [_unit(path)], sampled=True)
        if group == "posterior" and group not in self.groups:
            raise ConfigError(
                "to_inference_data",
                expected="a dropout layer with latents, or with one keep probability a unit",
                got="layers whose masks depend on the input and that have no latents",
                hint="Look at bd.predict, which returns what the masks do to the output.",
            )

    def add_widths(self, path: str, layer: BayesianDropout) -> None:
        """Add the law of the number of groups that an ordered layer keeps."""
        law = layer.ordered_law()
        if law is None:
            return
        dims = [_join_name(path, "width")]
        for name, logits in {
            "width_prob": law.init_logits,
            "prior_width_prob": law.prior_logits,
        }.items():
            probs = OrderedMask(logits=logits, validate_args=False).tail_probs
            self.add("constant_data", _join_name(path, name), probs, dims, first=law.always_kept)

    def add_examples(
        self,
        *,
        x: Mapping[str, Tensor],
        y: Tensor | None,
        log_likelihood: Tensor | None,
        observations: Tensor | None,
    ) -> None:
        """Add what has a row for each example."""
        if log_likelihood is not None:
            self.add("log_likelihood", "obs", log_likelihood, [_EXAMPLE], sampled=True)
        for name, value in x.items():
            self.add("constant_data", name, value, [_EXAMPLE, *_numbered(name, value.ndim - 1)])
        if y is not None:
            y = y.squeeze(1) if _has_one_output(y.shape[1:]) else y
            self.add("observed_data", "obs", y, [_EXAMPLE, *_outputs(y.ndim - 1)])
        if observations is not None:
            if _has_one_output(observations.shape[2:]):
                observations = observations.squeeze(2)
            dims = [_EXAMPLE, *_outputs(observations.ndim - 2)]
            self.add("posterior_predictive", "obs", observations, dims, sampled=True)


def _join(parts: Sequence[Tensor | None], *, dim: int) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.cat(present, dim) if present else None


def _join_name(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _unit(path: str) -> str:
    return _join_name(path, "unit")


def _has_one_output(shape: torch.Size) -> bool:
    return tuple(shape) == (1,)


def _outputs(ndim: int) -> list[str]:
    return ["output"] if ndim == 1 else _numbered("output", ndim)


def _numbered(name: str, ndim: int) -> list[str]:
    return [f"{name}_{index}" for index in range(ndim)]


def _dims(site: str, path: str, owner: LatentOwner, shape: torch.Size) -> list[str]:
    """Name a latent's dimensions: the layer's units if it has one number a unit."""
    if isinstance(owner, BayesianDropout) and tuple(shape) == (owner.num_units,):
        return [_unit(path)]
    return _numbered(site, len(shape))
