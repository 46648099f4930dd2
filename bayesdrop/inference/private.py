"""Differentially private training: its settings, its batches and its gradients."""

from __future__ import annotations

import dataclasses
import math
import secrets
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.utils.data import DataLoader, IterableDataset, default_collate

from bayesdrop.errors import ConfigError, DataError
from bayesdrop.inference.batches import Data, as_tensors, num_examples
from bayesdrop.inference.modes import frozen_modules
from bayesdrop.inference.per_example import ClippedGradients
from bayesdrop.inference.privacy import MOST_EPSILON, Privacy, load_accountants, noise_for, spent
from bayesdrop.inference.splitting import Part, as_batch, take
from bayesdrop.nn.arguments import is_real, is_whole
from bayesdrop.program.inputs import Inputs
from bayesdrop.program.program import Program
from bayesdrop.typing import LossTerms, NumMasks


@dataclasses.dataclass(frozen=True)
class Private:
    r"""How ``fit(private=...)`` keeps single training examples private (DP-SGD).

    .. math:: \tilde g = \frac{1}{qN} \Bigl(\sum_{n \in S}
        g_n \min\bigl(1, \tfrac{C}{\|g_n\|}\bigr) + \sigma C\, \xi\Bigr)
        + \frac1N \nabla\, w\,\mathrm{KL}, \qquad
        \xi \sim \mathcal N(0, I),\quad P(n \in S) = q = B / N

    :math:`g_n` is the gradient of example :math:`n`'s part of the loss in all trainable
    parameters, weights and posteriors together. The divergences depend on no example: their
    gradient is added after clipping and noise, as is weight decay, and whatever optimiser makes
    the step. Give ``epsilon``, from which the noise follows, or ``noise_multiplier``.

    Args:
        clip_norm: Largest norm :math:`C` > 0 of an example's gradient, in nats; infinite only
            without noise.
        epsilon: What the whole run, of ``epochs`` epochs, may spend, in (0, 50].
        noise_multiplier: Standard deviation :math:`\sigma` >= 0 of the noise over :math:`C`.
        delta: The probability :math:`\delta` in (0, 1 / N) with which more may be lost.
        seed: Of the sampling of batches and of the noise. None takes one from the operating
            system that nobody knows. Whoever knows it can subtract the noise: with a seed that is
            not kept secret nothing is promised.

    Raises:
        ConfigError: If a value is out of range, or not exactly one of ``epsilon`` and
            ``noise_multiplier`` is given.

    References:
        Abadi et al. (2016), "Deep learning with differential privacy", algorithm 1,
        https://arxiv.org/abs/1607.00133.

    Example:
        >>> Private(clip_norm=1.0, epsilon=3.0).delta
        1e-05
    """

    clip_norm: float
    epsilon: float | None = None
    noise_multiplier: float | None = None
    delta: float = 1e-5
    seed: int | None = None

    def __post_init__(self) -> None:
        def check(good: bool, expected: str, got: str, hint: str) -> None:
            if not good:
                raise ConfigError("Private", expected=expected, got=got, hint=hint)

        given = [v for v in (self.epsilon, self.noise_multiplier) if v is not None]
        check(
            len(given) == 1,
            "one of epsilon and noise_multiplier",
            f"epsilon={self.epsilon!r}, noise_multiplier={self.noise_multiplier!r}",
            "The noise follows from epsilon, or epsilon from the noise.",
        )
        check(
            self.epsilon is None or (is_real(self.epsilon) and 0 < self.epsilon <= MOST_EPSILON),
            f"an epsilon > 0 of at most {MOST_EPSILON:g}",
            f"epsilon={self.epsilon!r}",
            "1 to 8 are usual.",
        )
        noise = self.noise_multiplier
        check(
            noise is None or (is_real(noise) and 0 <= noise < math.inf),
            "a finite noise_multiplier >= 0",
            f"noise_multiplier={noise!r}",
            "0 is no noise, and promises nothing.",
        )
        check(
            is_real(self.clip_norm)
            and 0 < self.clip_norm
            and (self.clip_norm < math.inf or noise == 0),
            "a finite clip_norm > 0",
            f"clip_norm={self.clip_norm!r}",
            "Noise is as large as what it hides: only noise_multiplier=0 goes without a bound.",
        )
        check(
            is_real(self.delta) and 0 < self.delta < 1,
            "0 < delta < 1",
            f"delta={self.delta!r}",
            "Take less than one over the number of examples.",
        )
        check(
            self.seed is None or is_whole(self.seed),
            "seed to be None or an int",
            f"seed={self.seed!r}",
            "None takes a secret one.",
        )


class PoissonBatches:
    """An epoch's batches, in each of which each example is with the same probability, anew.

    Args:
        data: Of which any rows can be taken.
        num_data: Number of its rows.
        sampling_rate: The probability.
        num_batches: Batches of an epoch.
        generator: Source of the choice.
    """

    def __init__(
        self,
        data: Data,
        num_data: int,
        sampling_rate: float,
        num_batches: int,
        generator: torch.Generator,
    ) -> None:
        self.data, self.num_data, self.sampling_rate = data, num_data, sampling_rate
        self.num_batches, self.generator = num_batches, generator

    def __iter__(self) -> Iterator[tuple[object, ...]]:
        for _ in range(self.num_batches):
            chosen = torch.rand(self.num_data, generator=self.generator, dtype=torch.float64)
            yield _take(self.data, (chosen < self.sampling_rate).nonzero()[:, 0])


class PrivateSteps:
    """The private part of a run: its ``batches``, its objective, and the account.

    Args:
        settings: As the user gave them.
        bnn: The program.
        data: The training data, of which any rows can be taken.
        batch_size: Expected number of examples a step.
        epochs: Epochs of the whole run, for the noise.
        num_masks: As for ``fit``.

    Raises:
        ConfigError: If a layer mixes examples, or ``delta`` is too large for the data.
        DataError: If the data do not give single rows.
        ImportError: If Opacus is not installed.
    """

    def __init__(
        self,
        settings: Private,
        bnn: Program,
        data: Data,
        batch_size: int,
        epochs: int,
        num_masks: NumMasks,
    ) -> None:
        load_accountants()
        self.num_data = _rows(data)
        if settings.delta >= 1 / self.num_data:
            raise ConfigError(
                "Private",
                expected=f"delta < 1 / N = {1 / self.num_data:.2g}",
                got=f"delta={settings.delta:g}",
                hint="A larger one would allow to publish some example as it is.",
            )
        self.settings, self._bnn = settings, bnn
        self.sampling_rate = min(1.0, batch_size / self.num_data)
        self.steps_per_epoch = max(1, round(self.num_data / batch_size))
        self.noise_multiplier = settings.noise_multiplier or 0.0
        if settings.epsilon is not None:
            self.noise_multiplier = noise_for(
                settings.epsilon,
                settings.delta,
                self.sampling_rate,
                epochs * self.steps_per_epoch,
            )
        self.generator = torch.Generator()
        seed = secrets.randbits(63) if settings.seed is None else int(settings.seed)
        self.generator.manual_seed(seed)
        self.batches: Any = PoissonBatches(
            data, self.num_data, self.sampling_rate, self.steps_per_epoch, self.generator
        )
        self._clipped = ClippedGradients(bnn, settings.clip_norm, num_masks)

    def description(self) -> dict[str, Any]:
        """Return what a resumed run must have in common with this one."""
        return {
            "clip_norm": float(self.settings.clip_norm),
            "noise_multiplier": float(self.noise_multiplier),
            "sampling_rate": self.sampling_rate,
            "delta": self.settings.delta,
            "seed": self.settings.seed,
        }

    def __call__(self, bnn: Any, x: Inputs, y: Tensor) -> LossTerms:
        """Return a batch's loss, with the private gradient in place of its own."""
        found = self._clipped(x, y)
        surrogate = torch.zeros((), dtype=torch.float64, device=x.device)
        for name, parameter in self._bnn.named_parameters():
            if not parameter.requires_grad:
                continue
            total = found.gradients[name]
            if self.noise_multiplier:
                noise = torch.randn(
                    parameter.shape, generator=self.generator, dtype=parameter.dtype
                )
                scale = self.noise_multiplier * self.settings.clip_norm
                total = total.add(noise.to(parameter), alpha=scale)
            surrogate = surrogate + (parameter * total).sum()
        surrogate = surrogate / self.sampling_rate
        nll = found.data_term / max(1, len(x)) * self._bnn.num_data
        # The value of the one and the gradient of the other.
        return LossTerms(surrogate - surrogate.detach() + nll, self._bnn.shared_divergence())

    def privacy(self, steps: int) -> Privacy:
        """Return what so many steps promise."""
        prv, rdp = spent([(self.noise_multiplier, self.sampling_rate, steps)], self.settings.delta)
        return Privacy(
            epsilon=min(prv, rdp),
            delta=self.settings.delta,
            epsilon_prv=prv,
            epsilon_rdp=rdp,
            clip_norm=float(self.settings.clip_norm),
            noise_multiplier=float(self.noise_multiplier),
            sampling_rate=self.sampling_rate,
            steps=steps,
            secret_seed=self.settings.seed is None,
        )


def private_steps(
    settings: Private | None,
    bnn: Program,
    data: Data,
    batch_size: int,
    epochs: int,
    num_masks: NumMasks,
    **given: Any,
) -> PrivateSteps | None:
    """Return the private part of a run; None for a run without one.

    Args:
        settings: As for ``fit``.
        bnn: As for ``fit``.
        data: As for ``fit``.
        batch_size: As for ``fit``.
        epochs: As for ``fit``.
        num_masks: As for ``fit``.
        **given: Those other arguments of ``fit`` that private training refuses, or None.

    Raises:
        ConfigError: If one is given, ``settings`` are something else, or a layer mixes examples.
    """
    if settings is None:
        return None
    if not isinstance(settings, Private):
        raise ConfigError(
            "fit",
            expected="private=bd.inference.private.Private(...)",
            got=f"private={settings!r}",
            hint="For example Private(clip_norm=1.0, epsilon=3.0).",
        )
    for name, value in given.items():
        if value is not None:
            raise ConfigError(
                "fit",
                expected=f"no {name} in private training",
                got=f"{name}={value!r}",
                hint=_REFUSED[name],
            )
    frozen = frozen_modules(bnn)
    for path, module in bnn.network.named_modules():
        if path not in frozen and isinstance(module, _BatchNorm | _InstanceNorm):
            _check_norm(path, module)
    return PrivateSteps(settings, bnn, data, batch_size, epochs, num_masks)


_REFUSED = {
    "patience": "The best epoch is chosen by validation data, which no noise protects. Choose the "
    "number of epochs beforehand.",
    "validation": "A fraction would be held out of the private data, and its error told without "
    "noise. Pass validation=(x, y) of data that need no protection.",
    "objective": "The loss must be a sum over examples, which the closed form is known to be.",
    "clip_norm": "Private(clip_norm=...) clips each example's gradient.",
    "autocast": "The gradient of an example is clipped in the parameters' own dtype.",
    "distributed": "Noise and sampling belong to one process.",
}


def _check_norm(path: str, module: _BatchNorm | _InstanceNorm) -> None:
    what = "normalises an example by the others of its batch"
    if isinstance(module, _InstanceNorm):
        if not module.track_running_stats:
            return
        what = "keeps statistics of the data, which no noise hides"
    raise ConfigError(
        "fit",
        expected="layers that treat each example alone in private training",
        got=f"the {type(module).__name__} {path!r}, which {what}",
        hint="Take nn.GroupNorm or nn.LayerNorm, or hold statistics of public data by calling "
        "the layer's eval().",
    )


def _rows(data: Data) -> int:
    known = as_tensors(data) is not None
    if not known and (
        isinstance(data, DataLoader | IterableDataset) or not hasattr(data, "__getitem__")
    ):
        raise DataError(
            "fit",
            expected="tensors, arrays or a Dataset with rows in private training",
            got=f"a {type(data).__name__}",
            hint="A step's batch holds each example with the same probability, independently of "
            "the others, which no loader's order does: pass its Dataset.",
        )
    return num_examples(data)


def _take(data: Any, rows: Tensor) -> Part:
    tensors = as_tensors(data)
    if tensors is not None:
        return take(tensors, rows)
    # One row more, so that an empty batch has shapes.
    items = default_collate([data[int(row)] for row in [*rows.tolist(), 0]])
    return take(as_batch(items), slice(0, -1))
