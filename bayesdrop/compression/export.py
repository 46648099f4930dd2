"""Files of a compact network that run where bayesdrop is not installed."""

from __future__ import annotations

import os
import pickle
import zipfile
from typing import Any

import torch
from torch import Tensor, nn

from bayesdrop.errors import CheckpointError, CompactionError
from bayesdrop.files import first_line, write_file
from bayesdrop.nn import named_owners
from bayesdrop.nn.mode import evaluation_mode


def save_compact(net: nn.Module, path: str | os.PathLike[str], example_input: Tensor) -> None:
    """Save a compact network by ``torch.export``, for any batch size.

    ``torch.export.load(path).module()`` runs it in any process that has torch.

    Args:
        net: What ``compact`` returned, or another network without Bayesian dropout layers.
        path: The file to write, usually called ``.pt2`` or ``.pt``; it is replaced atomically.
        example_input: A batch of inputs, of any size.

    Raises:
        CompactionError: If the network still has Bayesian dropout layers.
        CheckpointError: If the file cannot be written; an old file at ``path`` is kept.
    """
    _require_plain("save_compact", net)
    with evaluation_mode(net):
        program = torch.export.export(
            net, (_batch(example_input),), dynamic_shapes=_dynamic_batch(), strict=False
        )
    write_file(path, lambda file: torch.export.save(program, file))


def load_compact(path: str | os.PathLike[str]) -> nn.Module:
    """Load what ``save_compact`` wrote: a module in evaluation mode, ready to be called.

    Raises:
        CheckpointError: If the file is missing, damaged or something else.
    """
    try:
        with open(path, "rb") as file:
            return torch.export.load(file).module()
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError,
            zipfile.BadZipFile) as error:  # fmt: skip
        raise CheckpointError(
            f"compact network {path}",
            expected="a whole file written by save_compact",
            got=f"one that cannot be read ({type(error).__name__}: {first_line(error)})",
            hint="Is it another kind of file, or was copying it interrupted?",
        ) from error


def export_onnx(net: nn.Module, path: str | os.PathLike[str], example_input: Tensor) -> None:
    """Write a compact network as ONNX, for any batch size; input ``input``, output ``output``.

    Args:
        net: What ``compact`` returned, or another network without Bayesian dropout layers.
        path: The file to write; it is replaced atomically and holds the weights.
        example_input: A batch of inputs, of any size.

    Raises:
        CompactionError: If the network still has Bayesian dropout layers.
        CheckpointError: If the file cannot be written; an old file at ``path`` is kept.
        ImportError: If the ONNX packages are missing.
    """
    _require_plain("export_onnx", net)
    _require_onnx()
    with evaluation_mode(net):
        program = torch.onnx.export(
            net,
            (_batch(example_input),),
            dynamo=True,
            dynamic_shapes=_dynamic_batch(),
            input_names=["input"],
            output_names=["output"],
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export: expected a program, got None.")
    content = program.model_proto.SerializeToString()
    write_file(path, lambda file: file.write(content))


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "export_onnx needs onnx and onnxscript: pip install bayesdrop[onnx]"
        ) from error


def _require_plain(who: str, net: nn.Module) -> None:
    names = [name for name, _ in named_owners(net)]
    if names:
        raise CompactionError(
            who,
            expected="a network without Bayesian dropout layers",
            got=f"one with {names}",
            hint="Call bd.compact(net, example_input) first.",
        )


def _batch(example: Tensor) -> Tensor:
    # torch.export takes a batch of one for a network that is made for one.
    return torch.cat([example, example]) if example.shape[0] == 1 else example


def _dynamic_batch() -> tuple[dict[int, Any]]:
    return ({0: torch.export.Dim.DYNAMIC},)
