import copy

import pytest
import torch

from bayesdrop.ops.memo import Memo


class Counted:
    def __init__(self, *inputs):
        self.inputs, self.memo, self.calls = inputs, Memo(), 0

    def value(self, **options):
        def compute():
            self.calls += 1
            return sum(x.sum() for x in self.inputs)

        return self.memo(compute, *self.inputs, **options)


def test_a_value_is_computed_once_while_nothing_changes():
    counted = Counted(torch.ones(3), torch.ones(2))
    assert [float(counted.value()) for _ in range(3)] == [5.0, 5.0, 5.0]
    assert counted.calls == 1
    assert float(copy.deepcopy(counted).value()) == 5.0


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.mul_(2),
        lambda x: x.data.mul_(2),
        lambda x: x.detach().numpy().__imul__(2),
        lambda x: setattr(x, "data", 2 * x.data),
        lambda x: setattr(x, "data", x.data.float() * 2),
    ],
)
def test_every_way_of_changing_a_tensor_is_noticed(change):
    counted = Counted(torch.ones(3))
    counted.value()
    change(counted.inputs[0])
    assert float(counted.value()) == 6.0
    assert counted.value().dtype == counted.inputs[0].dtype


def test_a_setting_counts_as_an_input():
    counted = Counted(torch.ones(3))
    for setting, calls in ((1, 1), (1, 1), (2, 2), (1, 3)):
        counted.value(setting=setting)
        assert counted.calls == calls


def test_a_gradient_is_computed_with_its_graph():
    x = torch.ones(3, requires_grad=True)
    counted = Counted(x)
    with torch.no_grad():
        counted.value()
    assert torch.autograd.grad(counted.value(), x)[0].tolist() == [1.0, 1.0, 1.0]


def test_a_value_of_inference_mode_serves_a_gradient_elsewhere():
    counted = Counted(torch.ones(3))
    with torch.inference_mode():
        counted.value()
    weight = torch.ones((), requires_grad=True)
    (weight * counted.value()).backward()
    assert float(weight.grad) == 3.0 and counted.calls == 1
