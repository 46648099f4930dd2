"""Conversion by parts: of a network that torch.fx cannot trace as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn

from bayesdrop.conversion.in_place import InPlace, matrices_in
from bayesdrop.conversion.inside import mask_in_place
from bayesdrop.conversion.leftovers import HANDED_OVER, NO_GRAPH, left_inside
from bayesdrop.conversion.plan import NOT_PLAIN, WINDOWS
from bayesdrop.conversion.report import Left, Placed
from bayesdrop.conversion.request import CLOSED, NEVER_DROPPED, Request
from bayesdrop.conversion.selection import named_layers, patterns_of
from bayesdrop.errors import ConversionError, unknown_name
from bayesdrop.networks.blocks import blocks_of, in_windows, uses_weights
from bayesdrop.nn import BayesianWeights, make

TIED = "its weights are another layer's, too"


def by_parts(
    work: nn.Module, request: Request, trained: bool, refusal: ConversionError
) -> tuple[nn.Module, tuple[Placed, ...], tuple[Left, ...]]:
    """Put layers into a network where they are, so that its classes and methods stay.

    Heads and hidden units of blocks get masks, then recurrent layers, the inputs of all other
    matrices, and every ``nn.Dropout`` whose width its own module tells. Convolutions are left
    alone: what follows them only a graph says.

    Args:
        work: A copy of the network.
        request: What is asked for.
        trained: Whether its weights are trained.
        refusal: Why it has no graph.

    Raises:
        ConversionError: The refusal, if nothing can be put in without a graph.
    """
    names = dict(work.named_modules())
    if request.position != "after-activation":
        raise refusal
    _check_patterns(request, names)
    blocks = blocks_of(work) if request.gates_heads else []
    matrices = [name for name in matrices_in(work) if request.linear]
    inside = {name for block in blocks for name in block.layers}
    holders = [name for name, module in names.items() if isinstance(module, request.inside)]
    place = InPlace(work, request)
    if trained:
        number = len(blocks) + len(holders) + len(set(matrices) - inside)
        place.keep_prob = 1 - CLOSED / max(1, number)
    for block in blocks:
        place.gate(block)
    for name in holders:
        mask_in_place(place, name, names[name])
    tied = _tied(names)
    windows = [f"{name}." for name, module in names.items() if in_windows(module)]
    for name in matrices:
        if name.startswith(tuple(windows)):
            place.skipped.setdefault(name, WINDOWS)
        elif name in tied:
            place.skipped.setdefault(name, TIED)
        elif uses_weights(work.get_submodule(name.rpartition(".")[0])):
            place.skipped.setdefault(name, HANDED_OVER)
        else:
            _randomise(place, name) if request.random_weights else place.mask(name)
    place.replace_dropouts()
    place.finish()
    left = tuple(left_inside(place))
    if not place.placed:
        for_want_of_a_graph = all(part.why == NO_GRAPH for part in left)
        raise refusal if for_want_of_a_graph else nothing_to_do(names, left)
    place.join()
    return place.root, tuple(place.placed.values()), left


def _check_patterns(request: Request, names: Mapping[str, nn.Module]) -> None:
    for selection in (request.select, request.exclude, list(request.overrides)):
        for pattern in patterns_of(selection):
            if not any(fnmatchcase(name, pattern) for name in names):
                raise unknown_name("layer", pattern, named_layers(names))


def _randomise(place: InPlace, name: str) -> None:
    """Give a matrix random weights, as far as it is a Linear of torch's own."""
    layer, request = place.root.get_submodule(name), place.request
    if not BayesianWeights.takes(layer):
        place.skipped[name] = NOT_PLAIN
        return
    if not place.selected(name, layer):
        return
    if place.keep_prob is not None and request.fixed_rate and not request.gives_rate(name):
        place.skipped[name] = NEVER_DROPPED
        return
    new = make(request.dropout, layer, **request.options_of(name, request.options))
    place.root.set_submodule(name, new)
    place.masked.add(name)
    where = f"weights of {name!r}"
    place.placed[name] = Placed(name, request.dropout, where, int(new.total()))


def _tied(modules: Mapping[str, nn.Module]) -> set[str]:
    """Return the names of the modules that share a parameter with another one."""
    owners: dict[int, list[str]] = {}
    for name, module in modules.items():
        for parameter in module._parameters.values():
            if parameter is not None:
                owners.setdefault(id(parameter), []).append(name)
    return {name for names in owners.values() if len(names) > 1 for name in names}


def nothing_to_do(modules: Mapping[str, nn.Module], left: Sequence[Left]) -> ConversionError:
    """Return the error that says that no layer was selected, and what there is."""
    names = named_layers(modules)
    reasons = "; ".join(f"{part.name!r} ({part.kind}): {part.why}" for part in left[:5])
    return ConversionError(
        "convert",
        expected="at least one Linear, convolution, LSTM, GRU or nn.Dropout to be selected",
        got=f"none of {names}" + (f"; {reasons}" if reasons else ""),
        hint="Check linear, conv, select, exclude, input_dropout and output_dropout.",
    )
