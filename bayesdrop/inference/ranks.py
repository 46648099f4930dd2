"""One training run in several processes, each with its share of every batch."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator

import torch
from torch import Tensor, distributed
from torch.utils.data import DataLoader, DistributedSampler

from bayesdrop.errors import ConfigError
from bayesdrop.inference.batches import Batch, Data, as_tensors, batches
from bayesdrop.inference.validation import device_of
from bayesdrop.program.program import Program


class Ranks:
    """The processes of a run: this one's number, and what they tell one another.

    A step's gradient is the mean of theirs, which is that of the whole batch: each weighs its
    likelihood by its share, and all have the same KL. Parameters, and buffers after each epoch,
    are those of process 0; so are its random numbers, from which each epoch has the order of the
    examples, the same for all, and the seed of the masks, another one for each.

    Args:
        bnn: The network.

    Raises:
        ConfigError: If nothing has started several processes.
    """

    def __init__(self, bnn: Program) -> None:
        self.device = device_of(bnn)
        _join(self.device)
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()
        self._tell(bnn, [*bnn.parameters(), *bnn.buffers()])

    def check(self, data: Data, batch_size: int) -> None:
        """Raise ``ConfigError`` unless data can be shared out among the processes."""
        if isinstance(data, DataLoader):
            if not isinstance(data.sampler, DistributedSampler):
                raise ConfigError(
                    "fit",
                    expected="with distributed=True, a DataLoader that gives a process its share",
                    got=f"one with a {type(data.sampler).__name__}",
                    hint="Pass it sampler=torch.utils.data.DistributedSampler(data_set).",
                )
        elif as_tensors(data) is None:
            raise ConfigError(
                "fit",
                expected="with distributed=True, tensors (x, y) or a DataLoader",
                got=f"a {type(data).__name__}",
                hint="Pass DataLoader(data_set, size, sampler=DistributedSampler(data_set)).",
            )
        elif batch_size < 2 * self.size:
            raise ConfigError(
                "fit",
                expected=f"a batch_size of at least 2 x {self.size}, for {self.size} processes",
                got=f"batch_size={batch_size}",
                hint="batch_size counts the examples of a step in all processes together.",
            )

    def batches(
        self, data: Data, batch_size: int, epoch: int, *, join_single: bool
    ) -> Iterator[tuple[Batch, float]]:
        """Yield this process's share of an epoch's batches, and the weight of its likelihood.

        A last batch of fewer than two examples for each process is every process's as a whole.
        """
        seed = torch.randint(2**62, (1,)).to(self.device)
        distributed.broadcast(seed, 0)
        order = torch.Generator().manual_seed(int(seed))
        torch.manual_seed(int(seed) + 1 + self.rank)
        if isinstance(data, DataLoader) and isinstance(data.sampler, DistributedSampler):
            data.sampler.set_epoch(epoch)
            for batch in batches(data, device=self.device, join_single=join_single):
                yield batch, 1.0
            return
        for x, y in batches(
            data, batch_size, shuffle=True, generator=order, join_single=join_single
        ):
            whole, weight = len(x), 1.0
            if whole >= 2 * self.size:
                x, y = x[self.rank :: self.size], None if y is None else y[self.rank :: self.size]
                weight = len(x) * self.size / whole
            yield (x.to(self.device), None if y is None else y.to(self.device)), weight

    def average_gradients(self, bnn: Program) -> None:
        """Replace each gradient by its mean over the processes."""
        kinds: dict[torch.dtype, list[Tensor]] = {}
        for parameter in bnn.parameters():
            if parameter.grad is not None:
                kinds.setdefault(parameter.grad.dtype, []).append(parameter.grad)
        for gradients in kinds.values():
            whole = torch.cat([gradient.reshape(-1) for gradient in gradients])
            distributed.all_reduce(whole)
            whole /= self.size
            parts = whole.split([gradient.numel() for gradient in gradients])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.view_as(gradient))

    def end_epoch(self, bnn: Program, *sums: float) -> list[float]:
        """Return sums over the processes, and give all the buffers and generator of process 0."""
        whole = torch.tensor(sums, dtype=torch.float64, device=self.device)
        distributed.all_reduce(whole)
        self._tell(bnn, [*bnn.buffers()])
        state = torch.get_rng_state().to(self.device)
        distributed.broadcast(state, 0)
        torch.set_rng_state(state.cpu())
        return whole.tolist()

    def _tell(self, bnn: Program, tensors: list[Tensor]) -> None:
        with torch.no_grad():
            for tensor in tensors:
                part = tensor.contiguous()
                distributed.broadcast(part, 0)
                if part is not tensor:
                    tensor.copy_(part)


def _join(device: torch.device) -> None:
    if not distributed.is_available():
        raise ConfigError(
            "fit",
            expected="a build of torch with torch.distributed for distributed=True",
            got=f"torch {torch.__version__} without it",
            hint="Train in one process.",
        )
    if distributed.is_initialized():
        return
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        raise ConfigError(
            "fit",
            expected="several processes for distributed=True",
            got="one that nothing has started as one of several",
            hint="Start the script with torchrun --nproc-per-node 2 script.py.",
        )
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    atexit.register(_leave)


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()
