"""Several processes that train one policy together, one for each GPU, as torchrun starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

PATIENCE = timedelta(days=1)  # how long the others wait while one encodes a dataset or flies a robot


@dataclass(frozen=True)
class Ranks:
    """Which of `count` processes this one is; alone by default. Every method is called by all of them, at the same place.

    Weights and gradients go through the devices' own backend. What is agreed here goes through gloo, between the CPUs, so that no
    GPU's queue runs dry for it.
    """

    rank: int = 0
    count: int = 1
    device: torch.device = torch.device("cpu")
    control: Any = None  # the process group of gloo

    @staticmethod
    def join(device: torch.device) -> Ranks:
        """What torchrun's environment says; each process takes the GPU of its local rank."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            return Ranks(device=device)
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
        if not dist.is_initialized():
            dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
        return Ranks(dist.get_rank(), count, device, dist.new_group(backend="gloo", timeout=PATIENCE))

    @property
    def leads(self) -> bool:
        """Is this the one that writes, logs and flies?"""
        return self.rank == 0

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """The leader does what follows first; the others then find it done."""
        if not self.leads:
            self.wait()
        yield
        if self.leads:
            self.wait()

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            dist.barrier(self.control)

    def gather(self, value: Any) -> list[Any]:
        """Everyone's value, by rank."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value, self.control)
        return values

    def agree(self, seconds: float, stop: bool) -> tuple[float, bool]:
        """The leader's clock, and whether anyone wants to stop: progress, and with it the learning rate, must be the same for all."""
        if self.count == 1:
            return seconds, stop
        said = torch.tensor([seconds if self.leads else 0.0, float(stop)], dtype=torch.float64)
        dist.all_reduce(said, group=self.control)
        return float(said[0]), bool(said[1])

    def total(self, value: torch.Tensor) -> torch.Tensor:
        """The sum over all, where the tensor lies."""
        if self.count > 1:
            dist.all_reduce(value)
        return value

    def leave(self) -> None:
        """When all are done."""
        if self.count > 1:
            self.wait()
            dist.destroy_process_group()
