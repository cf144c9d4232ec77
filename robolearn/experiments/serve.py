"""Let another computer ask a policy, or a robot: the policy runs where a GPU is, the arm and its safety path stay by its motors."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console

import hardware
from hardware import RobotConfig
from hardware.network import keys
from hardware.network.keys import ServerKeys
from hardware.network.served_robot import ServedRobot
from hardware.network.server import Server, Service
from robolearn.core.errors import UserError, require_at_least


@dataclass(frozen=True)
class Config:
    """Serve a policy (--checkpoint) or a robot (--robot) until Ctrl-C, to one client at a time whose key is known (docs/serve.md)."""

    keys: Path | None = None
    """Folder of the keys; made where there is none. Its client.key belongs on the other computer."""
    checkpoint: Path | None = None
    """A policy (robolearn train) or an agent (robolearn finetune), for `robolearn deploy --checkpoint tcp://HOST:PORT` elsewhere."""
    robot: RobotConfig | None = None
    """A robot, for `--robot.body remote` elsewhere; a file of configs/robots, or options."""
    listen: str = "tcp://0.0.0.0:5555"
    """Where to listen; tcp://192.168.1.5:5555: on this network only, port *: a free one."""
    device: str = "cpu"
    """Where the policy runs: cpu, cuda, cuda:0, mps."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the policy's answers; auto: bfloat16 where the processor is quicker at it."""
    threads: int = 1
    """torch CPU threads."""
    seconds: float = 0.0
    """End by itself after so long [s]; 0: never."""


def run(config: Config) -> None:
    """Raises UserError: nothing to serve, or no keys; HardwareError: keys or address that cannot be, a robot that is not there."""
    console = Console(stderr=True, soft_wrap=True)
    if (config.checkpoint is None) == (config.robot is None):
        raise UserError("serve: expected either --checkpoint policy.pt or --robot configs/robots/ur5e.yaml")
    if config.keys is None:
        raise UserError("keys: missing; expected a folder, which is made where there is none: nobody is served without a key")
    if not config.listen.startswith("tcp://"):
        raise UserError(f"listen: {config.listen}; expected tcp://ADDRESS:PORT, as tcp://0.0.0.0:5555")
    require_at_least("seconds", config.seconds, 0.0, "s")
    if keys.make(config.keys):
        console.print(f"{config.keys}: keys made; copy {config.keys / keys.CLIENT} to the other computer (scp -p), the rest stays here")
    known = ServerKeys.load(config.keys)
    until = time.monotonic() + config.seconds if config.seconds else float("inf")
    with _service(config) as service, Server(service, config.listen, known, lambda line: console.print(line, markup=False)) as server:
        print(server.address, flush=True)
        console.print(f"a {service.kind} at {server.address}; Ctrl-C ends it")
        with suppress(KeyboardInterrupt):  # which is how it ends
            server.run(until)


@contextmanager
def _service(config: Config) -> Iterator[Service]:
    if config.checkpoint is not None:
        import torch  # a robot's computer need not have it

        from robolearn.core.checkpoint import digest_of, load_policy
        from robolearn.runtime.served_policy import ServedPolicy

        torch.set_num_threads(config.threads)
        yield ServedPolicy(load_policy(config.checkpoint, device=config.device), digest_of(config.checkpoint), config.precision)
    elif config.robot is not None:
        if config.robot.body == "remote":
            raise UserError("robot.body: remote; a robot is served by its own computer only")
        with hardware.open(config.robot) as robot:
            yield ServedRobot(robot)
