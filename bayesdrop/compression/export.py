"""A plain network with its architecture, in the formats of ``torch.export`` and of ONNX."""

from __future__ import annotations

import hashlib
import inspect
import io
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from bayesdrop.archives import MOST_TIMES
from bayesdrop.compression.batch_dim import batch_dims
from bayesdrop.compression.example import Example, example_of
from bayesdrop.compression.export_check import check_export
from bayesdrop.compression.export_outputs import check_outputs
from bayesdrop.errors import CheckpointError, CompactionError, ConfigError, ShapeError
from bayesdrop.files import first_line, write_file
from bayesdrop.nn.mode import evaluation_mode

Path = str | os.PathLike[str]

# An entry of ONNX' metadata: field 1 is its key, field 2 the 64 digits of a SHA-256.
_KEY = b"\x0a\x10bayesdrop.sha256"
_SEAL = b"\x72" + bytes([len(_KEY) + 66]) + _KEY


def write_export(network: nn.Module, path: Path, example_input: Example | None) -> None:
    """Write by ``torch.export``, for any batch size.

    Args:
        network: A plain network.
        path: The file.
        example_input: As for ``save_plain``.

    Raises:
        CompactionError: If ``torch.export`` cannot follow the network, or if the outputs from the
            file for the example are others.
    """
    with evaluation_mode(network):
        inputs, dims = _inputs("export", network, example_input)
        plain = _with_plain_outputs(network, inputs)
        # Its archive writer ends the process if it meets a full disk.
        content = io.BytesIO()
        with _exporting(network, "export"):
            program = torch.export.export(
                plain,
                inputs,
                dynamic_shapes=_any_batch(plain, dims),
                strict=False,
            )
            torch.export.save(program, content)
        with torch.no_grad():
            check_outputs("export", plain, inputs, dims, program.module())
    write_file(path, lambda file: file.write(content.getbuffer()))


class _PlainOutputs(nn.Module):
    """A network whose outputs, of a class of somebody's own, come as a tuple."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Any) -> Any:
        """Return the tensors, or the one."""
        found = tuple(_tensors_in(self.network(*inputs)))
        return found[0] if len(found) == 1 else found


def _tensors_in(output: Any) -> Iterator[Tensor]:
    """Yield the tensors of an output, and of what is in it, in order."""
    if isinstance(output, Tensor):
        yield output
        return
    parts = _parts_of(output)
    if parts is None and isinstance(output, dict):
        parts = output.values()
    elif parts is None and isinstance(output, list | tuple):
        parts = output
    for part in parts or ():
        yield from _tensors_in(part)


def _parts_of(output: Any) -> Iterable[Any] | None:
    """Return what is in an output of a class of somebody's own; None if it is of none."""
    if isinstance(output, Mapping) and type(output) is not dict:
        return output.values()
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return output
    if is_dataclass(output):
        return [getattr(output, field.name) for field in fields(output)]
    return None


@torch.no_grad()
def _with_plain_outputs(network: nn.Module, inputs: tuple[Any, ...]) -> nn.Module:
    """Return a network whose outputs a file can hold without a class of another library."""
    own = _parts_of(network(*inputs)) is not None
    return _PlainOutputs(network).eval() if own else network


def read_export(path: Path) -> nn.Module:
    """Return the module of ``write_export``, in evaluation mode.

    Raises:
        CheckpointError: If the file is damaged or holds what can run code.
    """
    try:
        check_export(path)
        with open(path, "rb") as file:
            program = torch.export.load(file)
        names, network = [*map(str, program.graph_signature.user_inputs)], program.module()
        network.register_forward_pre_hook(
            partial(_without_names, names), with_kwargs=True, prepend=True
        )
        return network
    except (CheckpointError, MemoryError):
        raise
    except Exception as error:  # whatever torch makes of damaged bytes
        raise damaged(path, "export", error) from error


def write_onnx(network: nn.Module, path: Path, example_input: Example | None) -> None:
    """Write as ONNX, for any batch size; input ``input``, output ``output``.

    Several inputs have the names of the arguments, several outputs ``output_0``, ``output_1``, ...

    Args:
        network: A plain network.
        path: The file, which holds the weights.
        example_input: As for ``save_plain``.

    Raises:
        CompactionError: If the exporter cannot follow the network, or if ``onnxruntime``, where it
            is installed, gets other outputs from the file for the example.
        ImportError: If the ONNX packages are missing.
    """
    _require("onnx", "onnxscript")
    with evaluation_mode(network):
        inputs, dims = _inputs("onnx", network, example_input)
        plain = _with_plain_outputs(network, inputs)
        with _exporting(network, "onnx"):
            program = torch.onnx.export(
                plain,
                inputs,
                dynamo=True,
                dynamic_shapes=_any_batch(plain, dims),
                input_names=["input"] if len(inputs) == 1 else _names_of(network, len(inputs)),
                verbose=False,
            )
            if program is None:
                raise RuntimeError("torch.onnx.export returned no program")
    outputs = program.model.graph.outputs
    for index, value in enumerate(outputs):
        value.name = f"output_{index}" if len(outputs) > 1 else "output"
    content = program.model_proto.SerializeToString()
    try:
        written = OnnxNetwork(_session(content))
        written(*inputs)
    except Exception:  # onnxruntime is not there, or cannot run what another program may
        pass
    else:
        check_outputs("onnx", plain, inputs, dims, written)
    write_file(path, lambda file: file.write(content + _seal(content)))


def read_onnx(path: Path) -> nn.Module:
    """Return a module that runs an ONNX file on the CPU by ``onnxruntime``.

    Raises:
        CheckpointError: If the file is damaged.
        ImportError: If the ONNX packages are missing.
    """
    _require("onnx", "onnxruntime")
    import onnx

    try:
        with open(path, "rb") as file:
            content = file.read()
        body = content[: -len(_seal(b""))]
        if content[len(body) :].startswith(_SEAL) and content != body + _seal(body):
            raise ValueError("wrong checksum")
        _check_graph(onnx.load_model_from_string(content).graph, len(content))
        return OnnxNetwork(_session(content)).eval()
    except MemoryError:
        raise
    except Exception as error:  # onnxruntime's own classes have no common parent but this
        raise damaged(path, "onnx", error) from error


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
    def forward(self, *inputs: Tensor, **named: Tensor) -> Any:
        """Return the output, or a tuple of them."""
        inputs = _by_place(self.names, inputs, named)
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


def _without_names(
    names: list[str], module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return _by_place(names, inputs, named), {}


def _by_place(names: list[str], inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
    """Return the inputs of a file, some of which may be given by name, in its order."""
    rest = names[len(inputs) :]
    if named and set(named) != set(rest):
        raise ConfigError(
            "a network of load_plain",
            expected=f"inputs called {', '.join(names)}",
            got=f"{len(inputs)} by position and {', '.join(named)}",
            hint="These are the names in the file, in their order.",
        )
    return (*inputs, *(named[name] for name in rest)) if named else inputs


def damaged(path: Path, kind: str, error: BaseException) -> CheckpointError:
    """Return the error for a file whose beginning is right and whose rest is not."""
    return CheckpointError(
        f"plain network {os.fspath(path)}",
        expected=f"a whole file of format {kind!r}",
        got=f"one that cannot be read ({type(error).__name__}: {first_line(error)})",
        hint="Was copying it interrupted, or was it written by another version of torch?",
    )


def _session(content: bytes) -> Any:
    import onnxruntime

    # From bytes, so that it opens no other file; what is constant is not computed in advance,
    # since a few bytes may describe constants of any size.
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(
        content,
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=["ConstantFolding"],
    )


@contextmanager
def _exporting(network: nn.Module, kind: str) -> Iterator[None]:
    """Raise whatever an exporter makes of a network as one error, with the first cause in it."""
    try:
        with warnings.catch_warnings():
            # They are parameters, which recurrent layers keep in a list as well.
            warnings.filterwarnings("ignore", r"The tensor attributes? .*_flat_weights")
            yield
    except MemoryError:
        raise
    except Exception as error:  # the exporters have no class of errors of their own
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise CompactionError(
            f"save_plain, format {kind!r}",
            expected="a network whose operations do not go by the values of its input",
            got=f"{type(network).__name__}, which the exporter cannot follow "
            f"({type(cause).__name__}: {first_line(cause)})",
            hint="Packed sequences and branches on values are such. Without them, or else by its "
            "code: keep the weights by torch.save(network.state_dict(), path) or format='sparse'.",
        ) from error


def _seal(content: bytes) -> bytes:
    """Return a checksum of a model as an entry of its metadata, which may follow it."""
    return _SEAL + b"\x12\x40" + hashlib.sha256(content).hexdigest().encode()


def _check_graph(graph: Any, size: int) -> None:
    """Raise unless the tensors of a graph of ONNX are in its file."""
    nodes = list(graph.node)
    attributes = [attribute for node in nodes for attribute in node.attribute]
    tensors = [*graph.initializer, *(a.t for a in attributes if a.HasField("t"))]
    tensors += [tensor for a in attributes for tensor in a.tensors]
    sparse = [*graph.sparse_initializer, *(s for a in attributes for s in a.sparse_tensors)]
    sparse += [a.sparse_tensor for a in attributes if a.HasField("sparse_tensor")]
    for tensor in [*tensors, *sparse, *(s.values for s in sparse)]:
        if math.prod(tensor.dims) > MOST_TIMES * size:
            raise ValueError(f"a tensor of {list(tensor.dims)} in {size:,} bytes")
    if any(tensor.external_data for tensor in [*tensors, *(s.values for s in sparse)]):
        raise ValueError("weights in another file")
    for attribute in attributes:
        for inner in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
            _check_graph(inner, size)


def _require(*packages: str) -> None:
    for package in packages:
        try:
            __import__(package)
        except ImportError as error:
            raise ImportError(
                f"format 'onnx' needs {package}: pip install bayesdrop[onnx]"
            ) from error


def _inputs(
    kind: str, network: nn.Module, example_input: Example | None
) -> tuple[tuple[Tensor, ...], list[int]]:
    """Return inputs with two examples at least, and which of their dimensions has them."""
    inputs = example_of("save_plain", network, example_input)
    with _exporting(network, kind):
        dims = batch_dims(network, inputs)
    # torch.export takes a batch of one for a network that is made for one.
    pairs = zip(inputs, dims, strict=True)
    return tuple(torch.cat([x, x], d) if x.shape[d] == 1 else x for x, d in pairs), dims


def _names_of(network: nn.Module, count: int) -> list[str] | None:
    """Return the names of the first arguments of a forward; None if not all have one."""
    parameters = list(inspect.signature(network.forward).parameters.values())[:count]
    if len(parameters) < count or any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return None
    return [parameter.name for parameter in parameters]


def _any_batch(network: nn.Module, dims: list[int]) -> tuple[Any, ...]:
    sizes = torch.export.Dim
    # Where examples come second, the length of sequences is free too if the network lets it.
    free: tuple[dict[int, Any], ...] = ({0: sizes.DYNAMIC}, {0: sizes.AUTO, 1: sizes.DYNAMIC})
    shapes = tuple(free[dim] for dim in dims)
    parameters = inspect.signature(network.forward).parameters.values()
    for index, parameter in enumerate(list(parameters)[: len(dims)]):
        if parameter.kind is parameter.VAR_POSITIONAL:  # one argument, which is a tuple
            return (*shapes[:index], shapes[index:])
    return shapes
