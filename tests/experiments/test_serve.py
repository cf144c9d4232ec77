"""The verb, in processes of its own: a policy and a robot apart, and what cannot be served."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import hardware
from hardware import RealConfig, RobotConfig
from hardware.doubles import launch
from hardware.network import keys
from hardware.network.served_robot import ServedRobot
from hardware.types import HardwareError, Source
from robolearn.cli import main
from robolearn.core.checkpoint import digest_of
from robolearn.core.errors import UserError
from robolearn.core.run import read_json
from robolearn.data.store import EpisodeStore
from robolearn.experiments import deploy, evaluate, serve
from tests.experiments.test_deploy import checkpoint, near
from tests.hardware.network.serving import served

pytest.importorskip("zmq")
FAKE = RobotConfig("fake:state")


@contextmanager
def server(folder: Path, *words: str) -> Iterator[tuple[str, Path, Path]]:
    """(address, the client's key file, what it said) of `robolearn serve` in another process; it ends by Ctrl-C."""
    command = [sys.executable, "-m", "robolearn.cli", "serve", *words, "--keys", str(folder / "keys"), "--listen", "tcp://127.0.0.1:*"]
    said = folder / "said"
    with said.open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=os.environ)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.startswith("tcp://"), said.read_text()
        yield address, folder / "keys" / keys.CLIENT, said
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0, said.read_text()
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.slow
def test_deployed_from_elsewhere_it_flies_the_same_episodes_to_the_bit(tmp_path: Path) -> None:
    policy = checkpoint(tmp_path / "policy.pt", FAKE, near(np.array([-0.6, 1.2])))
    deploy.run(deploy.Config(policy, tmp_path / "near", FAKE, episodes=2, seconds=1.0, view_port=None))
    with server(tmp_path, "--checkpoint", str(policy)) as (address, key_file, said):
        words = ["deploy", "--checkpoint", address, "--server-key", str(key_file), "--robot.body", "fake:state", "--episodes", "2"]
        assert main([*words, "--seconds", "1", "--view-port", "None", "--out", str(tmp_path / "far")]) == 0
        lines = said.read_text()
    assert f"copy {tmp_path}/keys/client.key to the other computer" in lines
    assert [lines.count(line) for line in ("a client has come", "the client is gone: closed", "refused")] == [1, 1, 0]
    stores = [EpisodeStore.open(tmp_path / name / "dataset.zarr") for name in ("near", "far")]
    for column in ("action", "requested_action", "state", "source"):
        here, there = (store.lowdim(column) for store in stores)
        assert here.tobytes() == there.tobytes(), column
    assert [store.meta(1)["checkpoint"] for store in stores] == 2 * [digest_of(policy)]
    assert stores[1].meta(1)["inference_ms"] > 0
    for store in stores:
        store.close()


@pytest.mark.long
def test_a_policy_here_a_real_arm_there_and_deploy_between_them(tmp_path: Path) -> None:
    """Three computers in four processes: `serve --checkpoint`, `serve --robot`, the arm's double, and this one, which flies."""
    pytest.importorskip("scservo_sdk")
    real = RobotConfig("so101", arm=RealConfig())
    with launch("so101") as double:
        home = double.model.spec.home
        policy = checkpoint(tmp_path / "policy.pt", real, near(np.append(home + 0.1, 0.5)))
        arm = ["--robot.body", "so101", "--robot.arm.address", double.address, "--robot.arm.table-m", "None"]
        (tmp_path / "gpu").mkdir()
        (tmp_path / "pc").mkdir()
        with (
            server(tmp_path / "gpu", "--checkpoint", str(policy)) as (gpu, gpu_key, _),
            server(tmp_path / "pc", *arm) as (pc, pc_key, said),
        ):
            robot = RobotConfig("remote", arm=RealConfig(address=pc, server_key=str(pc_key)))
            deploy.run(deploy.Config(Path(gpu), tmp_path / "out", robot, server_key=gpu_key, episodes=1, seconds=2.0, view_port=None))
            assert np.abs(double.panel.q - home).max() > 0.02
            assert double.panel.contacts == 0
            assert "the client is gone: closed" in said.read_text()
    with EpisodeStore.open(tmp_path / "out/dataset.zarr") as store:
        meta = store.meta(0)
        assert (store.spec.name, meta["stopped"], meta["checkpoint"]) == ("so101", None, digest_of(policy))
        assert store.length(0) >= 15
        assert np.mean(store.lowdim("source") == Source.POLICY) > 0.5  # a machine that is busy may answer too late for some rows
        assert 0.01 < np.abs(store.lowdim("action")[:, :-1] - home).max() < 0.6
    assert read_json(tmp_path / "out/done.json")["episodes"] == 1


def test_another_verb_takes_a_remote_robot_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = checkpoint(tmp_path / "policy.pt", FAKE, near(np.array([-0.6, 1.2])))
    monkeypatch.setattr("robolearn.tasks.task.REAL_S", 2.0)
    with hardware.open(FAKE) as there, served(ServedRobot(there), tmp_path / "keys") as (address, key_file, lines):
        robot = RobotConfig("remote", arm=RealConfig(address=address, server_key=str(key_file)))
        found = evaluate.run(evaluate.Config(checkpoint=policy, out=tmp_path / "out", robot=robot, trials=2, chunk=2, videos=0, threads=1))
        assert (found.trials, found.successes) == (2, 0)  # it has no world to judge by
        assert lines == ["a client has come", "the client is gone: closed"]
        assert there.governor.interventions["stopped"] == 0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (serve.Config(), "either --checkpoint policy.pt or --robot"),
        (serve.Config(Path("k"), Path("p.pt"), FAKE), "either --checkpoint policy.pt or --robot"),
        (serve.Config(robot=FAKE), "keys: missing; expected a folder, .* nobody is served without a key"),
        (serve.Config(Path("k"), robot=FAKE, seconds=-1.0), "seconds: -1.0 s; expected at least 0.0"),
        (serve.Config(Path("k"), robot=RobotConfig("remote")), "robot.body: remote; a robot is served by its own computer"),
        (serve.Config(Path("k"), Path("absent.pt")), "absent.pt: no such file"),
        (serve.Config(Path("k"), robot=FAKE, listen="udp://x"), "listen: udp://x; expected tcp://ADDRESS:PORT"),
        (serve.Config(Path("k"), robot=FAKE, listen="tcp://192.0.2.1:5555"), "listen: tcp://192.0.2.1:5555: "),
    ],
)
def test_what_cannot_be_served(config: serve.Config, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((UserError, HardwareError), match=message):
        serve.run(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "server_key: missing; expected the client.key that the server at tcp://127.0.0.1:9 made"),
        ({"server_key": Path("client.key"), "device": "cuda"}, "precision, device: are of the server at tcp://127.0.0.1:9"),
        ({"server_key": Path("absent.key")}, "absent.key: No such file"),
        ({"checkpoint": Path("policy.pt"), "server_key": Path("client.key")}, "server_key: given, but policy.pt is a file"),
    ],
)
def test_what_cannot_be_deployed_from_a_server(change: dict, message: str, tmp_path: Path) -> None:
    config = {"checkpoint": Path("tcp://127.0.0.1:9"), "out": tmp_path / "out", "robot": FAKE} | change
    with pytest.raises((UserError, HardwareError), match=message):
        deploy.run(deploy.Config(**config))
    assert not (tmp_path / "out").exists()


def test_another_robots_policy_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    from robolearn.core.checkpoint import load_policy
    from robolearn.runtime.served_policy import ServedPolicy

    policy = load_policy(checkpoint(tmp_path / "policy.pt", FAKE, near(np.array([-0.6, 1.2]))))
    with served(ServedPolicy(policy, "d"), tmp_path / "keys") as (address, key_file, _):
        config = deploy.Config(Path(address), tmp_path / "out", RobotConfig("pusht:state"), server_key=key_file)
        with pytest.raises(UserError, match=f"{address}: made for another robot"):
            deploy.run(config)
    assert not (tmp_path / "out").exists()
