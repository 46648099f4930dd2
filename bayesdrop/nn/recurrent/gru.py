"""A GRU with one mask a sequence on inputs, state and outputs."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from bayesdrop.nn.recurrent.layer import RecurrentDropout
from bayesdrop.nn.recurrent.sequences import States


class DropoutGRU(RecurrentDropout, nn.GRU):
    r"""``nn.GRU`` with recurrent dropout: one mask a sequence, the same at every time step.

    .. math::
        \begin{aligned}
        r_t &= \sigma(W_r (x_t \circ z_x) + b_r + U_r (h_{t-1} \circ z_h) + d_r) \\
        u_t &= \sigma(W_u (x_t \circ z_x) + b_u + U_u (h_{t-1} \circ z_h) + d_u) \\
        n_t &= \tanh(W_n (x_t \circ z_x) + b_n + r_t \circ (U_n (h_{t-1} \circ z_h) + d_n)) \\
        h_t &= (1 - u_t) \circ n_t + u_t \circ h_{t-1}
        \end{aligned}

    The outputs are :math:`h_t \circ z_o`. What a unit keeps of its own state,
    :math:`u_t \circ h_{t-1}`, is under no mask. The masks are as in ``DropoutLSTM``, the gates
    those of ``nn.GRU`` in its order.

    Args:
        *args: Those of ``nn.GRU``. ``dropout``, which draws noise anew at every step, must be 0.
        input_dropout: Masks on the inputs of every layer, thus also between layers: a key of
            ``bd.nn.layers``, that key as ``"dropout"`` in a mapping with options, or None.
        state_dropout: Masks on the state that every layer carries on, in either direction.
        output_dropout: Mask on the outputs of the last layer.
        tied: Whether all gates see the same masks, the faster way.
        **options: The keyword arguments of ``nn.GRU``.

    Shape:  as ``nn.GRU``, with packed sequences and without a batch too.
    Sites:  those of the masks, such as ``{module path}.state_dropout_l0.z``.

    Raises:
        ConfigError: If an argument makes no sense, or a mask depends on its input.
        ShapeError: If the input, or ``hx``, has another shape.

    References:
        Gal, Ghahramani (2016), "A Theoretically Grounded Application of Dropout in Recurrent
        Neural Networks", https://arxiv.org/abs/1512.05287.
        Deviation: masks have any prior, where the paper's have a fixed rate (``"mc-dropout"``).

    Example:
        >>> gru = DropoutGRU(3, 4, bidirectional=True, output_dropout="indian-buffet")
        >>> output, state = gru(torch.zeros(7, 5, 3))
        >>> output.shape, state.shape, gru.output_dropout.num_units
        (torch.Size([7, 5, 8]), torch.Size([2, 5, 4]), 8)
    """

    num_gates: ClassVar[int] = 3
    num_states: ClassVar[int] = 1
    fused = staticmethod(torch.gru)
    plain_class: ClassVar[type[nn.RNNBase]] = nn.GRU

    @override
    def step(self, x: Tensor, recurrent: Tensor, states: States) -> States:
        x_r, x_u, x_n = x.chunk(3, -1)
        h_r, h_u, h_n = recurrent.chunk(3, -1)
        update = torch.sigmoid(x_u + h_u)
        new = torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n)
        return (new + update * (states[0] - new),)
