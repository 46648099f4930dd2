"""FLOPs of a network, multiply and add both counted: in total, and by layer."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.parametrize import ParametrizationList
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from bayesdrop.compression.batch_dim import BatchDim
from bayesdrop.compression.example import Example, example_of
from bayesdrop.errors import CostWarning
from bayesdrop.nn import BayesianDropout
from bayesdrop.nn.mode import evaluation_mode

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode

_FREE = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, ParametrizationList, BayesianDropout)
"""Layers whose weights are looked up, multiplied one by one, or another layer's."""
_NO_FORMULA = (
    "onednn::", "quantized::conv", "quantized::linear", "quantized::matmul",
    *(
        f"aten::{name}"
        for name in (
            "_cdist", "_fft", "_linalg_det", "_linalg_eigh", "_linalg_slogdet", "_linalg_solve",
            "_linalg_svd", "_pdist", "_sparse", "cholesky", "conv_tbc", "geqrf", "linalg_cholesky",
            "linalg_eig", "linalg_householder", "linalg_inv", "linalg_ldl", "linalg_lstsq",
            "linalg_lu", "linalg_matrix_exp", "linalg_qr", "linalg_solve", "ormqr",
            "triangular_solve",
        )
    ),
)  # fmt: skip
"""What operations begin with that multiply, and that nobody here counts."""


@torch.no_grad()
def count_flops(network: nn.Module, example_input: Example) -> int:
    """Return the FLOPs of one example in evaluation mode, multiply and add both counted.

    Counted are matrix products and convolutions, also those inside recurrent layers and
    attention; not biases, activations, normalisation, pooling, softmax or masks. What else
    multiplies, such as a solver or a Fourier transform, is not counted and named.

    Args:
        network: Any network.
        example_input: A batch of inputs, or a tuple of them. The cost of one example of a
            recurrent layer or of attention depends on the length of the sequence. Examples are in
            the first dimension, or in the second where a recurrent layer, attention or a mask says
            so: by ``batch_first=False`` or ``batch_dim=1``, of inputs ``(T, N, ...)``.

    Raises:
        DataError: If the batch is empty, no tensor, or of another dtype than the network.
        ShapeError: If the network does not take its shape.

    Warns:
        CostWarning: If a layer has weights and none of its operations is counted, or an
            operation has no formula.

    Example:
        >>> import bayesdrop as bd
        >>> count_flops(bd.networks.lenet_500_300(), torch.zeros(2, 784))  # 2 (784 500 + ...)
        1090000
    """
    inputs = example_of("count_flops", network, example_input)
    with _counting(network, inputs[0]) as count, evaluation_mode(network):
        network(*inputs)
    unknown = [f"{name!r} ({kind})" for name, kind in count.uncounted.items()]
    unknown += sorted(count.operations)
    if unknown:
        warnings.warn(
            f"count_flops: the operations of {', '.join(unknown)} are not counted, so that ratios "
            "of FLOPs are too good. Write them with matrix products or convolutions, or add them "
            "by hand.",
            CostWarning,
            stacklevel=3,
        )
    return count.total // count.examples


class LayerFlops(fx.Interpreter):
    """Runs a traced network and counts the FLOPs of each node under its layer's name.

    What is not counted is for ``count_flops`` to say: the graph has not all layers as modules.
    """

    def count(self, *inputs: Tensor) -> dict[str, int]:
        """Return layer, or node, to FLOPs per example, where there are any."""
        self.found: dict[str, int] = {}
        seen = _counting(self.module, inputs[0])
        with torch.no_grad(), evaluation_mode(self.module), seen as self.counted:
            self.run(*inputs)
        examples = self.counted.examples
        return {name: flops // examples for name, flops in self.found.items() if flops}

    @override
    def run_node(self, n: fx.Node) -> Any:
        before = self.counted.total
        result = super().run_node(n)
        name = str(n.target) if n.op == "call_module" else n.name
        self.found[name] = self.found.get(name, 0) + self.counted.total - before
        return result


@contextmanager
def _counting(network: nn.Module, x: Tensor) -> Iterator[_Count]:
    # Fused kernels of recurrent layers and of attention hide their matrix products from the
    # counter, so these layers run by their plain operations meanwhile.
    from torch.utils.flop_counter import FlopCounterMode  # which imports triton

    counter = FlopCounterMode(display=False, custom_mapping=_formulas())
    counter.mod_tracker = cast("Any", _Whole())
    with _plain_operations(), counter, _Uncounted() as others:
        count = _Count(network, x, counter, others.found)
        try:
            yield count
        finally:
            count.end()


class _Whole:
    """Counts for the network as a whole: torch's own does not bear parameters as inputs."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None:
        pass

    def __exit__(self, *args: object) -> None:
        pass


def _formulas() -> dict[Any, Callable[..., int]]:
    """Return the products that torch's counter leaves out, and the FLOPs by their shapes."""

    def of_vector(*shapes: Any, out_shape: Any = None, **_: Any) -> int:
        return 2 * math.prod(shapes[-2])  # matrix and vector, or two vectors, come last

    def of_matrices(*shapes: Any, out_shape: Any = None, **_: Any) -> int:
        return 2 * math.prod(shapes[-2]) * shapes[-1][-1]

    def of_bilinear(x: Any, weight: Any, y: Any, *_: Any, **__: Any) -> int:
        return 2 * x[0] * math.prod(weight) + 2 * math.prod(y) * weight[0]  # x W, then that with y

    aten = torch.ops.aten
    vectors, matrices = (aten.mv, aten.addmv, aten.dot, aten.vdot), (aten.addbmm, aten._int_mm)
    products = dict.fromkeys(vectors, of_vector) | dict.fromkeys(matrices, of_matrices)
    return products | {aten._trilinear: of_bilinear}


class _Uncounted(TorchDispatchMode):
    """Notes operations that multiply in ways for which there is no formula."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name.startswith(_NO_FORMULA):
            self.found.add(f"torch.ops.{func._schema.name.replace('::', '.')}")
        return func(*args, **(kwargs or {}))


@contextmanager
def _plain_operations() -> Iterator[None]:
    fast, onednn = torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    torch._C._set_mkldnn_enabled(False)  # mkldnn.flags() warns of GPUs that are not there
    try:
        with torch.backends.cudnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch._C._set_mkldnn_enabled(onednn)


class _Count:
    """FLOPs so far, the examples, and layers that have weights, are called, and add nothing.

    Args:
        network: The network that is run.
        x: Its (first) input, of which the examples are counted.
        counter: Of the FLOPs.
        operations: What ran and has no formula.
    """

    def __init__(
        self, network: nn.Module, x: Tensor, counter: FlopCounterMode, operations: set[str]
    ) -> None:
        self.counter, self.operations = counter, operations
        self.x, self.batch = x, BatchDim(network, x)
        self.uncounted: dict[str, str] = {}
        self.before: dict[str, int] = {}
        self.hooks: list[RemovableHandle] = []
        for name, module in network.named_modules():
            if not isinstance(module, _FREE) and _has_matrix(module):
                start, stop = partial(self._start, name), partial(self._stop, name)
                self.hooks.append(module.register_forward_pre_hook(start))
                self.hooks.append(module.register_forward_hook(stop))

    @property
    def total(self) -> int:
        """FLOPs of all that has run."""
        return self.counter.get_total_flops()

    @property
    def examples(self) -> int:
        """How many ran."""
        return self.x.shape[self.batch.dim]

    def end(self) -> None:
        """Leave the network as it was."""
        self.batch.remove()
        for hook in self.hooks:
            hook.remove()

    def _start(self, name: str, module: nn.Module, inputs: object) -> None:
        self.before[name] = self.total

    def _stop(self, name: str, module: nn.Module, inputs: object, output: object) -> None:
        if self.total == self.before[name]:
            self.uncounted[name] = type(module).__name__


def _has_matrix(module: nn.Module) -> bool:
    # A leading 1 marks what is added to every example, such as codes of positions.
    own = module.parameters(recurse=False)
    return any(value.ndim > 1 and value.shape[0] > 1 for value in own)
