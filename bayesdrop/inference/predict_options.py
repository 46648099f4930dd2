"""What ``predict`` is asked for, checked before a pass is made."""

from __future__ import annotations

from typing import get_args

from bayesdrop.errors import ConfigError, unknown_name
from bayesdrop.nn.arguments import is_real
from bayesdrop.program.checks import check_program
from bayesdrop.program.program import Program
from bayesdrop.typing import SharedBy


def check_options(
    bnn: object, num_samples: int, shared_by: str, batch_size: int | None, memory_limit: int
) -> None:
    """Raise ``ConfigError`` unless the arguments make sense, each by itself."""
    check_program("predict", bnn)
    if shared_by not in get_args(SharedBy):
        raise unknown_name("shared_by of predict", shared_by, get_args(SharedBy))
    counts = (num_samples, memory_limit, 1 if batch_size is None else batch_size)
    if any(not is_real(count) or not count >= 1 or count % 1 for count in counts):
        raise ConfigError(
            "predict",
            expected="num_samples, batch_size and memory_limit, whole numbers of at least 1",
            got=f"{num_samples!r}, {batch_size!r} and {memory_limit!r}",
            hint="The defaults are 64, None and 2**30 bytes.",
        )


def check_unbiased(bnn: Program, impossible: bool) -> None:
    """Raise ``ConfigError`` if one sample is to tell how much samples differ."""
    if impossible and bnn.is_random:
        raise ConfigError(
            "predict",
            expected="at least two samples for unbiased=True",
            got="num_samples=1",
            hint="One sample does not tell how much samples differ.",
        )
