"""LoRA adapters cut to the ranks that the posterior keeps."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import torch
from torch import Tensor, nn

from bayesdrop.compression.report import Cut
from bayesdrop.conversion.lora import lora_layers
from bayesdrop.errors import CompactionError
from bayesdrop.nn.lora import LoRALinear, MaskedRanks
from bayesdrop.program.checks import require_module

_TOLERANCE = 1e-5


def cut_lora_ranks(model: nn.Module) -> nn.Module:
    r"""Return a copy of a model whose LoRA updates have only the ranks that are kept.

    .. math:: s\,B\,\mathrm{diag}(E[z])\,A = s\,B'A', \qquad
        A' \in \mathbb{R}^{k \times d},\ B' \in \mathbb{R}^{o \times k}

    Rows of :math:`A` and columns of :math:`B` go where the mean mask is zero, its other factors
    are multiplied into :math:`B'`, and the scale :math:`s` stays: outputs are those of the
    mean-masked model, which is checked on each layer. A layer that keeps no rank becomes the layer
    it adapted.

    Of a model of ``peft`` it makes a plain one: ``merge_and_unload``, ``save_pretrained`` and
    ``PeftModel.from_pretrained`` work, for the ranks stand in its configuration
    (``rank_pattern``, ``alpha_pattern``, ``target_modules``). There one rank of zeros stays where
    it must: in a layer with a bias of its own (``lora_bias``), and in the first layer if no layer
    keeps any.

    Args:
        model: Any module with ``bd.nn.LoRALinear`` layers, or with masks from
            ``bd.conversion.mask_lora_ranks``; not changed.

    Raises:
        CompactionError: If there is no such layer, a mask depends on the input, or the check
            fails.

    Example:
        >>> from bayesdrop.nn import LoRALinear
        >>> net = nn.Sequential(LoRALinear(nn.Linear(6, 4), 3))
        >>> net[0].lora_B.mask.set_posterior(torch.tensor([1e-4, 5.0, 1e-4]))
        >>> cut_lora_ranks(net)[0].rank
        1
    """
    require_module("cut_lora_ranks", model)
    work = copy.deepcopy(model)
    masked = [m for m in work.modules() if isinstance(m, MaskedRanks)]
    if not masked:
        raise CompactionError(
            "cut_lora_ranks",
            expected="LoRA layers with masks over their ranks",
            got="none",
            hint="Use bd.nn.LoRALinear, or bd.conversion.mask_lora_ranks on a peft model.",
        )
    if isinstance(work, LoRALinear):
        return _checked("", work)
    own = {name: m for name, m in work.named_modules() if isinstance(m, LoRALinear)}
    for name, layer in own.items():
        _put(work, name, _checked(name, layer))
    cut_adapters(work)
    return work


def cut_adapters(model: nn.Module) -> list[Cut]:
    """Cut the masked ranks of a model's ``peft`` adapters in place, and return what went.

    Args:
        model: Any module; one without such adapters is left as it is.

    Raises:
        CompactionError: If a mask depends on the input, or the check of a layer fails.
    """
    own = {id(m.lora_B) for m in model.modules() if isinstance(m, LoRALinear)}
    masked = {
        name: m
        for name, m in model.named_modules()
        if isinstance(m, MaskedRanks) and id(m) not in own
    }
    counts = {n: (int(m.mask.total()), int(m.mask.kept().sum())) for n, m in masked.items()}
    for adapter in sorted({name.rpartition(".")[2] for name in masked}):
        _cut_adapter(model, adapter)
    there = dict(model.named_modules())
    cuts = []
    for name, (total, used) in counts.items():
        left = there[name].get_parameter("weight").shape[1] if name in there else 0
        why = "" if left == used else "peft needs one"
        cuts.append(Cut(f"{name}.mask", f"ranks of {name!r}", total, left, used, why))
    return cuts


def _cut_adapter(model: nn.Module, adapter: str) -> None:
    layers = dict(lora_layers(model, adapter, "cut_lora_ranks"))
    kept: dict[str, int] = {}
    for name, layer in layers.items():
        second = layer.lora_B[adapter] if adapter in layer.lora_B else None
        if not isinstance(second, MaskedRanks):
            kept[name] = layer.r[adapter]
            continue
        kept[name] = int((second.mean_mask() != 0).sum())
    for name, layer in layers.items():
        second = layer.lora_B[adapter] if adapter in layer.lora_B else None
        if not isinstance(second, MaskedRanks):
            continue
        last = not any(kept.values())
        if kept[name] == 0 and second.bias is None and not last and len(layer.r) == 1:
            _put(model, name, layer.get_base_layer())
            continue
        before = _update(layer, adapter)
        layer.lora_A[adapter], layer.lora_B[adapter] = second.cut(layer.lora_A[adapter])
        kept[name] = max(1, kept[name])
        _resize(layer, adapter, kept[name])
        _verify(name, before, _update(layer, adapter))
    _write_configuration(model, adapter, layers, kept)


def _resize(layer: Any, adapter: str, rank: int) -> None:
    scaling = layer.scaling[adapter]
    root = layer.use_rslora.get(adapter, False)
    layer.r[adapter] = rank
    layer.lora_alpha[adapter] = scaling * (math.sqrt(rank) if root else rank)


def _write_configuration(
    model: nn.Module, adapter: str, layers: dict[str, Any], kept: dict[str, int]
) -> None:
    """Say in peft's configuration which layers are left, of which ranks and scales."""
    names = {id(layer): name for name, layer in layers.items() if kept[name]}
    for root, config in _configurations(model, adapter):
        inside = {n: m for n, m in root.named_modules() if id(m) in names}
        config.target_modules = "|".join(re.escape(name) for name in inside)
        config.layers_to_transform = config.layers_pattern = None
        config.rank_pattern = {f"^{re.escape(n)}": m.r[adapter] for n, m in inside.items()}
        config.alpha_pattern = {
            f"^{re.escape(n)}": m.lora_alpha[adapter] for n, m in inside.items()
        }


def _configurations(model: nn.Module, adapter: str) -> list[tuple[nn.Module, Any]]:
    """Return the modules that peft names layers from, each with the adapter's configuration."""
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTuner

    found = []
    for module in model.modules():
        configs = getattr(module, "peft_config", None)
        if isinstance(module, PeftModel) or not isinstance(configs, dict):
            continue  # a PeftModel has those of the tuner in it
        if adapter in configs:
            root = module.model if isinstance(module, BaseTuner) else module
            found.append((root, configs[adapter]))
    return found


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


@torch.no_grad()
def _update(layer: Any, adapter: str) -> Tensor:
    first, second = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
    update: Tensor = second.flatten(1).double() @ first.flatten(1).double()
    return update * layer.scaling[adapter]


@torch.no_grad()
def _checked(name: str, layer: LoRALinear) -> nn.Module:
    result = layer.cut()
    update = layer.update()
    after = result.update() if isinstance(result, LoRALinear) else torch.zeros_like(update)
    _verify(name, update, after)
    return result


def _verify(name: str, before: Tensor, after: Tensor) -> None:
    size = max(1.0, float(before.abs().max()))
    error = float((before - after).abs().max())
    if not error <= _TOLERANCE * size:
        raise CompactionError(
            "cut_lora_ranks",
            expected=f"the update of {name!r} within {_TOLERANCE * size:.1e} of the masked one",
            got=f"a difference of {error:.1e}",
            hint="Are all weights and keep probabilities finite?",
        )
