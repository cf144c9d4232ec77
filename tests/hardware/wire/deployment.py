"""A program that flies an arm as `robolearn deploy` does, until it is killed: NAME ADDRESS CAMERA STORE. It says how far it is."""

from __future__ import annotations

import sys


def main(name: str, address: str, camera: str, path: str) -> None:
    # Here, since the loop's process reads this file, too, and needs none of it.
    import numpy as np

    import hardware
    from hardware import arms
    from robolearn.data.store import EpisodeStore
    from robolearn.runtime.async_pilot import AsyncPilot
    from robolearn.runtime.rollout import rollout
    from robolearn.tasks import Task
    from tests.hardware.wire.pilots import MOVING
    from tests.hardware.wire.policies import Sway
    from tests.hardware.wire.rig import away_of, config_of

    config, model = config_of(name, address, camera), arms.find(name)[1]
    ends = np.array([np.append(q, 0.5) for q in (away_of(model), model.spec.home)], np.float32)
    with hardware.open(config) as robot, EpisodeStore.create(path, robot.spec) as store:
        pilot, rng = AsyncPilot(Sway(robot.spec, ends), execute=4), np.random.default_rng(0)
        for said, seconds in (("flown", 0.6), ("ended", 1e6)):
            with store.record() as recording:
                moving = lambda step: step.index == 2 * MOVING and print("moving", flush=True)  # noqa: E731
                recording.finish(rollout(robot, pilot, Task(name, "", seconds), rng, moving, recording).meta)
            print(said, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
