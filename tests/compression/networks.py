"""Networks to compact, small enough for tests, with nothing trivially zero."""

import torch
from torch import nn
from torch.nn import functional as F

import bayesdrop as bd


class Block(nn.Module):
    """Residual, functional, with a view: what people write."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(2, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1)
        self.drop = nn.Dropout(0.3)
        self.fc1 = nn.Linear(6 * 9, 20)
        self.fc2 = nn.Linear(20, 3)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x) + x)
        x = F.max_pool2d(x, 2)
        x = x.view(x.size(0), -1)
        x = F.relu(self.fc1(self.drop(x)))
        return self.fc2(F.dropout(x, 0.3, self.training))


def small_vgg():
    """torchvision's vgg11_bn with a small classifier; its own has 100 million weights."""
    from torchvision.models import vgg11_bn

    with torch.device("meta"):
        net = vgg11_bn(weights=None, init_weights=False)
    net.classifier[0], net.classifier[3] = nn.Linear(25088, 8), nn.Linear(8, 8)
    net.classifier[6] = nn.Linear(8, 10)
    net.features.to_empty(device="cpu")
    for module in net.features:
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return net


def resnet18():
    from torchvision.models import resnet18

    return resnet18(weights=None, num_classes=10)


NETWORKS = {
    "lenet-500-300": (bd.networks.lenet_500_300, (1, 28, 28)),
    "lenet5-caffe": (bd.networks.lenet5_caffe, (1, 28, 28)),
    "vgg": (lambda: bd.networks.vgg(width=0.1), (3, 32, 32)),
    "vgg11_bn": (small_vgg, (3, 32, 32)),
    "resnet18": (resnet18, (3, 32, 32)),
    "user module": (Block, (2, 6, 6)),
}


def randomise(net, *, pruned=0.5):
    """Prune units at random, and make BatchNorms other than the identity."""
    for module in net.modules():
        if isinstance(module, bd.BayesianDropout):
            gone = torch.rand(module.num_units) < pruned
            kept = torch.randn(module.num_units) + 3
            module.location.data = torch.where(gone, -9.0, kept)
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.running_mean.normal_(0, 0.5)
            module.running_var.uniform_(0.5, 2.0)
            if module.affine:
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.normal_(0, 0.5)
    return net


def close_every_other_unit(layer):
    """Prune units 0, 2, ..., and keep the others with certainty."""
    kept = torch.arange(layer.num_units) % 2
    layer.set_posterior(torch.where(kept == 1, 20.0, 1e-4))


def keep(layer, units):
    """Prune all units of a layer but the given ones."""
    layer.location.data.fill_(-9.0)
    layer.location.data[list(units)] = 3.0
    return layer


def mask(num_units, *, seed=0, **options):
    """A layer with about half of its units pruned."""
    layer = bd.BetaBernoulliDropout(num_units, **options)
    gone = torch.rand(num_units, generator=torch.Generator().manual_seed(seed)) < 0.5
    layer.location.data[gone] = -9.0
    layer.location.data[~gone] = 3.0
    return layer
