"""The model card of a folder: what a network is, in words and tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from torch import nn

from bayesdrop.nn import named_owners
from bayesdrop.program.program import Program
from bayesdrop.record import Record, plain
from bayesdrop.reporting.model_card import describe_priors, versions
from bayesdrop.tables import markdown_table

Figures: TypeAlias = "Record | Mapping[str, Any]"

_USE = """## Use

```python
from bayesdrop.integrations.pretrained import from_pretrained

bnn = from_pretrained("{name}", bnn)  # one that was made by the same calls
prediction = bayesdrop.predict(bnn, x)
```
"""


def model_card(
    bnn: nn.Module, name: str, about: str, figures: Figures | None, license: str | None
) -> str:
    """Return a card in Markdown, with the header that the Hugging Face Hub reads.

    Args:
        bnn: A program or a network.
        name: The title.
        about: Paragraphs under it.
        figures: What it was found to do.
        license: For the header.
    """
    header = ["library_name: bayesdrop", "tags: [bayesian, dropout, uncertainty, pytorch]"]
    header = [f"license: {license}", *header] if license else header
    parts = ["\n".join(["---", *header, "---"]), f"# {name}"]
    parts += [about.strip()] if about.strip() else []
    parts += ["## Priors", _priors(bnn)]
    if figures is not None:
        parts += ["## Figures", _figures(figures)]
    if isinstance(bnn, Program):
        parts.append(
            f"Trained on {bnn.num_data:,} examples, with a weight of {bnn.kl_weight:g} on the KL "
            f"divergence, for the likelihood `{bnn.likelihood!r}`."
        )
        if bnn.privacy is not None:
            promise = ", ".join(f"{k} {v}" for k, v in bnn.privacy.to_dict().items())
            parts.append(f"Training was differentially private: {promise}.")
    parts.append(_USE.format(name=name).strip())
    parts.append("Written with " + ", ".join(f"{k} {v}" for k, v in versions().items()) + ".")
    return "\n\n".join(parts) + "\n"


def _priors(bnn: nn.Module) -> str:
    network: nn.Module = bnn.network if isinstance(bnn, Program) else bnn
    owners = dict(named_owners(network))
    rows = [
        [
            f"`{path}`",
            f"{card.kind} ({card.reference})" if card.reference else card.kind,
            card.prior,
            f"{int(owners[path].kept().sum()):,} of {owners[path].total():,} "
            f"{owners[path].unit_word}",
        ]
        for path, card in describe_priors(network).items()
    ]
    return markdown_table(["layer", "kind", "prior", "kept"], rows, text_columns=3)


def _figures(figures: Figures) -> str:
    rows = [[name, _shown(value)] for name, value in _numbers(plain(figures)).items()]
    return markdown_table(["figure", "value"], rows)


def _numbers(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _numbers(value, f"{prefix}{name} ")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[prefix + name.replace("_", " ")] = value
    return found


def _shown(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
