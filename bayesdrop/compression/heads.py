"""Heads and hidden units cut out of the blocks of a transformer, where they are.

A mask on the inputs of a block's last layer multiplies the columns of its weight, exactly. A head
or hidden unit of which all columns are zero adds nothing: its columns go, and with them the rows
of the layers that make it. That the block computes it as its names and sizes say is not taken on
trust: the block runs on the example before and after, and is put back if its output differs.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bayesdrop.compression.report import Cut
from bayesdrop.compression.tolerance import differs
from bayesdrop.errors import CompactionError
from bayesdrop.networks.blocks import (
    NUM_HEADS,
    NUM_KV_HEADS,
    ROLES,
    Attention,
    Block,
    FeedForward,
    blocks_of,
    is_transposed,
    sizes_of,
)
from bayesdrop.nn import (
    BayesianDropout,
    MultiheadAttention,
    input_mask,
    named_masked_inputs,
    unmask_inputs,
)

_GROUPS = ("num_key_value_groups", "n_rep", "num_groups", "kv_groups")
_WIDTHS = ("all_head_size", "attn_dim", "inner_dim", "split_size", "intermediate_size")
_BY_HEAD = {"relative_position_bias_table": -1, "logit_scale": 0}
_NOT_RUN = "the example does not run it"
_DIFFERS = "its outputs would change"


def cut_blocks(network: nn.Module, example: tuple[Any, ...], multiple_of: int = 1) -> list[Cut]:
    """Cut what masks on the inputs of layers drop, in place; no such mask is left.

    Args:
        network: A network in evaluation mode, which is changed.
        example: Its inputs.
        multiple_of: What the number of hidden units is rounded up to a multiple of.

    Raises:
        CompactionError: If a mask on the inputs of a layer depends on the input.
    """
    masked = dict(named_masked_inputs(network))
    if not masked:
        return []
    for name, layer in masked.items():
        _refuse_input_dependent(name, input_mask(layer))
    blocks = [block for block in blocks_of(network) if block.output in masked]
    before = _outputs(network, blocks, example)
    alive = {}
    for name, layer in masked.items():
        alive[name] = _fold(layer)
    surgeries = [_Surgery(network, block, alive[block.output], multiple_of) for block in blocks]
    waiting = [surgery for surgery in surgeries if surgery.wanted]
    for attempt in range(4):
        waiting = _attempt(network, waiting, example, before, attempt)
    for module in network.modules():
        if isinstance(module, MultiheadAttention):
            module.restore()
    inside = {block.output for block in blocks}
    rest = [
        Cut(name, f"inputs of {name!r}", len(units), len(units), int(units.sum()), "")
        for name, units in alive.items()
        if name not in inside
    ]
    return [surgery.report() for surgery in surgeries] + [_folded_only(cut) for cut in rest]


def _folded_only(cut: Cut) -> Cut:
    if cut.used == cut.kept:
        return cut
    return cut._replace(why="what makes them is not known")


def _refuse_input_dependent(name: str, mask: BayesianDropout | None) -> None:
    if mask is not None and mask.input_dependent:
        raise CompactionError(
            "compact",
            expected="masks on heads and hidden units that are the same for every input",
            got=f"{type(mask).__name__} {name!r}, whose mask depends on its input",
            hint="Take a layer with a fixed mask there: convert(..., overrides=...) or exclude.",
        )


def _fold(layer: Any) -> Tensor:
    """Multiply a mask into the columns of a layer; return which units are not zero."""
    mask = input_mask(layer)
    factors = torch.empty(0) if mask is None else mask.mean_mask().detach()
    columns = sizes_of(layer)[1]
    scale = factors.repeat_interleave(columns // len(factors)).to(layer.weight)
    weight = layer.weight.detach()
    unmask_inputs(layer)
    _set(layer, "weight", weight * (scale[:, None] if is_transposed(layer) else scale))
    return (factors != 0).cpu()


def _outputs(
    network: nn.Module, blocks: Sequence[Block], example: tuple[Any, ...]
) -> dict[str, list[Tensor]]:
    """Run a network and return what the last layers of blocks return, at each call."""
    found: dict[str, list[Tensor]] = {block.output: [] for block in blocks}
    hooks = [
        network.get_submodule(name).register_forward_hook(
            lambda _, __, output, calls=calls: calls.append(output.detach())
        )
        for name, calls in found.items()
    ]
    try:
        network(*example)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _attempt(
    network: nn.Module,
    waiting: Sequence[_Surgery],
    example: tuple[Any, ...],
    before: dict[str, list[Tensor]],
    attempt: int,
) -> list[_Surgery]:
    """Cut blocks in one of several ways; return those that it was not right for."""
    together = [surgery for surgery in waiting if surgery.cut(attempt)]
    failed = [surgery for surgery in waiting if surgery not in together]
    if not together:
        return failed
    wrong = _wrong(network, together, example, before)
    if wrong is None or wrong:  # one that is wrong changes what those after it see
        wrong = []
        for surgery in reversed(together):  # two may have a layer in common
            surgery.undo()
        for surgery in together:
            surgery.cut(attempt)
            if _wrong(network, [surgery], example, before) != []:
                surgery.undo()
                wrong.append(surgery)
    return failed + wrong


def _wrong(
    network: nn.Module,
    cut: Sequence[_Surgery],
    example: tuple[Any, ...],
    before: dict[str, list[Tensor]],
) -> list[_Surgery] | None:
    """Return the blocks that compute something else than before; None if one cannot run."""
    try:
        after = _outputs(network, [surgery.block for surgery in cut], example)
    except Exception:  # whatever a forward does with numbers that do not fit
        return None
    found = []
    for surgery in cut:
        name = surgery.block.output
        old, new = before[name], after[name]
        pairs = list(itertools.zip_longest(old, new))
        surgery.why = "" if old else _NOT_RUN
        if any(a is None or b is None or differs(a, b) for a, b in pairs):
            surgery.why = _DIFFERS
        if surgery.why:
            found.append(surgery)
    return found


class _Surgery:
    """One block, and how it was before.

    Args:
        network: The network.
        block: The block, with the mask multiplied into its last layer.
        alive: Which units have columns that are not zero.
        multiple_of: What the number of hidden units is rounded up to a multiple of.
    """

    def __init__(self, network: nn.Module, block: Block, alive: Tensor, multiple_of: int) -> None:
        self.network, self.block, self.alive = network, block, alive
        self.why = ""
        self.units = torch.arange(len(alive))
        self.groups = torch.arange(getattr(block, "num_kv_heads", 0))
        self.kept = len(alive)
        self.saved: dict[nn.Module, tuple[dict[str, Any], dict[str, Any]]] = {}
        if isinstance(block, Attention):
            self.units, self.groups = _heads(alive, block.num_kv_heads)
        else:
            number = max(1, -(-int(alive.sum()) // multiple_of) * multiple_of)
            # Those that are not zero first; the others are multiplied by zero.
            self.units = torch.argsort(~alive, stable=True)[:number].sort().values

    @property
    def wanted(self) -> bool:
        """Whether there is anything to cut."""
        return len(self.units) < len(self.alive)

    def report(self) -> Cut:
        """Return what was done."""
        used = int(self.alive.sum())
        why = self.why
        if not why and self.kept > used:
            heads = isinstance(self.block, Attention)
            why = "all groups need as many heads" if heads and used else "a layer needs so many"
        return Cut(self.block.name, self.block.units, len(self.alive), self.kept, used, why)

    def cut(self, attempt: int) -> bool:
        """Cut the block in one of several ways; return whether there is such a way."""
        if isinstance(self.block, Attention):
            interleaved, rename = divmod(attempt, 2)
            fused = ROLES in self.block.sources.values()
            grouped = self.block.num_kv_heads < self.block.num_heads
            if interleaved and (not fused or grouped):
                return False
            self._save()
            self._cut_heads(self.block, bool(interleaved), bool(rename))
        else:
            if attempt:
                return False
            self._save()
            self._cut_units(self.block)
        self.kept = len(self.units)
        return True

    def undo(self) -> None:
        """Put everything back."""
        for module, (own, parameters) in self.saved.items():
            module.__dict__.clear()
            module.__dict__.update(own)
            module._parameters = parameters
        self.saved, self.kept = {}, len(self.alive)

    def _save(self) -> None:
        names = {*self.block.layers, self.block.name, getattr(self.block, "holder", "")}
        modules = [self.network.get_submodule(name) for name in names]
        self.saved = {m: (dict(m.__dict__), dict(m._parameters)) for m in modules}
        for module in modules:
            module._parameters = dict(module._parameters)

    def _layer(self, name: str) -> Any:
        return self.network.get_submodule(name)

    def _cut_units(self, block: FeedForward) -> None:
        for name in block.sources:
            layer = self._layer(name)
            parts = range(sizes_of(layer)[0] // block.width)
            keep_rows(layer, torch.cat([self.units + part * block.width for part in parts]))
        keep_columns(self._layer(block.output), self.units)
        _renumber(
            self._layer(block.name), {name: (block.width, len(self.units)) for name in _WIDTHS}
        )

    def _cut_heads(self, block: Attention, interleaved: bool, rename: bool) -> None:
        rows = {
            "query": _spread(self.units, block.head_dim),
            "key": _spread(self.groups, block.head_dim),
            "value": _spread(self.groups, block.value_dim),
        }
        sizes = {
            "query": block.num_heads * block.head_dim,
            "key": block.num_kv_heads * block.head_dim,
            "value": block.num_kv_heads * block.value_dim,
        }
        for name, roles in block.sources.items():
            if interleaved and roles == ROLES:
                keep_rows(self._layer(name), _spread(self.units, 3 * block.head_dim))
                continue
            starts = itertools.accumulate((sizes[role] for role in roles), initial=0)
            index = [rows[role] + start for role, start in zip(roles, starts, strict=False)]
            keep_rows(self._layer(name), torch.cat(index))
        keep_columns(self._layer(block.output), _spread(self.units, block.value_dim))
        holder = self._layer(block.holder)
        if isinstance(holder, MultiheadAttention):
            _cut_multihead(holder, rows["query"], self.units)
            return
        for name, dim in _BY_HEAD.items():
            value = holder._parameters.get(name)
            if value is not None and value.shape[dim] == block.num_heads:
                _set(holder, name, value.detach().index_select(dim, self.units.to(value.device)))
        heads, groups = len(self.units), len(self.groups)
        numbers = {name: (block.num_heads, heads) for name in NUM_HEADS}
        numbers |= {name: (block.num_kv_heads, groups) for name in NUM_KV_HEADS}
        numbers |= {n: (block.num_heads // block.num_kv_heads, heads // groups) for n in _GROUPS}
        width = (block.num_heads * block.value_dim, heads * block.value_dim)
        numbers |= {name: width for name in (*_WIDTHS, *(("embed_dim", "dim") if rename else ()))}
        for module in {holder, self._layer(block.name)}:
            _renumber(module, numbers)


def _heads(alive: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Return the query heads and the groups of them that stay; each group has as many."""
    table = alive.reshape(groups, -1)
    lives = table.any(1) if table.any() else _first(table.any(1))
    number = max(1, int(table.sum(1).max()))
    # Those that are not zero first, and each in its order.
    order = torch.argsort(~table, dim=1, stable=True)[:, :number].sort(1).values
    index = order + torch.arange(groups)[:, None] * table.shape[1]
    return index[lives].flatten(), lives.nonzero().flatten()


def _first(units: Tensor) -> Tensor:
    return torch.arange(len(units)) == 0


def _spread(units: Tensor, size: int) -> Tensor:
    return (units[:, None] * size + torch.arange(size)).flatten()


def _cut_multihead(layer: Any, rows: Tensor, heads: Tensor) -> None:
    number = layer.num_heads * layer.head_dim
    for name, value in list(layer._parameters.items()):
        if value is None:
            continue
        if name in ("bias_k", "bias_v"):
            _set(layer, name, value.detach()[..., rows.to(value.device)])
        else:
            parts = range(len(value) // number)
            index = torch.cat([rows + part * number for part in parts])
            _set(layer, name, value.detach()[index.to(value.device)])
    layer.heads = tuple(layer.heads[head] for head in heads.tolist())
    layer.num_heads = len(layer.heads)


def keep_rows(layer: Any, rows: Tensor) -> None:
    """Leave a matrix those outputs."""
    transposed = is_transposed(layer)
    for name, value in list(layer._parameters.items()):
        if value is not None:
            dim = 1 if transposed and name == "weight" else 0
            _set(layer, name, value.detach().index_select(dim, rows.to(value.device)))
    setattr(layer, "nf" if transposed else "out_features", len(rows))


def keep_columns(layer: Any, columns: Tensor) -> None:
    """Leave a matrix those inputs."""
    transposed = is_transposed(layer)
    weight = layer.weight.detach()
    index = columns.to(weight.device)
    _set(layer, "weight", weight.index_select(0 if transposed else 1, index))
    setattr(layer, "nx" if transposed else "in_features", len(columns))


def _set(layer: nn.Module, name: str, value: Tensor) -> None:
    old = layer._parameters[name]
    grad = old is None or old.requires_grad
    layer._parameters[name] = nn.Parameter(value.contiguous(), grad)


def _renumber(module: nn.Module, numbers: dict[str, tuple[int, int]]) -> None:
    for name, (old, new) in numbers.items():
        if module.__dict__.get(name) == old and not isinstance(module.__dict__[name], bool):
            setattr(module, name, new)
