"""A layer that takes another one's place runs its hooks, of forward and of backward."""

import pytest
import torch
from torch import nn

import bayesdrop as bd


class First(nn.Module):
    """A layer, and a head behind its outputs."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.head = layer, nn.Linear(5, 3)

    def forward(self, x):
        output = self.layer(x)
        return self.head(output[0] if isinstance(output, tuple) else output)


def doubled(module, inputs, output):
    return (output[0] * 2, output[1]) if isinstance(output, tuple) else output * 2


def stopped(module, gradient):
    return tuple(None if g is None else 0 * g for g in gradient)


CASES = {
    "linear": (lambda: nn.Linear(4, 5), "gaussian-weights", {}),
    "lstm": (lambda: nn.LSTM(4, 5, batch_first=True), "beta-bernoulli", {}),
    "embedding": (lambda: nn.Embedding(9, 5), "beta-bernoulli", {"embedding": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_are_those_under_the_hooks(case):
    make, key, options = CASES[case]
    x = torch.randint(9, (2, 7)) if case == "embedding" else torch.randn(2, 7, 4)
    net = First(make())
    expected = bd.convert(net, key, **options).eval()
    for hooked in (net, expected):  # before, and after
        hooked.layer.register_forward_hook(doubled)
        hooked.layer.register_full_backward_pre_hook(stopped)
    masked = bd.convert(net, key, **options).eval()
    assert type(masked.layer) is not type(net.layer)
    masked.load_state_dict(expected.state_dict())
    torch.testing.assert_close(masked(x), expected(x))
    masked(x).sum().backward()
    weight = next(p for name, p in masked.named_parameters() if name.startswith("layer.weight"))
    assert not weight.grad.any() and masked.head.weight.grad.any()
    torch.testing.assert_close(bd.without_dropout(masked)(x), net.eval()(x))
    small = bd.compact(masked, x)
    torch.testing.assert_close(small(x), masked(x))
    assert type(small.layer) is type(net.layer)
