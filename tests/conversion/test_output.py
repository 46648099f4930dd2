"""The network's own output has no mask, whatever is between its last layer and its end."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bayesdrop as bd
from bayesdrop.errors import ConversionWarning


class Head(nn.Module):
    """Two convolutions and what a function makes of the second's output."""

    def __init__(self, end):
        super().__init__()
        self.a, self.b, self.end = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 1), end

    def forward(self, x):
        return self.end(self.b(F.relu(self.a(x))), x)


ENDS = {
    "itself": lambda h, x: h,
    "activation": lambda h, x: F.relu(h),
    "flatten": lambda h, x: h.flatten(1),
    "view": lambda h, x: h.view(h.size(0), -1),
    "mean over positions": lambda h, x: h.mean((2, 3)),
    "pool and squeeze": lambda h, x: F.adaptive_avg_pool2d(h, 1).squeeze(-1).squeeze(-1),
    "softmax": lambda h, x: h.softmax(1),
    "log_softmax": lambda h, x: F.log_softmax(h, 1),
    "interpolate": lambda h, x: F.interpolate(h, size=x.shape[-2:], mode="bilinear"),
    "pixel shuffle": lambda h, x: F.pixel_shuffle(F.pad(h, (0, 0, 0, 0, 0, 3)), 2),
    "getitem": lambda h, x: h[:, :3],
    "permute": lambda h, x: h.permute(0, 2, 3, 1).contiguous(),
    "dictionary": lambda h, x: {"out": h, "sizes": h.mean((1, 2))},
    "tuple in a list": lambda h, x: [(h, h.sigmoid())],
    "chunks": lambda h, x: torch.chunk(h, 5, 1),
    "parameters of a density": lambda h, x: (h[:, :2], h[:, 2:].exp()),
    "sum with the input": lambda h, x: x.mean(1, keepdim=True) + h,
    "difference": lambda h, x: x[:, :1] - h,
    "scaled": lambda h, x: torch.tanh(h) * 2.5,
    "stack": lambda h, x: torch.stack([h, h], -1),
    "norm": lambda h, x: F.layer_norm(h, (6, 6)),
    "float": lambda h, x: h.float().clamp(0, 1),
}


def named(net):
    return [name for name, _ in bd.nn.named_dropout_layers(net)]


@pytest.mark.parametrize("position", ["after-activation", "before-activation"])
@pytest.mark.parametrize("name", ENDS)
def test_the_last_convolution_has_no_mask(name, position):
    net = bd.convert(Head(ENDS[name]), position=position)
    assert named(net) == ["a_dropout"]
    (left,) = bd.conversion.conversion_report(net).left
    assert left.name == "b" and "network's own output" in left.why and not left.wanted
    assert named(bd.convert(Head(ENDS[name]), output_dropout=True)) == ["a_dropout", "b_dropout"]


BEHIND = {
    "linear": lambda h, x: F.linear(h.mean((2, 3)), torch.ones(2, 5)),
    "matmul": lambda h, x: h.mean((2, 3)) @ torch.ones(5, 2),
    "einsum": lambda h, x: torch.einsum("nchw,kc->nkhw", h, torch.ones(2, 5)),
    "only its size": lambda h, x: F.interpolate(x, size=h.shape[-2:]),
    "only its number": lambda h, x: x.view(h.size(0), -1),
    "only its type": lambda h, x: x.type_as(h),
}


@pytest.mark.parametrize("name", BEHIND)
def test_a_convolution_with_weights_behind_it_has_one(name):
    assert named(bd.convert(Head(BEHIND[name]))) == ["a_dropout", "b_dropout"]


def test_each_block_of_a_residual_network_without_a_head_is_its_output():
    class Blocks(nn.Module):
        def __init__(self, head):
            super().__init__()
            self.stem, self.a, self.b = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
            self.head = head

        def forward(self, x):
            x = F.relu(self.stem(x))
            return self.head(x + self.b(F.relu(self.a(x))))

    assert named(bd.convert(Blocks(nn.Conv2d(3, 1, 1)))) == [
        "stem_dropout", "a_dropout", "b_dropout",
    ]  # fmt: skip
    for end in (nn.Identity(), nn.LayerNorm((3, 4, 4)), nn.Sequential(nn.BatchNorm2d(3))):
        assert named(bd.convert(Blocks(end))) == ["a_dropout"]
    everything = bd.convert(Blocks(nn.Identity()), output_dropout=True)
    assert named(everything) == ["stem_dropout", "a_dropout", "b_dropout"]


def test_an_auxiliary_output_is_one_too():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.side = (nn.Conv2d(3, 3, 1) for _ in range(3))

        def forward(self, x):
            x = self.a(x)
            return {"out": self.b(x), "aux": self.side(x)}

    assert named(bd.convert(Two())) == ["a_dropout"]


def test_a_dropout_on_the_output_is_replaced_only_by_noise_that_prunes_nothing():
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2), nn.Dropout(0.3))
    with pytest.warns(ConversionWarning, match=r"'3' \(Dropout, dropout 0.3.*own output"):
        learned = bd.convert(net)
    assert named(learned) == ["0_dropout", "2_dropout"]
    sampled = bd.convert(net, "mc-dropout", linear=False)
    assert [(n, float(m.drop_prob)) for n, m in bd.nn.named_dropout_layers(sampled)] == [
        ("3", pytest.approx(0.3))
    ]
    assert named(bd.convert(net, output_dropout=True)) == ["0_dropout", "2_dropout", "3"]


def test_the_last_convolution_of_squeezenet_and_of_a_unet_has_none():
    from torchvision.models import squeezenet1_1

    net = bd.convert(squeezenet1_1(weights=None, num_classes=10))
    assert len(named(net)) == 25 and "classifier.1_dropout" not in named(net)

    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.deep = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
            self.up, self.head = nn.Conv2d(12, 4, 3, padding=1), nn.Conv2d(4, 5, 1)

        def forward(self, x):
            skip = F.relu(self.down(x))
            deep = F.relu(self.deep(F.max_pool2d(skip, 2)))
            deep = F.interpolate(deep, size=skip.shape[-2:])
            return self.head(F.relu(self.up(torch.cat([skip, deep], 1))))

    assert named(bd.convert(UNet())) == ["down_dropout", "deep_dropout", "up_dropout"]
