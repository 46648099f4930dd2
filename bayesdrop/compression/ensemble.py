"""Members of a posterior in one network, as a program that predicts."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from bayesdrop.errors import ShapeError
from bayesdrop.likelihoods import Likelihood
from bayesdrop.nn.mode import in_turn
from bayesdrop.program.inputs import GivenInputs, Inputs, SeveralInputs, as_inputs, outputs_of
from bayesdrop.program.program import Pass, Program
from bayesdrop.program.pyro_pair import Guide, Model
from bayesdrop.typing import LossTerms, NumMasks, SharedBy


class Members(Program):
    r"""Members of a posterior in one plain network, for ``predict`` and ``evaluate``.

    Each member is one posterior sample: predictions are averages over all of them, whatever
    ``num_samples`` asks for, and their disagreement is the epistemic uncertainty.

    .. math:: p(y \mid x) = \frac1K \sum_k p(y \mid f_k(x))

    Args:
        network: What ``compact(members=K)`` returned, or ``load_plain`` has read: outputs
            ``(K, N, ...)``.
        likelihood: What the outputs mean.
        members: Their number :math:`K`.
        num_data: Number of training examples; only the loss asks for it.

    Raises:
        ShapeError: If the outputs are not those of members.

    Example:
        >>> import bayesdrop as bd
        >>> net = nn.Sequential(bd.BetaBernoulliDropout(4), nn.Linear(4, 3))
        >>> small = bd.compact(net, torch.rand(2, 4), members=5)
        >>> prediction = bd.predict(Members(small, bd.Categorical(), 5), torch.rand(7, 4))
        >>> prediction.num_samples, prediction.mean.shape
        (5, torch.Size([7, 3]))
    """

    network: _MeanOfMembers
    has_local_latents = False
    is_random = True

    def __init__(
        self, network: nn.Module, likelihood: Likelihood, members: int, num_data: int = 1
    ) -> None:
        mean = _MeanOfMembers(network, likelihood, members)
        super().__init__(mean, likelihood, num_data, kl_weight=1.0, name=None)
        self.members = members

    @override
    def make_pair(self) -> tuple[nn.Module, nn.Module]:
        return Model(self), Guide(self)

    @override
    @in_turn
    def loss(self, x: GivenInputs, y: Tensor, *, num_masks: NumMasks = 1) -> LossTerms:
        x = self.check_batch(x, y)
        nll = self.data_term(x, y) * (self.num_data / len(x))
        return LossTerms(nll, torch.zeros_like(nll))

    @override
    def data_term(self, x: GivenInputs, y: Tensor, *, num_masks: NumMasks = 1) -> Tensor:
        return self.likelihood.nll(outputs_of(self.network, as_inputs("Members", x)), y)

    @override
    def posterior_passes(self, num_samples: int, *, shared_by: SharedBy) -> list[Pass]:
        source = _Outputs(self.network)
        return [partial(source, k) for k in range(self.members)]


class _MeanOfMembers(nn.Module):
    """One output with the members' average prediction."""

    def __init__(self, network: nn.Module, likelihood: Likelihood, members: int) -> None:
        super().__init__()
        self.network, self.members = network, members
        self.has_logits, self.is_classifier = likelihood.has_logits, likelihood.is_classifier

    def outputs(self, x: Inputs) -> Tensor:
        """Return the outputs of all members, ``(K, N, ...)``."""
        found = outputs_of(self.network, x)
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        if not isinstance(found, Tensor) or tuple(found.shape[:2]) != (self.members, len(x)):
            raise ShapeError(
                "Members",
                expected=f"outputs of {self.members} members for {len(x)} inputs",
                got=f"{shape}",
                hint="Pass what bd.compact(bnn, x, members=K) returned, and the same K.",
            )
        return found

    def forward(self, *args: Any, **kwargs: Tensor) -> Tensor:
        """Return logits of the averaged probabilities, or the averaged output."""
        several = len(args) != 1 or kwargs
        outputs = self.outputs(SeveralInputs(*args, **kwargs) if several else args[0])
        if self.has_logits:
            return outputs.log_softmax(2).logsumexp(0) - math.log(self.members)
        if self.is_classifier:
            return torch.logit(outputs.sigmoid().mean(0))
        return outputs.mean(0)


class _Outputs:
    """The outputs of all members for the inputs that were met last."""

    def __init__(self, network: _MeanOfMembers) -> None:
        self.network = network
        self.met: Inputs | None = None
        self.last: Tensor

    def __call__(self, k: int, x: Inputs) -> Tensor:
        if self.met is not x:
            self.met, self.last = x, self.network.outputs(x)
        return self.last[k]
