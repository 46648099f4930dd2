"""Attention and feed-forward blocks of transformers, recognised by what their parts are called."""

from __future__ import annotations

import dis
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.nn.utils import parametrize

from bayesdrop.nn import MultiheadAttention

ROLES = ("query", "key", "value")
_FACTS = ("device", "dtype", "ndim", "requires_grad", "shape", "size")
_SEPARATE = (
    (("q_proj", "k_proj", "v_proj"), ("o_proj", "out_proj", "dense", "proj", "c_proj")),
    (("q_lin", "k_lin", "v_lin"), ("out_lin",)),
    (("q", "k", "v"), ("o", "proj", "out")),
    (("query", "key", "value"), ("output", "dense", "out_proj", "proj")),
    (("wq", "wk", "wv"), ("wo",)),
    (("to_q", "to_k", "to_v"), ("to_out", "to_out.0")),
    (("self.query", "self.key", "self.value"), ("output.dense",)),
    (("attention.query", "attention.key", "attention.value"), ("output.dense",)),
)
_FUSED = (
    ("qkv", ("proj", "out_proj", "o_proj", "to_out", "out")),
    ("qkv_proj", ("out_proj", "o_proj", "proj")),
    ("to_qkv", ("to_out", "to_out.0")),
    ("in_proj", ("out_proj",)),
    ("Wqkv", ("out_proj", "Wo")),
    ("c_attn", ("c_proj",)),
    ("query_key_value", ("dense",)),
)
_FEED_FORWARD = (
    (("linear1",), "linear2"),
    (("lin1",), "lin2"),
    (("fc1",), "fc2"),
    (("fc1_g", "fc1_x"), "fc2"),
    (("c_fc",), "c_proj"),
    (("fc_in",), "fc_out"),
    (("gate_proj", "up_proj"), "down_proj"),
    (("gate_up_proj",), "down_proj"),
    (("Wi",), "Wo"),
    (("ffn",), "ffn_output"),
    (("intermediate_dense",), "output_dense"),
    (("up_proj",), "down_proj"),
    (("wi_0", "wi_1"), "wo"),
    (("wi",), "wo"),
    (("w1", "w3"), "w2"),
    (("w1", "w2"), "w3"),
    (("dense_h_to_4h",), "dense_4h_to_h"),
    (("intermediate.dense",), "output.dense"),
)
NUM_HEADS = ("num_heads", "n_heads", "num_attention_heads", "n_head", "nhead", "heads")
NUM_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads")
_HEAD_DIM = ("head_dim", "attention_head_size", "key_value_proj_dim", "dim_head", "head_size")
_ACTIVATIONS = (
    nn.ReLU, nn.LeakyReLU, nn.ReLU6, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Softplus, nn.Sigmoid, nn.Tanh, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid,
)  # fmt: skip


@dataclass(frozen=True)
class Attention:
    """Where the heads of an attention block are.

    Args:
        name: The block's name in the network.
        holder: Name of the module whose attributes count the heads.
        sources: Name of a layer to what its outputs are, in order, of ``ROLES``; none for
            ``MultiheadAttention``, which has them itself.
        output: Name of the layer that the heads feed.
        num_heads: Number of query heads.
        num_kv_heads: Number of key and value heads, each shared by as many query heads.
        head_dim: Size of a head's queries and keys.
        value_dim: Size of a head's values.
    """

    name: str
    holder: str
    sources: Mapping[str, tuple[str, ...]]
    output: str
    num_heads: int
    num_kv_heads: int
    head_dim: int
    value_dim: int

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of all its layers."""
        return (*self.sources, self.output)

    @property
    def units(self) -> str:
        """What its units are, in words."""
        return f"heads of {_told(self.name)}"


@dataclass(frozen=True)
class FeedForward:
    """Where the hidden units of two layers with an activation between are.

    Args:
        name: The name of the module that both are in.
        sources: Names of the layers that make them: one, or one and its gate.
        output: Name of the layer that they feed.
        width: Their number.
        dropout: Name of an ``nn.Dropout`` directly before the second layer, if there is one.
        batch_dim: The dimension of the examples.
    """

    name: str
    sources: tuple[str, ...]
    output: str
    width: int
    dropout: str | None = None
    batch_dim: int = 0

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of all its layers."""
        return (*self.sources, self.output)

    @property
    def units(self) -> str:
        """What its units are, in words."""
        return f"hidden units of {_told(self.name)}"


Block: TypeAlias = Attention | FeedForward


def _told(name: str) -> str:
    return repr(name) if name else "the network"


@dataclass
class _Module:
    """A module, its name, and its parts by their names in it."""

    name: str
    module: nn.Module
    parts: dict[str, Any] = field(default_factory=dict)

    def part(self, name: str) -> Any:
        """Return a part, or None."""
        found: Any = self.module
        for step in name.split("."):
            found = getattr(found, "_modules", {}).get(step)
        return found

    def path(self, name: str) -> str:
        """Return the name of a part in the network."""
        return ".".join(filter(None, (self.name, name)))

    def matrices(self, names: tuple[str, ...]) -> bool:
        """Return whether parts are plain matrices."""
        return all(is_matrix(self.part(name)) for name in names)


def is_matrix(layer: Any) -> bool:
    """Return whether a layer is a plain matrix: an ``nn.Linear``, or the ``Conv1D`` of GPT-2."""
    if not isinstance(layer, nn.Module) or parametrize.is_parametrized(layer):
        return False
    # Not by attribute: while torch.fx traces, that is a symbol.
    own = layer._parameters
    if set(own) != {"weight", "bias"} or own["weight"] is None or own["weight"].ndim != 2:
        return False
    return isinstance(layer, nn.Linear) or is_transposed(layer)


def is_transposed(layer: nn.Module) -> bool:
    """Return whether a layer's weight is ``[input, output]``, as in GPT-2."""
    return type(layer).__name__ == "Conv1D" and hasattr(layer, "nf")


def sizes_of(layer: Any) -> tuple[int, int]:
    """Return the numbers of outputs and inputs of a matrix."""
    rows, columns = layer._parameters["weight"].shape
    return (columns, rows) if is_transposed(layer) else (rows, columns)


def attentions(network: nn.Module) -> Iterator[Attention]:
    """Yield the attention blocks of a network."""
    for name, module in network.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            own = type(module) in (nn.MultiheadAttention, MultiheadAttention)
            if own and is_matrix(module.out_proj):
                size, heads = module.out_proj.in_features // module.num_heads, module.num_heads
                output = f"{name}.out_proj" if name else "out_proj"
                yield Attention(name, name, {}, output, heads, heads, size, size)
            continue
        found = attention_of(name, module)
        if found is not None:
            yield found


def attention_of(name: str, module: nn.Module) -> Attention | None:
    """Return the attention block that a module is, unless it is none or torch's own."""
    here = _Module(name, module)
    return _separate(here) or _fused(here)


def _separate(here: _Module) -> Attention | None:
    for names, outputs in _SEPARATE:
        if not here.matrices(names):
            continue
        holder = names[0].rpartition(".")[0]
        for output in outputs:
            if here.matrices((output,)):
                sources = {n: (role,) for n, role in zip(names, ROLES, strict=True)}
                return _attention(here, holder, sources, output)
    return None


def _fused(here: _Module) -> Attention | None:
    for name, outputs in _FUSED:
        if not here.matrices((name,)):
            continue
        for output in outputs:
            if not here.matrices((output,)):
                continue
            sources: dict[str, tuple[str, ...]] = {name: ROLES}
            if here.matrices(("q_attn",)):  # cross attention of GPT-2
                sources = {"q_attn": ("query",), name: ROLES[1:]}
            return _attention(here, "", sources, output)
    return None


def _attention(
    here: _Module, holder: str, sources: Mapping[str, tuple[str, ...]], output: str
) -> Attention | None:
    settings = here.part(holder) if holder else here.module
    if uses_weights(settings) or uses_weights(here.module) or in_windows(settings):
        return None
    rows = {roles: sizes_of(here.part(name))[0] for name, roles in sources.items()}
    width = sizes_of(here.part(output))[1]
    heads = _number(settings, NUM_HEADS)
    if heads is None:
        size = _number(settings, _HEAD_DIM)
        heads = None if size is None else width // size
    if not heads or width % heads:
        return None
    value_dim = width // heads
    if ROLES in rows:
        head_dim, rest = divmod(rows[ROLES] - value_dim * heads, 2 * heads)
        kv_heads = heads
        if rest or head_dim != value_dim:  # grouped: (heads + 2 kv_heads) head_dim
            kv_heads, rest = divmod(rows[ROLES] // value_dim - heads, 2)
            head_dim = value_dim
        fits = not rest and rows[ROLES] == (heads + 2 * kv_heads) * head_dim
    else:
        head_dim = rows[("query",)] // heads
        keys, values = rows.get(("key",)), rows.get(("value",))
        if keys is None or values is None:
            keys = values = rows[ROLES[1:]] // 2
        kv_heads = keys // max(1, head_dim)
        fits = (rows[("query",)], keys, values) == (
            heads * head_dim, kv_heads * head_dim, kv_heads * value_dim
        )  # fmt: skip
    if not fits or kv_heads < 1 or heads % kv_heads:
        return None
    named = {here.path(name): roles for name, roles in sources.items()}
    return Attention(
        here.name,
        here.path(holder),
        named,
        here.path(output),
        heads,
        kv_heads,
        head_dim,
        value_dim,
    )


def _number(settings: Any, names: tuple[str, ...]) -> int | None:
    for name in names:
        value = getattr(settings, name, None)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None


def uses_weights(module: nn.Module) -> bool:
    """Return whether a forward mentions weights, not only their facts: a function may get them."""
    code = getattr(type(module).forward, "__code__", None)
    steps = [] if code is None else [*dis.get_instructions(code)]
    after = [b.argval for a, b in pairwise(steps) if a.argval == "weight" and "ATTR" in a.opname]
    return any(name not in _FACTS for name in after)


def in_windows(module: nn.Module) -> bool:
    """Return whether a module sees the windows of an image as examples, as those of Swin do.

    An example's mask cannot be told there: its windows are mixed with those of others.
    """
    name = type(module).__name__.lower()
    return "attention" in name and ("window" in name or "swin" in name)


def feed_forwards(network: nn.Module) -> Iterator[FeedForward]:
    """Yield the feed-forward blocks of a network."""
    for name, module in network.named_modules():
        here = _Module(name, module)
        if isinstance(module, nn.Sequential):
            yield from _in_sequence(here)
            continue
        for sources, output in _FEED_FORWARD:
            if not here.matrices((*sources, output)):
                continue
            width = sizes_of(here.part(output))[1]
            rows = [sizes_of(here.part(source))[0] for source in sources]
            # One layer may make both the units and their gates.
            if any(number != width for number in rows) and rows != [2 * width]:
                continue
            batch_dim, dropout = 0, None
            if isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
                batch_dim, dropout = 0 if module.self_attn.batch_first else 1, "dropout"
            elif here.part("drop1") is not None and output == "fc2":
                dropout = "drop1"
            paths = tuple(map(here.path, sources))
            dropout = None if dropout is None else here.path(dropout)
            yield FeedForward(name, paths, here.path(output), width, dropout, batch_dim)
            break


def _in_sequence(here: _Module) -> Iterator[FeedForward]:
    """Yield the pairs of layers of a sequence that have nothing but functions between."""
    first, dropout = None, None
    for step, part in here.module._modules.items():
        if is_matrix(part):
            if first is not None and sizes_of(here.part(first))[0] == sizes_of(part)[1]:
                width = sizes_of(part)[1]
                yield FeedForward(here.name, (here.path(first),), here.path(step), width, dropout)
            first, dropout = step, None
        elif isinstance(part, nn.Dropout):
            dropout = here.path(step)
        elif isinstance(part, (*_ACTIVATIONS, nn.Identity)):
            dropout = None
        else:
            first = dropout = None


def blocks_of(network: nn.Module) -> list[Block]:
    """Return the blocks of a network, in its order; no layer is in two of them."""
    found: list[Block] = []
    taken: set[str] = set()
    every: list[Block] = [*attentions(network), *feed_forwards(network)]
    for block in every:
        if taken.isdisjoint(block.layers) or _chained(block, found):
            taken |= set(block.layers)
            found.append(block)
    named = network.named_modules(remove_duplicate=False)  # a module may stand in two places
    order = {name: position for position, (name, _) in enumerate(named)}
    return sorted(found, key=lambda block: order[block.output])


def _chained(block: Block, found: list[Block]) -> bool:
    """Return whether blocks share no more than the end of one that starts another."""
    if isinstance(block, Attention):
        return False
    for other in found:
        shared = set(other.layers) & set(block.layers)
        ends = {other.output} & set(block.sources) | {block.output} & set(other.sources)
        if isinstance(other, Attention) and shared or shared - ends:
            return False
    return True


class UnitWeights(nn.Module):
    """The weights of a layer by the units on its inputs, for masks that ask for them.

    Args:
        layer: A matrix.
        num_units: The number of units, each so many inputs that lie side by side.
    """

    def __init__(self, layer: nn.Module, num_units: int) -> None:
        super().__init__()
        self.num_units = num_units
        self._layer = (layer,)  # in a tuple, so that it is no child

    @property
    def weight(self) -> Tensor:
        """The weight as ``(outputs, units, inputs per unit)``."""
        (layer,) = self._layer
        weight: Any = layer.weight
        weight = weight.T if is_transposed(layer) else weight
        return weight.unflatten(1, (self.num_units, -1))

    @property
    def bias(self) -> Tensor | None:
        """The bias."""
        bias: Any = self._layer[0].bias
        return bias
