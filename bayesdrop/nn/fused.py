"""Torch's fused kernels for encoder layers, which use weights by themselves and go past masks."""

from __future__ import annotations

from torch import nn

from bayesdrop.nn.catalogue import BayesianLayer


def without_fused_kernels(network: nn.Module) -> None:
    """Let encoder layers of torch's own with masks inside call their parts, in place.

    In evaluation mode and without gradients such a layer would hand its weights to one kernel,
    and an encoder would hand it sequences without their padding.

    Args:
        network: Any module.
    """
    for module in network.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            if any(isinstance(part, BayesianLayer) for part in module.children()):
                module.activation_relu_or_gelu = 0  # the kernel wants to know it
        elif isinstance(module, nn.TransformerEncoder):
            if any(isinstance(part, BayesianLayer) for part in module.modules()):
                module.use_nested_tensor = False
