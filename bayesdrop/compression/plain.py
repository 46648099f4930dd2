"""Files of a plain network: written in one of four formats, recognised by what is in them."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from bayesdrop.archives import check_tensors
from bayesdrop.compression.example import Example
from bayesdrop.compression.export import Path, read_export, read_onnx, write_export, write_onnx
from bayesdrop.compression.quantised_file import MAGIC, read_quantised, write_quantised
from bayesdrop.compression.sparse import read_sparse, write_sparse
from bayesdrop.errors import CheckpointError, CompactionError, ConfigError
from bayesdrop.files import first_line
from bayesdrop.nn import named_dropout_layers, named_owners
from bayesdrop.registry import Registry


class _Format(NamedTuple):
    write: Callable[[nn.Module, Path, Example | None], None]
    read: Callable[[Path, Any], nn.Module]
    takes_random_weights: bool
    fills: bool = False


_FORMATS = Registry[_Format]("format of a plain network")
_FORMATS.register("export", _Format(write_export, lambda path, _: read_export(path), False))
_FORMATS.register(
    "sparse",
    _Format(lambda network, path, _: write_sparse(network, path), read_sparse, True, fills=True),
)
_FORMATS.register(
    "quantised",
    _Format(
        lambda network, path, _: write_quantised(network, path), read_quantised, False, fills=True
    ),
)
_FORMATS.register("onnx", _Format(write_onnx, lambda path, _: read_onnx(path), False))

_SIGNATURES = {
    b"\x89HDF": "an HDF5 file, such as Keras writes",
    b"\x80": "a bare pickle, which can run code and was not opened",
    b"PK": "the beginning of a zip archive, damaged or not whole",
    b"\x1f\x8b": "a gzip file",
    b"{": "JSON",
}


def save_plain(
    network: nn.Module,
    path: str | os.PathLike[str],
    example_input: Example | None = None,
    *,
    format: Literal["export", "sparse", "quantised", "onnx"] | None = None,
) -> None:
    """Save a plain network so that it runs, or is filled, where bayesdrop is not installed.

    * ``"export"``: architecture and weights, by ``torch.export``, for any batch size (examples
      may come second, as for ``count_flops``; all other sizes may stay those of the example).
      ``torch.export.load(path).module()`` runs it in any process that has torch. (That function
      unpickles what it is given: use it on files of your own, and ``load_plain`` on others.)
    * ``"onnx"``: architecture and weights as ONNX, for any batch size; the input is called
      ``input``, the output ``output``; several have the names of the arguments, and ``output_0``,
      ``output_1``, ... Needs ``pip install bayesdrop[onnx]``. Outputs of a class of one's own (a
      dataclass, a named tuple, Hugging Face's) come from both as the tuple of their tensors.
    * ``"sparse"``: the weights that are not zero and where they are; no architecture. Random
      weights are stored as their means, pruned ones being zero, under the plain network's names.
    * ``"quantised"``: the weights that are not zero in as few bits as their posterior allows, for
      the ``network`` that ``bd.compression.quantise`` has returned; no architecture.

    Args:
        network: What ``compact`` returned, or another network without Bayesian dropout layers;
            with random weights for ``"sparse"`` only.
        path: The file to write; it is replaced atomically.
        example_input: A batch of inputs of any size, or a tuple of them, to trace with.
            ``"sparse"`` and ``"quantised"`` need none.
        format: How to write it; by default ``"onnx"`` where the path ends in ``.onnx``, and
            ``"export"`` elsewhere.

    Raises:
        CompactionError: If the network still has Bayesian layers, or an exporter cannot follow it.
        ConfigError: If the format is unknown, an example input is missing, or weights that are to
            be stored quantised are not.
        CheckpointError: If the file cannot be written; an old file at ``path`` is kept.
        ImportError: If the ONNX packages are missing.

    Example:
        >>> import tempfile, torch
        >>> net, x = nn.Linear(3, 2), torch.rand(5, 3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_plain(net, f"{folder}/net.pt2", x)
        ...     again = load_plain(f"{folder}/net.pt2")
        >>> torch.equal(again(x), net(x))
        True
    """
    if format is None:
        format = "onnx" if os.fsdecode(path).lower().endswith(".onnx") else "export"
    chosen = _FORMATS[format]
    owners = named_dropout_layers if chosen.takes_random_weights else named_owners
    names = [name for name, _ in owners(network)]
    if names:
        raise CompactionError(
            "save_plain",
            expected="a network without Bayesian dropout layers"
            + ("" if chosen.takes_random_weights else " or random weights"),
            got=f"one with {names}",
            hint="Call bd.compact(network, x[:1]) first.",
        )
    chosen.write(network, path, example_input)


def load_plain(path: str | os.PathLike[str], network: nn.Module | None = None) -> nn.Module:
    """Load what ``save_plain`` wrote, in whatever format; no code from the file is run.

    Args:
        path: The file. Its name does not matter: it is recognised by what is in it.
        network: For a file of format ``"sparse"`` or ``"quantised"``, which has no architecture: a
            plain network of the one that was saved, such as ``bd.networks.lenet_300_100()``. It is
            filled and returned.

    Returns:
        A module in evaluation mode, ready to be called, with the names in the file too (one of
        ONNX runs by ``onnxruntime`` and cannot be trained), or ``network``.

    Raises:
        CheckpointError: If the file is missing, damaged, foreign or of another architecture; it
            says what the file is. ``network`` is then unchanged.
        ConfigError: If the file needs a network and there is none, or the other way round.
        ImportError: If it is ONNX and the packages are missing.
    """
    kind = _recognise(path)
    if _FORMATS[kind].fills == (network is None):
        raise ConfigError(
            "load_plain",
            expected="a network to fill for a file of format 'sparse' or 'quantised', and none "
            "for the others",
            got=f"{'none' if network is None else 'one'} for {os.fspath(path)}, a file of format "
            f"{kind!r}",
            hint="Such a file holds weights only: pass load_plain(path, network)."
            if network is None
            else "The file holds the architecture: pass load_plain(path).",
        )
    return _FORMATS[kind].read(path, network)


def _recognise(path: str | os.PathLike[str]) -> str:
    """Return the format of a file, or raise an error that says what it is instead."""
    try:
        with open(path, "rb") as file:
            head = file.read(16)
        found = _inside_zip(path) if zipfile.is_zipfile(path) else _of_head(head)
    except FileNotFoundError:
        found = "nothing there"
    except MemoryError:
        raise
    except Exception as error:  # whatever comes of damaged bytes
        found = f"one that cannot be read ({first_line(error)})"
    if found in _FORMATS:
        return found
    raise CheckpointError(
        f"plain network {os.fspath(path)}",
        expected="a whole file written by save_plain",
        got=found,
        hint="bd.load reads what bd.save wrote; torch.load(path, weights_only=True) a state_dict.",
    )


def _inside_zip(path: str | os.PathLike[str]) -> str:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    leaves = {name.rpartition("/")[2] for name in names}
    if "archive_format" in leaves or "serialized_exported_program.json" in leaves:
        return "export"
    if "constants.pkl" in leaves:
        return "a TorchScript file"
    if "data.pkl" in leaves:
        return _of_torch_save(path)
    return f"a zip archive with {names[0] if names else 'nothing'} in it"


def _of_torch_save(path: str | os.PathLike[str]) -> str:
    try:
        check_tensors(path)
    except pickle.UnpicklingError:
        return "a file of torch.save with pickled objects, which can run code and were not read"
    payload = torch.load(os.fspath(path), weights_only=True, mmap=True)
    if isinstance(payload, dict) and payload.get("format") == "bayesdrop":
        return str(kind) if (kind := payload.get("kind")) == "sparse" else f"a {kind} file of ours"
    if isinstance(payload, dict) and all(isinstance(v, Tensor) for v in payload.values()):
        return "a state_dict"
    return f"a {type(payload).__name__} of another program, written by torch.save"


def _of_head(head: bytes) -> str:
    if not head:
        return "an empty file"
    if head.startswith(MAGIC):
        return "quantised"
    # A model in ONNX begins with its version, a small number, and the name of its producer, or
    # with what follows these.
    if head[0] == 0x08 and len(head) > 2 and head[1] < 64:
        return "onnx"
    if head[8:10] == b'{"':
        return "a safetensors file"
    for signature, what in _SIGNATURES.items():
        if head.startswith(signature):
            return what
    return f"something else, which begins with {head[:8]!r}"
