"""Is the objective what it claims to be? The laws of the ELBO, checked on a user's network."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
import pyro
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor, nn
from typing_extensions import override

from bayesdrop.diagnostics.kl import (
    ROUNDING,
    SUPPORT,
    UNREGISTERED,
    CheckRow,
    check_kl,
    check_support,
    critical_value,
)
from bayesdrop.errors import ConfigError, DataError
from bayesdrop.inference.arrays import arrays_of
from bayesdrop.metrics.arrays import as_tensor
from bayesdrop.nn import LatentOwner, MaskSum, TrainingPass, prior_among, repeat_rows
from bayesdrop.nn.arguments import is_whole
from bayesdrop.ops.seeding import seeded
from bayesdrop.program.finite import check_finite
from bayesdrop.program.inputs import (
    GivenInputs,
    Inputs,
    as_inputs,
    each_input,
    outputs_of,
    require_data,
    shape_text,
)
from bayesdrop.program.program import Program
from bayesdrop.record import TableRecord
from bayesdrop.typing import Latents, LossTerms, NumMasks

Options: TypeAlias = dict[str, Any]

_PARTS = (2, 4)  # The batch is cut in halves and quarters.
_BIAS_ROWS = 2048  # Examples x masks of one gradient.


@dataclass(frozen=True)
class ELBOCheck(TableRecord, also=("passed",)):
    """What ``check_elbo`` returns.

    Args:
        rows: One for each check.
    """

    rows: tuple[CheckRow, ...]
    text_columns = 2

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(row.passed for row in self.rows)

    def failures(self) -> list[CheckRow]:
        """Return the rows that failed."""
        return [row for row in self.rows if not row.passed]

    @override
    def table(self) -> tuple[list[str], list[list[str]]]:
        cells = [
            [
                row.check,
                row.where,
                f"{row.value:.6g}",
                "" if math.isnan(row.expected) else f"{row.expected:.6g}",
                "" if math.isnan(row.tolerance) else f"{row.tolerance:.2g}",
                "pass" if row.passed else "**FAIL**",
                row.detail,
            ]
            for row in self.rows
        ]
        return ["check", "where", "value", "expected", "tolerance", "", ""], cells


def check_elbo(
    bnn: Program,
    x: GivenInputs,
    y: Tensor | None = None,
    *,
    num_samples: int = 10_000,
    num_repeats: int = 50,
    num_masks: NumMasks = 1,
    seed: int = 0,
) -> ELBOCheck:
    r"""Check the laws of the ELBO on a network and some data.

    * **Prior support**: no sample of the posterior lies where the prior has no density, else the
      KL divergence is infinite whatever its formula says.
    * **KL divergence**: each layer's closed form, as the loss uses it and divided by ``kl_scale``,
      is the Monte Carlo mean of :math:`\log q - \log p`; where the prior depends on what layers
      share, given one draw of that. A layer's penalty is no KL divergence, and left out.
    * **Batch size, plain loss**: ``bnn.loss`` of the whole batch is the average over its halves
      and quarters, NLL and KL each, with the mean masks and to rounding.
    * **Batch size, Pyro**: the same of ``TraceMeanField_ELBO`` from ``bnn.model`` and
      ``bnn.guide``, with sampled masks and within their noise.
    * **Gradient**: finite, present for every trainable parameter and not zero for a whole group;
      the value is its noise, :math:`\sqrt{\mathrm{tr}\,\mathrm{Cov}[g]} / \lVert E[g] \rVert`,
      for this batch. Noise alone does not fail: at an optimum the mean is zero.
    * **Gradient bias**: where all masks can be listed (``num_masks="exact"``), of the mask's
      parameters: the NLL's gradient from sampled masks, in the mean, against that of its sum over
      all exact masks, as a share of the latter and less what is noise. It is what relaxed and
      straight-through masks pay; it does not fail.

    The last four need a loss: they are left out where the prior's support does not hold the
    posterior or no closed form is registered. All is computed in float64 on a copy. Tolerances of
    sampled quantities are Student's t times the standard error, such that one of 10,000 tables of
    a correct network has a failure.

    Args:
        bnn: The network; it is not changed.
        x: Inputs, at least 4; up to three are left out to have quarters of equal size. Without
            ``y`` a pair of inputs and targets.
        y: Their targets.
        num_samples: Posterior samples for the KL divergence and the support. With random weights
            each is as large as the network: 1000 are plenty.
        num_repeats: Repetitions of the sampled losses and gradients.
        num_masks: Masks of each example inside the logarithm, as for ``bnn.loss``.
        seed: Makes the table reproducible; torch's global generator is left alone.

    Raises:
        ConfigError: If ``bnn`` is not a ``BayesianNetwork`` or a number is too small.
        DataError: If there are fewer than 4 examples, or an input is no finite number.

    References:
        The KL check is that of Pyro's own tests; the others state what "ELBO of the whole data
        set" means (Hoffman et al., 2013, https://arxiv.org/abs/1206.7051, section 2.3).

    Example:
        >>> import bayesdrop as bd
        >>> net = torch.nn.Sequential(bd.BetaBernoulliDropout(4), torch.nn.Linear(4, 3))
        >>> bnn = bd.BayesianNetwork(net, bd.Categorical(), num_data=100)
        >>> check_elbo(bnn, torch.rand(8, 4), torch.zeros(8).long(), num_samples=1000).passed
        True
    """
    if y is None and isinstance(x, tuple | list) and len(x) == 2:
        x, y = cast(Any, x)
    if isinstance(bnn, nn.Module):
        x, y = cast(Any, arrays_of("check_elbo", bnn, (x, y)))
    x = as_inputs("check_elbo", _as_tensor(x))
    y = require_data("check_elbo", "y", _as_tensor(y))
    _check_arguments(bnn, x, num_samples, num_repeats)
    num_samples, num_repeats = int(num_samples), int(num_repeats)  # of NumPy, they may be
    bnn.check_num_masks(num_masks)
    # Only where it is asked for, so that a subclass's loss of two arguments can be checked.
    options: Options = {} if num_masks == 1 else {"num_masks": num_masks}
    work = copy.deepcopy(bnn).double().eval()  # in training mode an ordered mask is relaxed
    rows_used = len(x) // _PARTS[-1] * _PARTS[-1]
    x, y = each_input(_fixed, x[:rows_used]), _fixed(y[:rows_used])
    owners = work.named_owners()
    # Owners' KL divergences, and two sizes of Pyro batches.
    comparisons = len(owners) + len(_PARTS)
    rows: list[CheckRow] = []
    with seeded(seed):
        given: dict[LatentOwner, Latents] = {}
        for _, owner in owners:
            given[owner] = {name: value.detach() for name, value in owner.draw_latents().items()}
        for path, owner in owners:
            prior = prior_among(owner, given)
            rows += check_support(path, owner, prior, num_samples)
            rows.append(check_kl(path, owner, prior, num_samples, comparisons))
        # Else there is no loss: its KL divergence is infinite or cannot be computed.
        if not any(
            row.detail == UNREGISTERED or (row.check == SUPPORT and not row.passed) for row in rows
        ):
            rows += _check_batch_size(work, x, y, options, seed)
            rows += _check_pyro_batch_size(work, x, y, options, num_repeats, comparisons)
            rows += _check_gradients(work, x, y, options, num_repeats)
            rows += [] if options else _check_bias(work, x, y, num_repeats)
    return ELBOCheck(tuple(rows))


def _as_tensor(value: Any) -> Any:
    return as_tensor("check_elbo", value) if isinstance(value, np.ndarray) else value


def _fixed(value: Tensor) -> Tensor:
    return value.detach().double() if value.is_floating_point() else value.detach()


# -- batch size -----------------------------------------------------------------------------------


@torch.no_grad()
def _check_batch_size(
    bnn: Program, x: Inputs, y: Tensor, options: Options, seed: int
) -> Iterator[CheckRow]:
    # The loss of training, in a network without noise: mean masks, no batch statistics.
    bnn.train()
    bnn.network.eval()

    def terms_of(x: Inputs, y: Tensor) -> LossTerms:
        # What layers share is drawn even here.
        with seeded(seed):
            return bnn.loss(x, y, **options)

    whole = terms_of(x, y)
    for parts in _PARTS:
        terms = [terms_of(a, b) for a, b in _split(x, y, parts)]
        for name in ("nll", "kl"):
            expected = float(getattr(whole, name))
            value = sum(float(getattr(term, name)) for term in terms) / parts
            tolerance = ROUNDING * max(1.0, abs(expected))
            yield CheckRow(
                check=f"batch size, plain loss, {name.upper()}",
                where=f"{len(x)} to {len(x) // parts} examples",
                value=value,
                expected=expected,
                tolerance=tolerance,
                passed=abs(value - expected) <= tolerance,
                detail="average over the parts against the whole, nats",
            )


@torch.no_grad()
def _check_pyro_batch_size(
    bnn: Program, x: Inputs, y: Tensor, options: Options, num_repeats: int, comparisons: int
) -> Iterator[CheckRow]:
    bnn.eval()
    elbo = TraceMeanField_ELBO()

    def losses(parts: int) -> Tensor:
        batches = _split(x, y, parts)
        draws = [
            sum(elbo.loss(bnn.model, bnn.guide, a, b, **options) for a, b in batches) / parts
            for _ in range(num_repeats)
        ]
        return torch.tensor(draws, dtype=torch.float64)

    with pyro.get_param_store().scope({"params": {}, "constraints": {}}):
        whole = losses(1)
        for parts in _PARTS:
            cut = losses(parts)
            value, expected = float(cut.mean()), float(whole.mean())
            error = math.sqrt(float(cut.var() + whole.var()) / num_repeats)
            critical = critical_value(num_repeats, comparisons)
            tolerance = critical * error + ROUNDING * max(1.0, abs(expected))
            yield CheckRow(
                check="batch size, Pyro",
                where=f"{len(x)} to {len(x) // parts} examples",
                value=value,
                expected=expected,
                tolerance=tolerance,
                passed=abs(value - expected) <= tolerance,
                detail=f"minus the ELBO, average of {num_repeats} draws, nats",
            )


def _split(x: Inputs, y: Tensor, parts: int) -> list[tuple[Inputs, Tensor]]:
    size = len(x) // parts
    rows = [slice(i * size, (i + 1) * size) for i in range(parts)]
    return [(x[part], y[part]) for part in rows]


# -- gradients ------------------------------------------------------------------------------------


def _check_gradients(
    bnn: Program, x: Inputs, y: Tensor, options: Options, num_repeats: int
) -> Iterator[CheckRow]:
    # Only the masks are noisy: no batch statistics, no other dropout.
    bnn.eval()
    bnn.training = True
    for _, owner in bnn.named_owners():
        owner.train()
    groups = {group: names for group, names in _parameter_groups(bnn).items() if names}
    parameters = {n: p for n, p in bnn.named_parameters() if p.requires_grad}
    # Welford's sums, so that only two gradients are held.
    mean = {n: torch.zeros_like(p) for n, p in parameters.items()}
    squares = dict.fromkeys(parameters, 0.0)
    missing = set(parameters)
    for repeat in range(1, num_repeats + 1):
        loss = bnn.loss(x, y, **options).loss
        grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for name, grad in zip(parameters, grads, strict=True):
            if grad is None:
                continue
            missing.discard(name)
            difference = grad - mean[name]
            mean[name] += difference / repeat
            squares[name] += float((difference * (grad - mean[name])).sum())
    for group, names in groups.items():
        size = math.sqrt(sum(float(mean[name].square().sum()) for name in names))
        spread = math.sqrt(max(0.0, sum(squares[name] for name in names) / (num_repeats - 1)))
        finite = math.isfinite(size) and math.isfinite(spread)
        lost = sorted(missing & set(names))
        detail = f"noise; norm of the mean {size:.3g}, standard deviation {spread:.3g}"
        if lost:
            detail = f"no gradient reaches {', '.join(lost)}"
        yield CheckRow(
            check="gradient",
            where=group,
            value=spread / size if size else float("inf" if spread else "nan"),
            expected=float("nan"),
            tolerance=float("nan"),
            passed=finite and not lost and (size > 0 or spread > 0),
            detail=detail,
        )


def _check_bias(bnn: Program, x: Inputs, y: Tensor, num_repeats: int) -> Iterator[CheckRow]:
    # After _check_gradients, in its mode: only masks are noisy.
    try:
        mask_sum = MaskSum(bnn.network)
    except ConfigError:
        return
    names = {layer: path for path, layer in bnn.named_dropout_layers()}
    parameters = [p for p in mask_sum.layer.parameters() if p.requires_grad]
    if not parameters or bnn.named_weight_layers():
        return
    rows = max(_PARTS[-1], _BIAS_ROWS // len(mask_sum))
    x, y = x[:rows], y[:rows]

    def gradient(nll: Tensor) -> Tensor:
        found = torch.autograd.grad(nll, parameters, allow_unused=True, materialize_grads=True)
        return torch.cat([part.flatten() for part in found])

    exact = [gradient(_summed_nll(bnn, x, y)) for _ in range(num_repeats)]
    drawn = [gradient(bnn.loss(x, y).nll) for _ in range(num_repeats)]
    expected, found = torch.stack(exact), torch.stack(drawn)
    difference = float((found.mean(0) - expected.mean(0)).square().sum())
    noise = float((found.var(0) + expected.var(0)).sum()) / num_repeats
    size = float(expected.mean(0).norm())
    value = math.sqrt(max(0.0, difference - noise)) / size if size else float("nan")
    yield CheckRow(
        check="gradient bias",
        where=names[mask_sum.layer],
        value=value,
        expected=float("nan"),
        tolerance=float("nan"),
        passed=math.isfinite(difference),
        detail=f"of sampled masks, against the sum over all {len(mask_sum)}; it could be told "
        f"from noise at {math.sqrt(noise) / size if size else math.inf:.2g}",
    )


def _summed_nll(bnn: Program, x: Inputs, y: Tensor) -> Tensor:
    """Return the expected NLL over exact masks, given one draw of the global latents."""
    mask_sum = MaskSum(bnn.network)
    with TrainingPass(len(x) * len(mask_sum), mask_sum):
        output = outputs_of(bnn.network, each_input(lambda t: repeat_rows(t, len(mask_sum)), x))
    terms = bnn.likelihood.log_prob(output, repeat_rows(y, len(mask_sum)))
    probs = cast(Tensor, mask_sum.log_weights).exp()
    return -(probs * terms.reshape(len(x), -1)).sum() * (bnn.num_data / len(x))


def _parameter_groups(bnn: Program) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {"weights": [], "likelihood": []}
    owners = {f"network.{path}." if path else "network.": path for path, _ in bnn.named_owners()}
    for name, parameter in bnn.named_parameters():
        # What layers share may be inside one of them.
        inside = max((prefix for prefix in owners if name.startswith(prefix)), key=len, default="")
        group = "likelihood" if name.startswith("likelihood.") else "weights"
        if parameter.requires_grad:
            groups.setdefault(owners.get(inside, group), []).append(name)
    return groups


def _check_arguments(bnn: object, x: Inputs, num_samples: int, num_repeats: int) -> None:
    known = isinstance(bnn, Program) and not bnn.has_local_latents
    whole = is_whole(num_samples) and is_whole(num_repeats)
    if not known or not whole or num_samples < 100 or num_repeats < 10:
        raise ConfigError(
            "check_elbo",
            expected="a BayesianNetwork, num_samples >= 100 and num_repeats >= 10",
            got=f"a {type(bnn).__name__}, {num_samples!r} and {num_repeats!r}",
            hint="The defaults are 10,000 samples and 50 repeats. An auto-encoder draws an "
            "example's own latents in every pass, so that its parts do not sum to the whole.",
        )
    if (isinstance(x, Tensor) and x.ndim == 0) or len(x) < _PARTS[-1]:
        raise DataError(
            "check_elbo",
            expected=f"at least {_PARTS[-1]} examples",
            got=shape_text(x),
            hint="A batch of a hundred is plenty.",
        )
    check_finite("check_elbo", x, 0, DataError, "input")
