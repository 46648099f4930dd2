"""One pass of a recurrent layer whose sequences have a mask each, the same at every step."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from typing_extensions import override

from bayesdrop.errors import ShapeError
from bayesdrop.nn.context import active_context
from bayesdrop.nn.recurrent.places import RecurrentPlaces
from bayesdrop.nn.recurrent.sequences import Carried, Sequences, States

Masks: TypeAlias = Mapping[str, Tensor]
"""Those of a pass by place, ``(N, units)``, or ``(1, units)`` where all sequences share one."""


class RecurrentDropout(RecurrentPlaces):
    """Abstract recurrent layer of ``torch.nn`` with one mask a sequence, the same at every step.

    A subclass says what one step does, and derives from ``nn.LSTM`` or ``nn.GRU`` too.
    """

    num_states: ClassVar[int]
    """Number of states that it carries on: with an LSTM's cell two."""
    fused: ClassVar[Callable[..., tuple[Tensor, ...]]]
    """Torch's own kernel: it returns the outputs and the final states."""

    # -- what a kind of recurrent layer defines ------------------------------------------------

    @abstractmethod
    def step(self, x: Tensor, recurrent: Tensor, states: States) -> States:
        """Return the states after a step, the one that is the output first.

        Args:
            x: What the input adds to the gates, ``(N, gates * H)``, its bias included.
            recurrent: What the masked state adds, its bias included.
            states: The states before it, ``(N, H)`` each, not masked.
        """

    # -- a pass --------------------------------------------------------------------------------

    @override
    def forward(self, input: Any, hx: Any = None) -> tuple[Any, Any]:
        """Run the sequences, every one under masks of its own.

        Args:
            input: ``(T, N, K)``, ``(N, T, K)`` with ``batch_first``, ``(T, K)`` of one sequence,
                or packed sequences.
            hx: What the states were before the first step, as for the layer of ``torch.nn``.

        Returns:
            Outputs and final states, as the layer of ``torch.nn``. Only the outputs are under the
            mask of ``output_dropout``.
        """
        sequences, single = self._sequences(input)
        states = self._given(hx, sequences, single)
        self._check_number(sequences.number)
        masks = {place: sequences.ordered(mask) for place, mask in self._draw(sequences, single)}
        if all(mask.shape[0] == 1 for mask in masks.values()):
            output, final = self._run_fused(sequences, states, masks, range(self.num_layers))
        else:
            output, final = self._run_layers(sequences, states, masks)
        if "output_dropout" in masks:
            output = output.replaced(output.data * output.by_row(masks["output_dropout"]))
        return self._returned(output, final, single)

    def _sequences(self, given: Any) -> tuple[Sequences, bool]:
        """Return the sequences with time first, and whether there is only one, without a batch."""
        packed = given if isinstance(given, PackedSequence) else None
        x = given if packed is None else packed.data
        good = isinstance(x, Tensor) and x.ndim in ((2, 3) if packed is None else (2,))
        if not good or x.shape[-1] != self.input_size:
            shape = (
                f"(N, T, {self.input_size})" if self.batch_first else f"(T, N, {self.input_size})"
            )
            raise ShapeError(
                type(self).__name__,
                expected=f"an input of shape {shape}, (T, {self.input_size}), or packed sequences",
                got=f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__,
                hint="Is input_size the number of features of a step?",
            )
        if packed is not None:
            return Sequences(x, packed), False
        if x.ndim == 2:
            return Sequences(x.unsqueeze(1)), True
        return Sequences(x.transpose(0, 1) if self.batch_first else x), False

    def _check_number(self, number: int) -> None:
        context = active_context()
        rows = None if context is None else context.num_rows
        if rows in (None, number):
            return
        raise ShapeError(
            type(self).__name__,
            expected=f"the examples of this pass, {rows}, as sequences",
            got=f"{number} sequences",
            hint="Pass batch_first=True for inputs (N, T, K), and False for (T, N, K). Where "
            "examples are merged with another dimension, leave the layer out: convert(..., "
            "exclude=...).",
        )

    def _given(self, hx: Any, sequences: Sequences, single: bool) -> States:
        size = (self.num_layers * len(self.directions), sequences.number, self.hidden_size)
        if hx is None:
            zeros = sequences.data.new_zeros(size)
            return (zeros,) * self.num_states
        given = tuple(hx) if isinstance(hx, tuple | list) else (hx,)
        wanted = (size[0], size[2]) if single else size
        shapes = [tuple(state.shape) for state in given if isinstance(state, Tensor)]
        if shapes != [wanted] * self.num_states:
            raise ShapeError(
                type(self).__name__,
                expected=f"hx of {self.num_states} tensor(s) of shape {wanted}",
                got=str(shapes),
                hint="Layers times directions come first, then sequences, then hidden_size.",
            )
        states = tuple(state.unsqueeze(1) for state in given) if single else given
        order = None if sequences.packed is None else sequences.packed.sorted_indices
        return states if order is None else tuple(s.index_select(1, order) for s in states)

    def _draw(self, sequences: Sequences, single: bool) -> list[tuple[str, Tensor]]:
        """Return the masks of this pass, one for each sequence, in the order of their places."""
        found = []
        for place in self.mask_sizes():
            mask = getattr(self, place)
            if mask is not None:
                zero = sequences.data.new_zeros(())
                like = zero.expand(*([] if single else [sequences.number]), mask.num_units)
                found.append((place, torch.atleast_2d(mask.sample_mask(like))))
        return found

    def _run_layers(
        self, sequences: Sequences, states: States, masks: Masks
    ) -> tuple[Sequences, States]:
        finals: list[States] = []
        for layer in range(self.num_layers):
            first = layer * len(self.directions)
            own = tuple(state[first : first + len(self.directions)] for state in states)
            places = [f"input_dropout_l{layer}"]
            places += [f"state_dropout_l{layer}{suffix}" for suffix in self.directions]
            if all(self._foldable(place, masks) for place in places):
                sequences, final = self._run_fused(sequences, own, masks, range(layer, layer + 1))
            else:
                sequences, final = self._run_steps(sequences, own, masks, layer)
            finals.append(final)
        return sequences, tuple(map(torch.cat, zip(*finals, strict=True)))

    def _foldable(self, place: str, masks: Masks) -> bool:
        """Return whether torch's kernel can run under a mask: by its weights, or its input."""
        mask = masks.get(place)
        return mask is None or mask.shape[0] == 1 or (self.tied and place.startswith("input"))

    def folded(self, name: str, mask: Tensor | None) -> Tensor:
        """Return a weight matrix times a mask on its inputs, ``(1, parts * units)``."""
        weight: Tensor = getattr(self, name)
        if mask is None:
            return weight
        if self.tied:
            return weight * mask
        by_gate = weight.reshape(self.num_gates, -1, weight.shape[1])
        return (by_gate * mask.reshape(self.num_gates, 1, -1)).reshape(weight.shape)

    def layer_weights(self, layer: int, suffix: str, masks: Masks) -> list[Tensor]:
        """Return the parameters of one layer and direction, with masks that are shared in them."""
        inputs, state = masks.get(f"input_dropout_l{layer}"), f"state_dropout_l{layer}{suffix}"
        inputs = None if inputs is not None and inputs.shape[0] > 1 else inputs
        weights = [
            self.folded(f"weight_ih_l{layer}{suffix}", inputs),
            self.folded(f"weight_hh_l{layer}{suffix}", masks.get(state)),
        ]
        names = (f"bias_ih_l{layer}{suffix}", f"bias_hh_l{layer}{suffix}") if self.bias else ()
        return weights + [getattr(self, name) for name in names]

    @override
    @torch.no_grad()
    def with_mean_masks(self) -> nn.RNNBase | None:
        found = {place: getattr(self, place) for place in self.mask_sizes()}
        means = {p: mask.mean_mask() for p, mask in found.items() if mask is not None}
        output = means.pop("output_dropout", None)
        if output is not None and (output != 1).any():
            return None
        masks = {place: mean.unsqueeze(0) for place, mean in means.items()}
        new = self.to_plain()
        pairs = ((layer, suffix) for layer in range(self.num_layers) for suffix in self.directions)
        for names, (layer, suffix) in zip(new._all_weights, pairs, strict=True):
            for name, value in zip(names, self.layer_weights(layer, suffix, masks), strict=True):
                new.get_parameter(name).copy_(value)
        return new

    def _run_fused(
        self, sequences: Sequences, states: States, masks: Masks, layers: range
    ) -> tuple[Sequences, States]:
        """Run layers by torch's kernel, with their masks in its weights."""
        weights = [
            weight
            for layer in layers
            for suffix in self.directions
            for weight in self.layer_weights(layer, suffix, masks)
        ]
        mask = masks.get(f"input_dropout_l{layers[0]}")
        data, sizes = sequences.data, sequences.batch_sizes
        if mask is not None and mask.shape[0] > 1:
            data = data * sequences.by_row(mask)
        given = states if len(states) > 1 else states[0]
        settings = (self.bias, len(layers), 0.0, self.training, self.bidirectional)
        if sizes is None:
            output, *final = self.fused(data, given, weights, *settings, False)
        else:
            output, *final = self.fused(data, sizes, given, weights, *settings)
        return sequences.replaced(output), tuple(final)

    def _run_steps(
        self, sequences: Sequences, states: States, masks: Masks, layer: int
    ) -> tuple[Sequences, States]:
        """Run one layer step by step, with a mask of its own for each sequence."""
        outputs, finals = [], []
        for index, suffix in enumerate(self.directions):
            own = tuple(state[index] for state in states)
            x = self._projected(sequences, masks.get(f"input_dropout_l{layer}"), layer, suffix)
            output, final = self._run_direction(sequences.replaced(x), own, masks, (layer, suffix))
            outputs.append(output)
            finals.append(final)
        data = outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)
        return sequences.replaced(data), tuple(map(torch.stack, zip(*finals, strict=True)))

    def _projected(
        self, sequences: Sequences, mask: Tensor | None, layer: int, suffix: str
    ) -> Tensor:
        """Return what the masked inputs of all steps add to the gates."""
        name, data = f"weight_ih_l{layer}{suffix}", sequences.data
        bias = getattr(self, f"bias_ih_l{layer}{suffix}") if self.bias else None
        if mask is None or mask.shape[0] == 1:
            return nn.functional.linear(data, self.folded(name, mask), bias)
        rows = sequences.by_row(mask)
        if self.tied:
            return nn.functional.linear(data * rows, getattr(self, name), bias)
        gates = getattr(self, name).chunk(self.num_gates)
        parts = zip(gates, rows.chunk(self.num_gates, -1), strict=True)
        x = torch.cat([nn.functional.linear(data * own, weight) for weight, own in parts], -1)
        return x if bias is None else x + bias

    def _run_direction(
        self, sequences: Sequences, states: States, masks: Masks, which: tuple[int, str]
    ) -> tuple[Tensor, States]:
        layer, suffix = which
        mask = masks.get(f"state_dropout_l{layer}{suffix}")
        name = f"weight_hh_l{layer}{suffix}"
        bias = getattr(self, f"bias_hh_l{layer}{suffix}") if self.bias else None
        recur = _Recurrence(self.folded(name, None), bias, mask, self.num_parts)
        if mask is not None and mask.shape[0] == 1:
            recur = _Recurrence(self.folded(name, mask), bias, None, 1)
        steps = sequences.steps(sequences.data)
        order = range(len(steps)) if not suffix else reversed(range(len(steps)))
        carried = Carried(states, len(steps[-1 if suffix else 0]))
        outputs: list[Tensor] = [states[0]] * len(steps)
        for time in order:
            now = carried.resized(len(steps[time]))
            carried.states = self.step(steps[time], recur(now[0]), now)
            outputs[time] = carried.states[0]
        return sequences.joined(outputs), carried.final()

    def _returned(self, output: Sequences, final: States, single: bool) -> tuple[Any, Any]:
        packed = output.packed
        if packed is not None:
            order = packed.unsorted_indices
            if order is not None:
                final = tuple(state.index_select(1, order) for state in final)
            return packed._replace(data=output.data), self._given_back(final)
        if single:
            final = tuple(state.squeeze(1) for state in final)
            return output.data.squeeze(1), self._given_back(final)
        data = output.data.transpose(0, 1) if self.batch_first else output.data
        return data, self._given_back(final)

    def _given_back(self, final: States) -> Any:
        return final if self.num_states > 1 else final[0]


class _Recurrence:
    """What the masked state adds to the gates: of one layer, in one direction."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, mask: Tensor | None, parts: int
    ) -> None:
        self.mask, self.bias, self.weight, self.parts = mask, bias, weight, parts
        if mask is not None and parts > 1:
            self.mask = mask.reshape(len(mask), parts, -1).transpose(0, 1)
            self.by_gate = weight.reshape(parts, -1, weight.shape[1]).transpose(1, 2)

    def __call__(self, state: Tensor) -> Tensor:
        if self.mask is None:
            return nn.functional.linear(state, self.weight, self.bias)
        if self.parts == 1:
            return nn.functional.linear(state * self.mask[: len(state)], self.weight, self.bias)
        by_gate = torch.bmm(state * self.mask[:, : len(state)], self.by_gate)
        gates = by_gate.transpose(0, 1).reshape(len(state), -1)
        return gates if self.bias is None else gates + self.bias
