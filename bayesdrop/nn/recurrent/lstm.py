"""An LSTM with one mask a sequence on inputs, state and outputs."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from bayesdrop.nn.recurrent.layer import RecurrentDropout
from bayesdrop.nn.recurrent.sequences import States


class DropoutLSTM(RecurrentDropout, nn.LSTM):
    r"""``nn.LSTM`` with recurrent dropout: one mask a sequence, the same at every time step.

    .. math::
        \begin{pmatrix} i_t \\ f_t \\ g_t \\ o_t \end{pmatrix} =
        \begin{pmatrix} \sigma \\ \sigma \\ \tanh \\ \sigma \end{pmatrix}
        \bigl(W (x_t \circ z_x) + b + U (h_{t-1} \circ z_h) + d\bigr), \qquad
        c_t = f_t \circ c_{t-1} + i_t \circ g_t, \quad h_t = o_t \circ \tanh(c_t)

    The outputs are :math:`h_t \circ z_o`. Each of :math:`z_x` (for every layer), :math:`z_h` (for
    every layer and direction) and :math:`z_o` is a mask of any prior: a child of this module, such
    as ``state_dropout_l0``, with its own posterior, sites, KL divergence and ``kept()``. What
    masks do elsewhere they do here: ``train()`` draws one for each sequence, ``eval()`` takes the
    mean masks, ``predict`` those of its samples. With ``tied=False`` each gate has masks of its
    own: :math:`4 K` units in the order of the gates, of which ``weight_ih_l0`` has its rows.

    Where all sequences share the masks (``eval()``, ``predict``) they are multiplied into the
    columns of the weights, and torch's own kernel runs; it also runs where there is no mask on the
    state. Else a loop over time does.

    Args:
        *args: Those of ``nn.LSTM``. ``dropout``, which draws noise anew at every step, and
            ``proj_size`` must be 0.
        input_dropout: Masks on the inputs of every layer, thus also between layers: a key of
            ``bd.nn.layers``, that key as ``"dropout"`` in a mapping with options, or None.
        state_dropout: Masks on the state that every layer carries on, in either direction.
        output_dropout: Mask on the outputs of the last layer. (A Linear behind them that
            ``convert`` has seen has its own.) Final states, which a next batch may go on from,
            have none.
        tied: Whether all gates see the same masks, the faster way.
        **options: The keyword arguments of ``nn.LSTM``.

    Shape:  as ``nn.LSTM``, with packed sequences and without a batch too.
    Sites:  those of the masks, such as ``{module path}.state_dropout_l0.z``.

    Raises:
        ConfigError: If an argument makes no sense, or a mask depends on its input.
        ShapeError: If the input, or ``hx``, has another shape.

    References:
        Gal, Ghahramani (2016), "A Theoretically Grounded Application of Dropout in Recurrent
        Neural Networks", https://arxiv.org/abs/1512.05287.
        Deviations: masks have any prior, where the paper's have a fixed rate
        (``"mc-dropout"``); with two directions both see one mask of the inputs.

    Example:
        >>> lstm = DropoutLSTM(3, 4, batch_first=True, state_dropout="concrete")
        >>> output, (state, cell) = lstm(torch.zeros(5, 7, 3))
        >>> output.shape, lstm.state_dropout_l0
        (torch.Size([5, 7, 4]), ConcreteDropout(4))
        >>> _ = nn.LSTM(3, 4).load_state_dict(lstm.to_plain().state_dict())
    """

    num_gates: ClassVar[int] = 4
    num_states: ClassVar[int] = 2
    fused = staticmethod(torch.lstm)
    plain_class: ClassVar[type[nn.RNNBase]] = nn.LSTM

    @override
    def step(self, x: Tensor, recurrent: Tensor, states: States) -> States:
        i, f, g, o = (x + recurrent).chunk(4, -1)
        cell = torch.sigmoid(f) * states[1] + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(cell), cell
