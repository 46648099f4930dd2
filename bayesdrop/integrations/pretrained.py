"""A folder that holds a trained network: safetensors, what it is as JSON, and a model card."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

import bayesdrop
from bayesdrop.errors import CheckpointError, ConfigError
from bayesdrop.files import first_line, read_sealed, write_file, write_sealed, write_text
from bayesdrop.inference.checkpoint import check_state
from bayesdrop.inference.privacy import Privacy
from bayesdrop.integrations.card import Figures, model_card
from bayesdrop.nn import named_owners
from bayesdrop.program.program import Program
from bayesdrop.record import plain
from bayesdrop.reporting.model_card import describe_priors, versions

try:
    from safetensors.torch import load as _load
    from safetensors.torch import save as _save
except ImportError as error:
    raise ImportError(
        "bayesdrop.integrations.pretrained needs safetensors: pip install bayesdrop[pretrained]."
    ) from error

ModuleT = TypeVar("ModuleT", bound=nn.Module)

_WEIGHTS, _CONFIG, _CARD = "model.safetensors", "config.json", "README.md"
_FORMAT, _VERSION = "bayesdrop", 1
_SETTINGS = ("num_data", "kl_weight", "input_shape")
_NUMBER = re.compile(r"-?\d+\.?\d*(?:e[-+]?\d+)?")


def save_pretrained(
    bnn: nn.Module,
    folder: str | os.PathLike[str],
    *,
    name: str | None = None,
    about: str = "",
    figures: Figures | None = None,
    license: str | None = None,
) -> list[Path]:
    """Write a folder as the Hugging Face Hub has them, and return the paths.

    ``model.safetensors`` has all parameters and buffers, ``config.json`` priors, likelihood,
    settings and versions, ``README.md`` is the model card. Upload it with ``hf upload``.

    Args:
        bnn: A program such as a ``BayesianNetwork``, or a network with Bayesian layers.
        folder: The folder; it is made. Of an earlier model the three files are replaced.
        name: Title of the card; None is the folder's name.
        about: What the network is for and was trained on, in Markdown.
        figures: What it was found to do, such as ``bd.evaluate(bnn, test)``: a record or mapping.
        license: Such as ``"mit"``, for the Hub.

    Raises:
        ConfigError: If the network has no Bayesian layers.
        CheckpointError: If a file cannot be written.
    """
    folder, network = Path(folder), _network(bnn)
    if not any(True for _ in named_owners(network)):
        raise ConfigError(
            "save_pretrained",
            expected="a network with Bayesian layers",
            got=f"a {type(network).__name__} without any",
            hint="Of a compact one bd.compression.save_plain writes a file.",
        )
    tensors, aliases = _without_aliases(bnn.state_dict())
    weights = _save(tensors, metadata={"format": "pt"})
    config = {
        "format": _FORMAT,
        "version": _VERSION,
        "network": type(network).__name__,
        "program": _program(bnn),
        "priors": plain(describe_priors(network)),
        "aliases": aliases,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "versions": {"bayesdrop": bayesdrop.__version__, **versions()},
    }
    card = model_card(bnn, name or folder.resolve().name, about, figures, license)
    return [
        write_file(folder / _WEIGHTS, lambda file: file.write(weights)),
        write_sealed(folder / _CONFIG, config),
        write_text(folder / _CARD, card),
    ]


def from_pretrained(folder: str | os.PathLike[str], bnn: ModuleT) -> ModuleT:
    """Fill ``bnn`` with what ``save_pretrained`` wrote of one like it, and return it.

    Nothing in the folder is run or unpickled. Of the Hub it is
    ``from_pretrained(huggingface_hub.snapshot_download("user/name"), bnn)``.

    Args:
        folder: The folder.
        bnn: A program, or a network, of the same architecture, made by the same calls.

    Returns:
        ``bnn``, in evaluation mode.

    Raises:
        CheckpointError: If a file is missing, damaged or foreign, or of another architecture,
            prior or likelihood, which it names; ``bnn`` is then unchanged.
    """
    folder = Path(folder)
    config = _config(folder)
    state = _state(folder, config)
    program = config["program"]
    if (program is None) != (not isinstance(bnn, Program)):
        raise CheckpointError(
            f"folder {folder}",
            expected="a network" if program is None else f"a {program['kind']}",
            got=f"a {type(bnn).__name__}",
            hint="It is filled by what was saved: bd.BayesianNetwork(...) or its network.",
        )
    check_state(bnn, state, folder)
    before = {key: value.clone() for key, value in bnn.state_dict().items()}
    bnn.load_state_dict(state)
    try:
        # A prior may depend on parameters: it is known when these are loaded.
        _check_same(folder, _described(bnn), config)
    except CheckpointError:
        bnn.load_state_dict(before)
        raise
    if isinstance(bnn, Program):
        for setting in _SETTINGS:
            value = program[setting]
            setattr(bnn, setting, tuple(value) if isinstance(value, list) else value)
        bnn.privacy = None if program["privacy"] is None else Privacy.from_dict(program["privacy"])
    return bnn.eval()


def _network(bnn: nn.Module) -> nn.Module:
    return bnn.network if isinstance(bnn, Program) else bnn


def _program(bnn: nn.Module) -> dict[str, Any] | None:
    if not isinstance(bnn, Program):
        return None
    privacy = None if bnn.privacy is None else bnn.privacy.to_dict()
    settings = {name: getattr(bnn, name) for name in _SETTINGS}
    likelihood = repr(bnn.likelihood)
    return plain(
        {"kind": type(bnn).__name__, "likelihood": likelihood, **settings, "privacy": privacy}
    )


def _described(bnn: nn.Module) -> dict[str, str]:
    program = _program(bnn)
    return _lines({"program": program, "priors": plain(describe_priors(_network(bnn)))})


def _lines(config: Mapping[str, Any]) -> dict[str, str]:
    program = config["program"] or {}
    found = {name: str(program.get(name)) for name in ("kind", "likelihood")}
    for path, card in config["priors"].items():
        found[f"the prior of {path!r}"] = f"{card['kind']}: {card['prior']}, {card['kl_scale']}"
    return found


def _check_same(folder: Path, own: Mapping[str, str], config: Mapping[str, Any]) -> None:
    theirs = _lines(config)
    for name in {**own, **theirs}:
        ours, other = own.get(name, "none"), theirs.get(name, "none")
        if not _alike(ours, other):
            raise CheckpointError(
                f"folder {folder}",
                expected=f"{name} to be {ours}",
                got=other,
                hint="Make the network with the options that it was trained with: the same "
                "parameters mean something else under another prior.",
            )


def _alike(one: str, other: str) -> bool:
    """Return whether two descriptions are the same, but for rounding of their numbers."""
    if _NUMBER.sub("#", one) != _NUMBER.sub("#", other):
        return False
    pairs = zip(_NUMBER.findall(one), _NUMBER.findall(other), strict=True)
    return all(abs(float(a) - float(b)) <= 1e-4 * abs(float(a)) for a, b in pairs)


def _config(folder: Path) -> dict[str, Any]:
    config = read_sealed(folder / _CONFIG)
    if not isinstance(config, dict) or config.get("format") != _FORMAT:
        raise CheckpointError(
            f"folder {folder}",
            expected="a folder that save_pretrained wrote",
            got=f"a {_CONFIG} of another program",
            hint="A model of Hugging Face is loaded with its own from_pretrained.",
        )
    if config.get("version") != _VERSION:
        raise CheckpointError(
            f"folder {folder}",
            expected=f"version {_VERSION}",
            got=f"version {config.get('version')}",
            hint="Was it written by another version of bayesdrop?",
        )
    return config


def _state(folder: Path, config: Mapping[str, Any]) -> dict[str, Tensor]:
    path = folder / _WEIGHTS
    try:
        weights = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"file {path}",
            expected="the weights",
            got=first_line(error),
            hint="Was the folder copied as a whole?",
        ) from error
    if hashlib.sha256(weights).hexdigest() != config["sha256"]:
        raise CheckpointError(
            f"file {path}",
            expected=f"the weights that {_CONFIG} belongs to",
            got="others, or a part of them",
            hint="Download it again; a file of a few lines is a pointer of Git LFS.",
        )
    state = _load(weights)
    return {**state, **{name: state[of] for name, of in config["aliases"].items()}}


def _without_aliases(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors, each once, and the other names of those that have several."""
    known: dict[Any, str] = {}
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    for name, value in state.items():
        key = (value.data_ptr(), value.shape, value.stride(), value.dtype, value.device)
        first = known.setdefault(key, name) if value.numel() else name
        if first == name:
            tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        else:
            aliases[name] = first
    return tensors, aliases


__all__ = ["from_pretrained", "save_pretrained"]
