"""A mean mask that depends on the input, in a form that can be run without its layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class MeanGate(NamedTuple):
    r"""A mean mask as a function of each unit's input, for compact networks.

    .. math:: m_{nk} = f(\bar x_{nk};\, \theta_k)

    with :math:`\bar x_{nk}` the unit's input averaged over positions, such as the pixels of a
    convolution map. Units do not look at each other, unless ``unit_dims`` is given:
    :math:`m_n = f(\bar x_n; \theta)`.

    Args:
        function: Called as ``function(x, **tensors)``; plain operations of torch, one element at a
            time, that ``torch.fx`` can trace. ``x`` and the tensors broadcast against each other,
            the units in one dimension.
        tensors: The parameters :math:`\theta` by name, ``(K,)`` each, without gradient.
        unit_dims: Where units look at each other, the dimension of each tensor that counts them,
            None if none does. The function then takes ``(N, K)``, and is given the units only
            that are kept, as if there were no others.

    Example:
        >>> import torch
        >>> gate = MeanGate(lambda x, slope: torch.sigmoid(slope * x), {"slope": torch.ones(3)})
        >>> gate(torch.zeros(2, 3)).unique()
        tensor([0.5000])
    """

    function: Callable[..., Tensor]
    tensors: dict[str, Tensor]
    unit_dims: dict[str, int | None] | None = None

    def cost(self, units: Tensor) -> tuple[int, int]:
        """Return parameters, and FLOPs of one example, where units look at each other.

        A gate of units that do not costs as little as a mask: nothing that is counted.

        Args:
            units: The units that are kept, booleans ``(K,)``.
        """
        sizes = []
        for name, dim in (self.unit_dims or {}).items():
            value = self.tensors[name]
            kept = value if dim is None else value.index_select(dim, units.nonzero().flatten())
            sizes.append((kept.numel(), 2 * kept.numel() if kept.ndim > 1 else 0))
        return sum(size for size, _ in sizes), sum(flops for _, flops in sizes)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the mean mask of inputs averaged over positions, ``(N, K)``."""
        return self.function(x, **self.tensors)
