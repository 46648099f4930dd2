"""Where users already are: other libraries' loops, metrics and model folders.

Each module but ``kl_term`` needs a library of its own and is imported when it is asked for:
``lightning``, ``transformers``, ``torchmetrics``, ``pretrained``.
"""

from bayesdrop.integrations.kl_term import KLTerm

__all__ = ["KLTerm"]
