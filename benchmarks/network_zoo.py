"""Networks from elsewhere in small configurations, random weights, ten classes or ten words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from networks_written import (
    CLASSES,
    WORDS,
    BagClassifier,
    EncoderClassifier,
    Mixer,
    Recurrent,
    SuperResolution,
    TemporalNetwork,
    UNet,
    autoencoder,
    discriminator,
    lenet,
    style,
    tabular_resnet,
)
from torch import Tensor, nn
from torchvision.models import segmentation, video
from typing_extensions import override


@dataclass(frozen=True)
class Case:
    """A network and what it is trained on.

    Args:
        group: Where it comes from.
        make: Makes it.
        shape: The shape of an example; integers below ``WORDS`` if ``words``.
        words: Whether the input is a sequence of words.
        target: ``"class"``; ``"dense"``, a class at each position; or ``"real"``, the input.
    """

    group: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...] = (3, 64, 64)
    words: bool = False
    target: str = "class"

    def inputs(self, number: int, generator: torch.Generator) -> Tensor:
        """Return random inputs."""
        if self.words:
            return torch.randint(WORDS, (number, *self.shape), generator=generator)
        return torch.randn(number, *self.shape, generator=generator, dtype=torch.float32)

    def targets(self, x: Tensor, output: Tensor, generator: torch.Generator) -> Tensor:
        """Return random targets of a network's output on ``x``."""
        if self.target == "real":
            return x.flatten(1)
        shape = (len(x), *output.shape[2:]) if self.target == "dense" else (len(x),)
        return torch.randint(output.shape[1], shape, generator=generator)


class Output(nn.Module):
    """A network of which one output is meant.

    Args:
        network: The network.
        choose: What is meant, of what it returns.
    """

    def __init__(self, network: nn.Module, choose: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.network, self.choose = network, choose

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.choose(self.network(x))


def vgg(width: int = 16) -> nn.Module:
    """Return torchvision's VGG-11 with batch norm, narrow."""
    plan: list[str | int] = [width, "M", 2 * width, "M", 4 * width, 4 * width, "M"]
    plan += [8 * width, 8 * width, "M", 512, "M"]
    network = torchvision.models.VGG(torchvision.models.vgg.make_layers(plan, batch_norm=True))
    return _with_classifier(network, 512 * 49)


def alexnet() -> nn.Module:
    """Return torchvision's AlexNet with a narrow classifier."""
    return _with_classifier(torchvision.models.AlexNet(), 256 * 36)


def _with_classifier(network: Any, features: int) -> nn.Module:
    network.classifier = nn.Sequential(
        nn.Dropout(), nn.Linear(features, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, CLASSES)
    )
    return network


def _vision(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: torchvision.models.get_model(name, weights=None, **options)


def _classifier(name: str, **options: Any) -> Callable[[], nn.Module]:
    return _vision(name, num_classes=CLASSES, **options)


def _timm(name: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import timm

        return timm.create_model(name, pretrained=False, num_classes=CLASSES, **options)

    return make


def _out(network: nn.Module) -> nn.Module:
    return Output(network, lambda result: result["out"])


def _segmentation(name: str) -> Callable[[], nn.Module]:
    make = segmentation.__dict__[name]
    return lambda: _out(make(weights=None, weights_backbone=None, num_classes=5))


def convnext() -> nn.Module:
    """Return torchvision's ConvNeXt with two stages."""
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    return ConvNeXt(
        [CNBlockConfig(24, 48, 2), CNBlockConfig(48, None, 2)], 0.1, num_classes=CLASSES
    )


def vit() -> nn.Module:
    """Return torchvision's ViT with two blocks."""
    return torchvision.models.VisionTransformer(64, 16, 2, 4, 32, 64, num_classes=CLASSES)


def swin() -> nn.Module:
    """Return torchvision's Swin transformer with two stages."""
    return torchvision.models.SwinTransformer(
        [4, 4], 24, [2, 2], [2, 4], [4, 4], stochastic_depth_prob=0.1, num_classes=CLASSES
    )


def maxvit() -> nn.Module:
    """Return torchvision's MaxVit with two stages."""
    return torchvision.models.MaxVit(
        (64, 64), 16, 4, [16, 32], [1, 1], 8, 0.1, num_classes=CLASSES
    )


def wide_resnet() -> nn.Module:
    """Return a ResNet with one wide bottleneck in each stage."""
    block = torchvision.models.resnet.Bottleneck
    return torchvision.models.ResNet(block, [1, 1, 1, 1], CLASSES, width_per_group=128)


_NO_MARKS = {"bos_token_id": None, "eos_token_id": None}
_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def bert() -> nn.Module:
    """Return Hugging Face's BERT for classes."""
    import transformers

    config = transformers.BertConfig(
        vocab_size=WORDS, intermediate_size=64, num_labels=CLASSES, **_SMALL
    )
    return Output(transformers.BertForSequenceClassification(config), _logits)


def distilbert() -> nn.Module:
    """Return Hugging Face's DistilBERT for classes."""
    import transformers

    config = transformers.DistilBertConfig(
        vocab_size=WORDS, dim=32, n_layers=2, n_heads=4, hidden_dim=64, num_labels=CLASSES
    )
    return Output(transformers.DistilBertForSequenceClassification(config), _logits)


def gpt2() -> nn.Module:
    """Return Hugging Face's GPT-2, whose outputs are words at each place."""
    import transformers

    config = transformers.GPT2Config(vocab_size=WORDS, n_embd=32, n_layer=2, n_head=4, **_NO_MARKS)
    return Output(transformers.GPT2LMHeadModel(config), _words)


def llama() -> nn.Module:
    """Return Hugging Face's Llama with grouped queries."""
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=WORDS, intermediate_size=64, num_key_value_heads=2, **_SMALL, **_NO_MARKS
    )
    return Output(transformers.LlamaForCausalLM(config), _words)


def hugging_vit() -> nn.Module:
    """Return Hugging Face's ViT."""
    import transformers

    config = transformers.ViTConfig(
        intermediate_size=64, image_size=32, patch_size=8, num_labels=CLASSES, **_SMALL
    )
    return Output(transformers.ViTForImageClassification(config), _logits)


def hugging_resnet() -> nn.Module:
    """Return Hugging Face's ResNet."""
    import transformers

    config = transformers.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32], depths=[2, 2], layer_type="basic",
        num_labels=CLASSES,
    )  # fmt: skip
    return Output(transformers.ResNetForImageClassification(config), _logits)


def _logits(result: Any) -> Tensor:
    return result.logits


def _words(result: Any) -> Tensor:
    return result.logits.transpose(1, 2)


_IMAGE = (3, 32, 32)
ZOO: dict[str, Case] = {
    "LeNet-5": Case("torch", lenet, (1, 28, 28)),
    "tabular ResNet": Case("torch", tabular_resnet, (12,)),
    "auto-encoder": Case("torch", autoencoder, (1, 16, 16), target="real"),
    "U-Net": Case("torch", UNet, _IMAGE, target="dense"),
    "pixel shuffle": Case("torch", SuperResolution, _IMAGE, target="dense"),
    "instance and group norm": Case("torch", style, _IMAGE, target="dense"),
    "TCN, weight norm": Case("torch", TemporalNetwork, (4, 20)),
    "discriminator, spectral norm": Case("torch", discriminator, _IMAGE),
    "MLP-Mixer": Case("torch", Mixer, _IMAGE),
    "bag of words": Case("torch", BagClassifier, (12,), words=True),
    "LSTM": Case("torch", lambda: Recurrent(nn.LSTM), (12,), words=True),
    "GRU": Case("torch", lambda: Recurrent(nn.GRU), (12,), words=True),
    "TransformerEncoder": Case("torch", EncoderClassifier, (12,), words=True),
    "AlexNet, narrow": Case("torchvision", alexnet),
    "VGG-11 BN, narrow": Case("torchvision", vgg),
    "ResNet-18": Case("torchvision", _classifier("resnet18")),
    "ResNeXt-50": Case("torchvision", _classifier("resnext50_32x4d")),
    "Wide ResNet, 4 blocks": Case("torchvision", wide_resnet),
    "DenseNet-121": Case("torchvision", _classifier("densenet121")),
    "MobileNetV2": Case("torchvision", _classifier("mobilenet_v2")),
    "MobileNetV3 small": Case("torchvision", _classifier("mobilenet_v3_small")),
    "EfficientNet-B0": Case("torchvision", _classifier("efficientnet_b0")),
    "ShuffleNetV2 0.5": Case("torchvision", _classifier("shufflenet_v2_x0_5")),
    "SqueezeNet 1.1": Case("torchvision", _classifier("squeezenet1_1")),
    "GoogLeNet": Case(
        "torchvision", _classifier("googlenet", aux_logits=False, init_weights=False)
    ),
    "Inception v3": Case(
        "torchvision",
        _classifier("inception_v3", aux_logits=False, init_weights=False),
        (3, 96, 96),
    ),
    "RegNet-Y 400": Case("torchvision", _classifier("regnet_y_400mf")),
    "MNASNet 0.5": Case("torchvision", _classifier("mnasnet0_5")),
    "ConvNeXt, 2 stages": Case("torchvision", convnext),
    "ViT, 2 blocks": Case("torchvision", vit),
    "Swin, 2 stages": Case("torchvision", swin),
    "MaxVit, 2 stages": Case("torchvision", maxvit),
    "FCN ResNet-50": Case("torchvision", _segmentation("fcn_resnet50"), target="dense"),
    "DeepLabV3 MobileNetV3": Case(
        "torchvision", _segmentation("deeplabv3_mobilenet_v3_large"), target="dense"
    ),
    "LRASPP MobileNetV3": Case(
        "torchvision", _segmentation("lraspp_mobilenet_v3_large"), target="dense"
    ),
    "R3D-18": Case("torchvision", lambda: video.r3d_18(num_classes=CLASSES), (3, 8, 32, 32)),
    "ResNet-10-T": Case("timm", _timm("resnet10t")),
    "MobileNetV3 small 0.5": Case("timm", _timm("mobilenetv3_small_050")),
    "ConvNeXt atto": Case("timm", _timm("convnext_atto")),
    "ViT, 2 blocks, timm": Case(
        "timm",
        _timm("vit_tiny_patch16_224", img_size=64, embed_dim=32, depth=2, num_heads=4),
    ),
    "EdgeNeXt xx-small": Case("timm", _timm("edgenext_xx_small")),
    "GhostNet 0.5": Case("timm", _timm("ghostnet_050")),
    "BERT, tiny": Case("Hugging Face", bert, (12,), words=True),
    "DistilBERT, tiny": Case("Hugging Face", distilbert, (12,), words=True),
    "GPT-2, tiny": Case("Hugging Face", gpt2, (12,), words=True, target="dense"),
    "Llama, tiny": Case("Hugging Face", llama, (12,), words=True, target="dense"),
    "ViT, tiny": Case("Hugging Face", hugging_vit, _IMAGE),
    "ResNet, tiny": Case("Hugging Face", hugging_resnet, _IMAGE),
}
