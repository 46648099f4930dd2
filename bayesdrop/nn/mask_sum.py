"""All masks of a network, where they are few: what sums them out exactly."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bayesdrop.errors import ConfigError
from bayesdrop.nn.mask import BayesianDropout, named_dropout_layers
from bayesdrop.typing import Latents


class MaskSum:
    r"""Every mask of a network's one dropout layer, and its probability.

    .. math:: p(y_n \mid x_n, \pi) = \sum_{z \in \{0, 1\}^K} p(z \mid \pi)\, p(y_n \mid x_n, z)

    A pass through the network meets each example :math:`S` times in a row, once under every mask:
    :math:`2^K` of Bernoulli units, :math:`D + 1` of ordered ones; after it ``log_weights`` holds
    their log-probabilities, ``(..., N, S)``, or ``(..., 1, S)`` if they are the same for all.

    Args:
        network: A network with one dropout layer, of at most 10 units that are Bernoulli given
            the global latents, or with an order; more layers may share its width.

    Raises:
        ConfigError: If it has another number of such layers, or masks that cannot be listed.
    """

    def __init__(self, network: nn.Module) -> None:
        layers = [layer for _, layer in named_dropout_layers(network)]
        lists = [(layer, layer.all_masks()) for layer in layers]
        # Without those whose mask is another's in every pass.
        own = [(layer, masks) for layer, masks in lists if masks is None or len(masks)]
        masks = own[0][1] if len(own) == 1 else None
        if masks is None:
            found = [f"{type(layer).__name__}({layer.num_units})" for layer in layers]
            raise ConfigError(
                "num_masks='exact'",
                expected="one dropout layer, of at most 10 units that are Bernoulli given pi or "
                "at most 1024 ordered masks",
                got=f"{len(layers)} layers: {', '.join(found)}"
                if layers
                else "a network without dropout layers",
                hint="A sum over all masks has 2^K terms; use num_masks=16 or so instead. Nested "
                "layers can share their width: share_widths=True.",
            )
        self.layer: BayesianDropout = own[0][0]
        self.masks: Tensor = masks
        self.log_weights: Tensor | None = None

    def __len__(self) -> int:
        return len(self.masks)

    def mask(self, latents: Latents, x: Tensor, num_examples: int) -> Tensor:
        """Return the mask of every row of ``x``, ``(N, K)``, and keep their log-probabilities.

        Args:
            latents: The layer's global latents; particles may stand in front.
            x: The layer's input: particles x examples x masks in its ``batch_dim``.
            num_examples: Number of examples.

        Raises:
            ConfigError: If the layer has run before: it would have two masks.
        """
        if self.log_weights is not None:
            raise ConfigError(
                self.layer.name,
                expected="to run once in a pass, as num_masks='exact' needs",
                got="a second call",
                hint="Draw its mask once, with layer.sample_mask(x), or use num_masks=16.",
            )
        masks = self.masks.to(x)
        if self.layer.input_dependent:  # then every example has probabilities of its own
            log_probs = self.layer.log_prob_of_masks(masks.repeat(num_examples, 1), latents, x)
            self.log_weights = log_probs.reshape(*log_probs.shape[:-1], num_examples, len(masks))
        else:
            self.log_weights = self.layer.log_prob_of_masks(masks, latents).unsqueeze(-2)
        return masks.repeat((self.layer.rows_of(x) or 1) // len(masks), 1)


def repeat_rows(values: Tensor, times: int) -> Tensor:
    """Return every row so many times in a row, ``(N, ...)`` to ``(N * times, ...)``."""
    return values if times == 1 else torch.repeat_interleave(values, times, 0)
