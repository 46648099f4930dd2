"""A likelihood of real numbers or counts with a location and a positive spread."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayesdrop.errors import ConfigError, ShapeError
from bayesdrop.likelihoods.likelihood import Likelihood
from bayesdrop.nn.arguments import is_real, is_whole
from bayesdrop.ops.stable import inverse_softplus


class SpreadLikelihood(Likelihood):
    r"""Abstract likelihood whose spread is a number, learned, or an output of the network.

    Args:
        spread: A number: fixed, > 0. ``"learned"``: one for each output, a point estimate.
            ``"heteroscedastic"``: the network's output has two halves along dimension 1, the
            location and a raw spread, of which the spread is :math:`\mathrm{softplus}(\cdot)`.
        num_outputs: Number of outputs :math:`D`, for ``"learned"``.
        initial: Initial value of a learned one.
        minimum: Added to a learned or heteroscedastic one.
        unit: What its size depends on, for messages.

    Raises:
        ConfigError: If an argument makes no sense.
    """

    is_classifier = False
    spread_name: ClassVar[str]
    """What the spread is called, in arguments and in ``state_dict``."""

    def __init__(
        self, spread: object, *, num_outputs: int, initial: float, minimum: float, unit: str
    ) -> None:
        super().__init__()
        who, name = type(self).__name__, self.spread_name
        numeric = is_real(spread)
        if (numeric and not 0 < float(spread) < math.inf) or (  # type: ignore[arg-type]
            not numeric and spread not in ("learned", "heteroscedastic")
        ):
            word = "noise scale" if name == "scale" else name
            raise ConfigError(
                who,
                expected=f"a positive {word}, 'learned' or 'heteroscedastic'",
                got=repr(spread),
                hint="The default is 'learned'.",
            )
        if not is_whole(num_outputs) or num_outputs < 1:
            raise ConfigError(
                who,
                expected="num_outputs >= 1, an int",
                got=f"num_outputs={num_outputs!r}",
                hint="It is the number of columns of y.",
            )
        numbers = is_real(initial) and is_real(minimum)
        if not numbers or not 0 <= minimum < initial < math.inf:
            raise ConfigError(
                who,
                expected=f"init_{name} > min_{name} >= 0",
                got=f"init_{name}={initial!r}, min_{name}={minimum!r}",
                hint=unit,
            )
        self.mode = "fixed" if numeric else str(spread)
        self.minimum = minimum
        if numeric:
            self.register_buffer(f"fixed_{name}", torch.tensor(float(spread)))  # type: ignore[arg-type]
        elif self.mode == "learned":
            raw = torch.full((num_outputs,), inverse_softplus(initial - minimum))
            self.register_parameter(f"raw_{name}", nn.Parameter(raw))

    def location_and_spread(self, output: Tensor, batch_ndim: int = 1) -> tuple[Tensor, Tensor]:
        """Return both, of the target's shape.

        Args:
            output: Network output; its first ``batch_ndim`` dimensions are the batch.
            batch_ndim: As for ``distribution``.

        Raises:
            ShapeError: If the output does not fit the spread.
        """
        who, name = type(self).__name__, self.spread_name
        if self.mode == "fixed":
            fixed = self.get_buffer(f"fixed_{name}").to(output.dtype)
            return output, fixed.expand_as(output)
        outputs = output.shape[batch_ndim] if output.ndim > batch_ndim else 1
        if self.mode == "heteroscedastic":
            if outputs % 2:
                raise ShapeError(
                    f"{who}('heteroscedastic')",
                    expected="an even number of outputs in dimension 1: locations, then raw "
                    f"{name}s",
                    got=f"output of shape {tuple(output.shape)}",
                    hint="Double the last layer's outputs; of an output (N, T, 2 D) return "
                    "output.movedim(-1, 1).",
                )
            location, raw = output.chunk(2, dim=batch_ndim)
            return location, F.softplus(raw) + self.minimum
        raw = getattr(self, f"raw_{name}")
        if raw.numel() not in (1, outputs):
            raise ShapeError(
                f"{who}('learned')",
                expected=f"{raw.numel()} outputs in dimension 1",
                got=f"output of shape {tuple(output.shape)}",
                hint=f"Pass num_outputs=... to {who}.",
            )
        spread = F.softplus(raw) + self.minimum
        shape = -1, *[1] * (output.ndim - batch_ndim - 1)
        return output, spread.reshape(shape).expand_as(output)

    def extra_repr(self) -> str:
        """Show how the spread is found."""
        if self.mode != "fixed":
            return f"{self.spread_name}={self.mode!r}"
        return f"{self.spread_name}={float(self.get_buffer(f'fixed_{self.spread_name}')):g}"
