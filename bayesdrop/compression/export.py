"""A plain network with its architecture, in the formats of ``torch.export`` and of ONNX."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from bayesdrop.compression.example import Example, example_of
from bayesdrop.errors import CheckpointError, ShapeError
from bayesdrop.files import first_line, write_file
from bayesdrop.nn.mode import evaluation_mode

Path = str | os.PathLike[str]
_UNREADABLE = (
    OSError, RuntimeError, ValueError, EOFError, KeyError, AssertionError, TypeError,
    pickle.UnpicklingError, zipfile.BadZipFile,
)  # fmt: skip


def write_export(network: nn.Module, path: Path, example_input: Example | None) -> None:
    """Write by ``torch.export``, for any batch size.

    Args:
        network: A plain network.
        path: The file.
        example_input: As for ``save_plain``.
    """
    inputs = _inputs(network, example_input)
    with evaluation_mode(network):
        program = torch.export.export(
            network, inputs, dynamic_shapes=_any_batch(inputs), strict=False
        )
    write_file(path, lambda file: torch.export.save(program, file))


def read_export(path: Path) -> nn.Module:
    """Return the module of ``write_export``, in evaluation mode.

    Raises:
        CheckpointError: If the file is damaged or holds pickled objects.
    """
    try:
        _refuse_pickles(path)
        with open(path, "rb") as file:
            return torch.export.load(file).module()
    except _UNREADABLE as error:
        if isinstance(error, CheckpointError):
            raise
        raise damaged(path, "export", error) from error


def write_onnx(network: nn.Module, path: Path, example_input: Example | None) -> None:
    """Write as ONNX, for any batch size; input ``input``, output ``output``.

    Several inputs have the names of the arguments, several outputs ``output_0``, ``output_1``, ...

    Args:
        network: A plain network.
        path: The file, which holds the weights.
        example_input: As for ``save_plain``.

    Raises:
        ImportError: If the ONNX packages are missing.
    """
    _require("onnx", "onnxscript")
    inputs = _inputs(network, example_input)
    with evaluation_mode(network):
        program = torch.onnx.export(
            network,
            inputs,
            dynamo=True,
            dynamic_shapes=_any_batch(inputs),
            input_names=["input"] if len(inputs) == 1 else None,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export: expected a program, got None.")
    outputs = program.model.graph.outputs
    for index, value in enumerate(outputs):
        value.name = f"output_{index}" if len(outputs) > 1 else "output"
    content = program.model_proto.SerializeToString()
    write_file(path, lambda file: file.write(content))


def read_onnx(path: Path) -> nn.Module:
    """Return a module that runs an ONNX file on the CPU by ``onnxruntime``.

    Raises:
        CheckpointError: If the file is damaged.
        ImportError: If the ONNX packages are missing.
    """
    _require("onnx", "onnxruntime")
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes have no common parent but this
        raise damaged(path, "onnx", error) from error
    return OnnxNetwork(session).eval()


class OnnxNetwork(nn.Module):
    """Runs an ``onnxruntime`` session on tensors; nothing in it can be trained.

    Args:
        session: The session.
    """

    def __init__(self, session: Any) -> None:
        super().__init__()
        self.session = session
        self.names = [value.name for value in session.get_inputs()]

    @override
    def forward(self, *inputs: Tensor) -> Any:
        """Return the output, or a tuple of them."""
        if len(inputs) != len(self.names):
            raise ShapeError(
                "OnnxNetwork",
                expected=f"{len(self.names)} inputs ({', '.join(self.names)})",
                got=str(len(inputs)),
                hint="Pass one tensor for each.",
            )
        feed = {n: x.detach().cpu().numpy() for n, x in zip(self.names, inputs, strict=True)}
        results = tuple(torch.from_numpy(value) for value in self.session.run(None, feed))
        return results[0] if len(results) == 1 else results


def damaged(path: Path, kind: str, error: BaseException) -> CheckpointError:
    """Return the error for a file whose beginning is right and whose rest is not."""
    return CheckpointError(
        f"plain network {os.fspath(path)}",
        expected=f"a whole file of format {kind!r}",
        got=f"one that cannot be read ({type(error).__name__}: {first_line(error)})",
        hint="Was copying it interrupted, or was it written by another version of torch?",
    )


def _refuse_pickles(path: Path) -> None:
    """Raise unless everything in the archive is numbers and text, which cannot run code.

    ``torch.export.load`` falls back to unpickling whatever it finds.
    """
    with zipfile.ZipFile(path) as archive:
        if (wrong := archive.testzip()) is not None:  # torch does not compare checksums
            raise zipfile.BadZipFile(f"wrong checksum of {wrong}")
        names = archive.namelist()
        odd = [name for name in names if names.count(name) > 1]
        for name in names:
            leaf = name.rpartition("/")[2]
            if leaf.startswith(("custom_obj_", "opaque_obj_")):
                odd.append(name)
            elif leaf.endswith(".pt"):
                with archive.open(name) as file:
                    try:
                        torch.load(file, weights_only=True)
                    except pickle.UnpicklingError:
                        odd.append(name)
            elif leaf.endswith("_config.json"):
                entries = json.loads(archive.read(name)).get("config", {}).values()
                odd += [name for entry in entries if entry.get("use_pickle")]
    if odd:
        raise CheckpointError(
            f"plain network {os.fspath(path)}",
            expected="a file of numbers and text",
            got=f"pickled objects in {odd[0]}, which can run code",
            hint="save_plain writes none: do not open it unless you made it yourself.",
        )


def _require(*packages: str) -> None:
    for package in packages:
        try:
            __import__(package)
        except ImportError as error:
            raise ImportError(
                f"format 'onnx' needs {package}: pip install bayesdrop[onnx]"
            ) from error


def _inputs(network: nn.Module, example_input: Example | None) -> tuple[Tensor, ...]:
    # torch.export takes a batch of one for a network that is made for one.
    inputs = example_of("save_plain", network, example_input)
    return tuple(torch.cat([x, x]) if x.shape[0] == 1 else x for x in inputs)


def _any_batch(inputs: tuple[Tensor, ...]) -> tuple[dict[int, Any], ...]:
    return tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs)
