"""Random numbers from a seed, for one thread, with torch's global generator left alone."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from bayesdrop.errors import ConfigError


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draw random numbers from a seed, those that ``torch.manual_seed`` would give.

    Every function of torch that takes a generator is given one of this block's own, in this thread
    alone: blocks in several threads do not disturb one another, nor what else draws meanwhile.
    ``torch.nn.functional.dropout`` takes none, and draws from the global generator as ever.

    Args:
        seed: Any integer that ``torch.manual_seed`` takes; None does nothing.

    Raises:
        ConfigError: If it is none of these.

    Example:
        >>> before = torch.get_rng_state()
        >>> with seeded(0):
        ...     first = torch.rand(3)
        >>> with seeded(0):
        ...     bool(torch.equal(torch.rand(3), first))
        True
        >>> torch.equal(torch.get_rng_state(), before)
        True
    """
    if seed is None:
        yield
        return
    with _OwnGenerators(as_seed(seed)):
        yield


def as_seed(seed: object) -> int:
    """Return an integer of Python or NumPy as ``torch.manual_seed`` takes it.

    Raises:
        ConfigError: If it is none, or too large.
    """
    if isinstance(seed, Integral) and not isinstance(seed, bool):
        number = int(seed)
        if -(2**63) <= number < 2**64:
            return number
    raise ConfigError(
        "bayesdrop",
        expected="seed to be None or an int from -2**63 to 2**64 - 1",
        got=f"seed={seed!r}",
        hint="Any small number will do.",
    )


def draws_noise(run: Callable[[], object]) -> bool:
    """Return whether a function draws random numbers of torch, Python or NumPy; put them back.

    What other threads draw meanwhile is not taken for the function's own, and left alone unless
    the function draws from the global generators too.

    Args:
        run: The function.
    """
    own, noticed = _OwnGenerators(0), _Noticed()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    states = [torch.get_rng_state(), *(torch.cuda.get_rng_state(i) for i in devices)]
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - what others draw from
    before = _numpy_state()
    with noticed, own:
        run()
    if noticed.without_generator:
        torch.set_rng_state(states[0])
        for device, state in zip(devices, states[1:], strict=True):
            torch.cuda.set_rng_state(state, device)
    same = random.getstate() == python and _numpy_state() == before
    if not same:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
    return noticed.is_random or not same


def _numpy_state() -> bytes:
    # Of any kind of generator. To print 624 numbers takes longer than a small network's pass.
    return pickle.dumps(np.random.get_state(legacy=False))  # noqa: NPY002


class _Noticed(TorchDispatchMode):
    is_random = without_generator = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Else torch imports its compiler, of seconds, at the first operator.
        return False

    @override
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            known = func._schema.arguments
            given = {a.name: a.default_value for a in known if a.has_default_value()}
            given |= dict(zip((a.name for a in known), args, strict=False)) | (kwargs or {})
            off = given.get("train", given.get("training", True)) is False
            if not off and given.get("dropout_p", given.get("p", 1.0)) != 0:
                self.is_random = True
                self.without_generator |= given.get("generator") is None
        return func(*args, **(kwargs or {}))


class _OwnGenerators(TorchFunctionMode):
    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.generators: dict[torch.device, torch.Generator] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        options = kwargs or {}
        if func in _DRAWS and options.get("generator") is None:
            options = {**options, "generator": self._generator(args, options)}
        return func(*args, **options)

    def _generator(self, args: tuple[Any, ...], options: dict[str, Any]) -> torch.Generator:
        device = options.get("device")
        if device is None:
            tensors = [value for value in (*args, *options.values()) if isinstance(value, Tensor)]
            device = tensors[0].device if tensors else torch.get_default_device()
        device = torch.device(device)
        if device not in self.generators:
            self.generators[device] = torch.Generator(device).manual_seed(self.seed)
        return self.generators[device]


_DRAWS = frozenset(
    {
        *(torch.rand_like, torch.randn_like, torch.randint_like),
        *(torch.rand, torch.randn, torch.randint, torch.randperm, torch.normal, torch.bernoulli),
        *(torch.multinomial, torch.poisson, torch.binomial, torch._standard_gamma),
        *(torch._sample_dirichlet, Tensor.bernoulli, Tensor.bernoulli_, Tensor.multinomial),
        *(Tensor.normal_, Tensor.uniform_, Tensor.exponential_, Tensor.random_, Tensor.cauchy_),
        *(Tensor.geometric_, Tensor.log_normal_),
    }
)
