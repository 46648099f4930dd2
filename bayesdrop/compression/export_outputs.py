"""Whether what an exporter wrote gives the outputs of its network."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from bayesdrop.errors import CompactionError
from bayesdrop.files import first_line
from bayesdrop.nn.mode import evaluation_mode


@torch.no_grad()
def check_outputs(
    kind: str, network: nn.Module, inputs: tuple[Tensor, ...], dims: list[int], written: nn.Module
) -> None:
    """Raise if a file gives other outputs than its network, as an exporter's fault may have it.

    Args:
        kind: The format, for the message.
        network: What was written.
        inputs: The example.
        dims: The dimension of the examples in each input, of which one more is tried.
        written: Runs the file.

    Raises:
        CompactionError: If outputs differ by more than rounding, or the file does not run.
    """
    more = tuple(torch.cat([x, x.narrow(d, 0, 1)], d) for x, d in zip(inputs, dims, strict=True))
    for number, batch in enumerate((inputs, more)):
        try:
            with evaluation_mode(network):
                expected, again = (_tensors(network(*batch)) for _ in range(2))
        except Exception:  # it is made for one batch size
            return
        if _furthest(expected, again) > 0:  # noise, which no two runs share
            return
        what = f"a batch of {batch[0].shape[dims[0]]}" if number else "the example"
        try:
            off = _furthest(expected, _tensors(written(*batch)))
            got = f"outputs of {what} that are off by {off:.2g} of their largest value"
        except Exception as error:  # whatever runs the file has no class of errors of its own
            off, got = math.inf, f"{type(error).__name__} of {what}: {first_line(error)}"
        half = any(a.is_floating_point() and a.itemsize == 2 for a in expected)
        if off > (2e-2 if half else 1e-4):
            raise CompactionError(
                f"save_plain, format {kind!r}",
                expected="a file with the outputs of its network, for any batch size",
                got=got,
                hint="The exporter wrote other computations, as of a forward that asks whether "
                "gradients are on; of ONNX, another version of onnxscript may do.",
            )


def _tensors(outputs: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]


def _furthest(expected: list[Tensor], found: list[Tensor]) -> float:
    """Return the largest difference over an output's largest value, or over 1."""
    if [x.shape for x in expected] != [x.shape for x in found]:
        return math.inf
    off = 0.0
    for a, b in zip(expected, found, strict=True):
        wanted, got = (x.detach().cpu().double().nan_to_num() for x in (a, b))
        if wanted.numel():
            scale = wanted.abs().max().clamp(min=1.0)
            off = max(off, float((wanted - got).abs().max() / scale))
    return off
