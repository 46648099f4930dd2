"""What Bayesian layers need of any training loop: a term of the loss, schedules, steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Self

import torch
from torch import Tensor, nn

from bayesdrop.errors import ConfigError
from bayesdrop.inference.buffers import buffer_schedules, set_buffers
from bayesdrop.inference.schedules import Schedule, as_schedule, value_of
from bayesdrop.integrations.checks import (
    check_differentiable,
    check_mode,
    check_optimizers,
    check_precision,
    check_whole,
)
from bayesdrop.nn import LatentOwner, LocalDivergences, kl_divergence, named_owners, named_shared
from bayesdrop.nn.arguments import check_num_data
from bayesdrop.nn.context import divergences_asked
from bayesdrop.program.program import Program


class KLTerm:
    r"""The KL divergence's part of a loss that is the mean over a batch's examples.

    .. math::
        \frac{w}{N} \sum_l \mathrm{KL}(q_l \,\|\, p_l) + \frac{w}{B} \sum_n d_n

    with the weight :math:`w` and the divergences :math:`d_n` of masks whose posterior is each
    example's own, if there are any. Added to the negative log-likelihood of an example, averaged
    over the batch, it makes minus the ELBO of an example, in nats::

        term = bd.integrations.KLTerm(net, num_data=len(data))
        term.attach(optimizer)
        for step, (x, y) in enumerate(loader):
            term.at(step, num_steps)
            with term:
                nll = cross_entropy(net(x), y)
            (nll + term()).backward()
            optimizer.step()

    It counts once. Where a step has ``k`` batches, each with its loss divided by ``k``, so is the
    term; where gradients are averaged over processes, each process adds it.

    Args:
        network: The network, not wrapped by ``DistributedDataParallel`` or the like.
        num_data: Number of training examples :math:`N`, in all processes together: of whatever
            the loss is a mean over, so that it is tokens for a language model.
        kl_weight: Factor :math:`w` > 0 or its schedule; 1 is the ELBO.
        buffers: Schedules of what layers declare as schedulable, such as
            ``{"temperature": schedules.linear(1.0, 0.1)}``.

    Raises:
        ConfigError: If the network has no Bayesian layers, or a number makes no sense.
    """

    def __init__(
        self,
        network: nn.Module,
        num_data: int,
        *,
        kl_weight: float | Schedule = 1.0,
        buffers: Mapping[str, float | Schedule] | None = None,
    ) -> None:
        self.network = network
        self._owners = [m for m in network.modules() if isinstance(m, LatentOwner)]
        if not self._owners:
            raise ConfigError(
                "KLTerm",
                expected="a network with Bayesian layers",
                got=f"a {type(network).__name__} without any",
                hint="Put them in with bd.convert(network) before the optimizer is made.",
            )
        check_num_data("KLTerm", num_data)
        for module in network.modules():
            if isinstance(module, Program) and module.kl_weight != 1.0:
                raise ConfigError(
                    "KLTerm",
                    expected="one weight of the KL divergence",
                    got=f"a {type(module).__name__} with kl_weight={module.kl_weight:g}",
                    hint="Its loss() has that weight. Pass bnn.network, and kl_weight here.",
                )
        self.num_data = int(num_data)
        self._schedule = as_schedule(kl_weight, "kl_weight")
        self._buffers = buffer_schedules(network, buffers)
        self._kl_weight: float | None = None
        self._opened: ExitStack | None = None
        self._local: LocalDivergences | None = None
        self._asked: list[Any] = []
        self._shapes = [p.shape for owner in self._owners for p in owner.parameters()]
        self._hooks: dict[torch.optim.Optimizer, Any] = {}
        check_precision(self._owners)
        self.last = math.nan
        """The term of the last pass, in nats per example."""

    @property
    def kl_weight(self) -> float:
        """The weight of this step."""
        return self._weight_at(0, 1) if self._kl_weight is None else self._kl_weight

    def at(self, step: int, steps: int) -> None:
        """Set the weight and the buffers to what their schedules say.

        Args:
            step: The step, or epoch, from 0.
            steps: How many there are in all.

        Raises:
            ConfigError: If a schedule gives no finite number, or a weight that is not > 0.
        """
        self._kl_weight = self._weight_at(step, steps)
        set_buffers(self.network, self._buffers, step, steps)

    def _weight_at(self, step: int, steps: int) -> float:
        weight = value_of(self._schedule, "kl_weight", step, steps)
        if weight <= 0:
            raise ConfigError(
                "KLTerm",
                expected="a kl_weight > 0",
                got=f"{weight} at {step} of {steps}",
                hint="For a warm-up: bd.schedules.warm_up(0.3).",
            )
        return weight

    def __enter__(self) -> Self:
        check_mode(self._owners)
        with ExitStack() as stack:
            self._asked = stack.enter_context(divergences_asked())
            self._local = stack.enter_context(LocalDivergences())
            self._opened = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def __call__(self) -> Tensor:
        """Return the term of the pass that has run inside ``with term:``, in nats per example.

        Raises:
            ConfigError: If no pass has run since the last call, or that pass asked for the
                divergence itself, which would then be counted twice.
        """
        local, self._local = self._local, None
        if local is None or self._opened is not None:
            raise ConfigError(
                "KLTerm",
                expected="one call after each pass inside 'with term:'",
                got="none since the last call" if local is None else "a call inside of it",
                hint="The pass tells what masks of each example's own cost.",
            )
        if self._asked:
            raise ConfigError(
                "KLTerm",
                expected="a loss without the KL divergence",
                got=f"one that asked for that of {self._asked[0].name}, to be counted twice",
                hint="Leave bd.kl_divergence and bnn.loss out of it: compute the likelihood from "
                "the network's outputs.",
            )
        check_differentiable(local.divergences.items())
        check_whole(self._owners, self._shapes)
        like = next(self.network.parameters())
        with torch.autocast(like.device.type, enabled=False):
            own = local.mean().to(like.device)
            term = self.kl_weight * (kl_divergence(self.network) / self.num_data + own)
        self.last = float(term.detach())
        return term

    def attach(self, *optimizers: Any, scaler: object = None) -> None:
        """Let layers do what they do after each step of training, such as a proximal step.

        Args:
            *optimizers: All that step this network's parameters, also as Accelerate wraps them.
            scaler: What scales the loss, as training in float16 needs; None if nothing does.

        Raises:
            ConfigError: If none of them has a parameter of a Bayesian layer's posterior, or the
                loss is scaled and a layer's own step would not know.

        Warns:
            BayesdropWarning: If one of them decays such parameters, whose prior is in the KL.
        """
        inner = [_unwrapped(optimizer) for optimizer in optimizers]
        check_optimizers(self.network, self._owners, inner, scaler)
        for optimizer in inner:
            if optimizer not in self._hooks:
                self._hooks[optimizer] = optimizer.register_step_post_hook(
                    lambda made, args, kwargs: self.after_step(made)
                )

    def detach(self) -> None:
        """Undo ``attach``, as before another loop with the same optimizers."""
        while self._hooks:
            self._hooks.popitem()[1].remove()

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Do what layers do after a step; ``attach`` calls it."""
        for owner in self._owners:
            owner.after_step(optimizer)

    def figures(self) -> dict[str, float]:
        """Return what is worth logging: the last term, its weight, what each layer keeps."""
        shared = {owner for _, owner in named_shared(self.network)}
        kept = {
            f"{owner.unit_word}/{path}": float(owner.kept().sum())
            for path, owner in named_owners(self.network)
            if owner not in shared
        }
        return {"kl": self.last, "kl_weight": self.kl_weight, **kept}


def _unwrapped(optimizer: Any) -> torch.optim.Optimizer:
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner
    return optimizer
