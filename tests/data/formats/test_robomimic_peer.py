"""robomimic itself reads what is written here: its SequenceDataset, in its own interpreter."""

from __future__ import annotations

import json
import os
import subprocess

import numpy as np
import pytest

from hardware.types import ArraySpec, RobotSpec
from robolearn.data.episode import Episode
from robolearn.data.formats import write
from robolearn.data.formats._robomimic_write import scaled

PEER = os.environ.get("ROBOLEARN_PEER_ROBOMIMIC")
pytestmark = [
    pytest.mark.peer,
    pytest.mark.slow,
    pytest.mark.skipif(not PEER, reason="ROBOLEARN_PEER_ROBOMIMIC is not set: the Python of an environment with robomimic 0.3 or later"),
]

# Runs over there: every sequence of two rows, padded at the end, and what file_utils says of the file. torchvision's compiled part need
# not fit that torch; sampling never touches it, so an empty stand-in will do.
SCRIPT = """
import json, sys, types
try:
    import torchvision
except Exception:
    class Any(types.ModuleType):
        def __getattr__(self, name):
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (), {})
    for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional", "torchvision.models"):
        sys.modules[name] = Any(name)
    sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]
    sys.modules["torchvision"].models = sys.modules["torchvision.models"]
import inspect
import numpy as np
import robomimic.utils.obs_utils as ObsUtils
from robomimic.utils.dataset import SequenceDataset

path, out, low_dim, rgb = sys.argv[1], sys.argv[2], sys.argv[3].split(","), sys.argv[4].split(",")
ObsUtils.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": low_dim, "rgb": rgb}})
options = dict(hdf5_path=path, obs_keys=low_dim + rgb, dataset_keys=("actions", "rewards", "dones"), seq_length=2, hdf5_cache_mode=None)
if "action_keys" in inspect.signature(SequenceDataset.__init__).parameters:
    options.update(action_keys=("actions",), action_config={"actions": {"normalization": None}})
found = {}
for name, more in {"all": {}, "valid": {"filter_by_attribute": "valid"}}.items():
    dataset = SequenceDataset(**options, **more)
    items = [dataset[i] for i in range(len(dataset))]
    for key in ("actions", "rewards", "dones"):
        found[f"{name}/{key}"] = np.stack([item[key] for item in items])
    for part in ("obs", "next_obs"):
        for key in low_dim + rgb:
            found[f"{name}/{part}/{key}"] = np.stack([item[part][key] for item in items])
    found[f"{name}/demos"] = np.array(dataset.demos)
try:
    import robomimic.utils.file_utils as FileUtils
    shapes = FileUtils.get_shape_metadata_from_dataset(path)
    found["env"] = np.array(json.dumps(FileUtils.get_env_metadata_from_dataset(path)))
    found["shapes"] = np.array(json.dumps([shapes["ac_dim"], shapes["all_shapes"]]))
except ImportError as error:  # it asks for much more than sampling does
    found["missing"] = np.array(str(error))
np.savez(out, **found)
"""
SPEC = RobotSpec(
    "arm",
    {"front": (84, 84)},
    {"joint_pos": ArraySpec(("a", "b"), ("rad", "rad"), (-3.0, -3.0), (3.0, 3.0))},
    ArraySpec(("x", "y"), ("m", "1"), (-0.02, -1.0), (0.02, 1.0)),
    "ee_delta",
    10.0,
)


class Recorded:
    spec = SPEC

    def __len__(self) -> int:
        return 12  # demo_10 sorts before demo_2 as text

    def __getitem__(self, index: int) -> Episode:
        rows = 3 + index % 4
        rng = np.random.default_rng(index)
        action = (rng.uniform(-1, 1, (rows, 2)) * (0.02, 1)).astype(np.float32)
        return Episode(
            time=np.arange(rows) / 10,
            images={"front": rng.integers(0, 256, (rows, 84, 84, 3), np.uint8)},
            state={"joint_pos": rng.normal(size=(rows, 2)).astype(np.float32)},
            action=action,
            requested_action=action,
            reward=rng.random(rows, np.float32),
            terminal=np.eye(rows, dtype=bool)[-1],
            source=np.full(rows, 2, np.uint8),
            meta={"task": "reach", "splits": ["train" if index % 3 else "valid"]},
        )


def sequences(values: np.ndarray) -> np.ndarray:
    """(T, ...) -> (T, 2, ...): each row and the next, the last row twice."""
    return np.stack([values, np.concatenate([values[1:], values[-1:]])], 1)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    assert PEER
    folder = tmp_path_factory.mktemp("robomimic")
    write(folder / "out.hdf5", Recorded(), "robomimic_hdf5")
    command = [PEER, "-c", SCRIPT, str(folder / "out.hdf5"), str(folder / "found.npz"), "joint_pos", "front_image"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(folder / "found.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.mark.parametrize(("split", "chosen"), [("all", range(12)), ("valid", range(0, 12, 3))])
def test_its_sequence_dataset_finds_every_number(found, split, chosen):
    episodes = [Recorded()[index] for index in chosen]
    assert found[f"{split}/demos"].tolist() == [f"demo_{index}" for index in chosen]
    low, high = np.array(SPEC.action.low), np.array(SPEC.action.high)
    expected = {
        "actions": [scaled(e.action, low, high) for e in episodes],
        "rewards": [e.reward for e in episodes],
        "dones": [e.terminal for e in episodes],
        "obs/joint_pos": [e.state["joint_pos"] for e in episodes],
        "obs/front_image": [e.images["front"] for e in episodes],
        "next_obs/joint_pos": [np.concatenate([e.state["joint_pos"][1:], e.state["joint_pos"][-1:]]) for e in episodes],
        "next_obs/front_image": [np.concatenate([e.images["front"][1:], e.images["front"][-1:]]) for e in episodes],
    }
    for name, values in expected.items():
        np.testing.assert_array_equal(found[f"{split}/{name}"], np.concatenate([sequences(v) for v in values]), err_msg=name)
    assert np.abs(found[f"{split}/actions"]).max() <= 1


def test_it_knows_the_environment(found):
    if "missing" in found:
        pytest.skip(f"robomimic's file_utils cannot be imported there: {found['missing']}")
    assert json.loads(str(found["env"])) == {"env_name": "arm", "type": 2, "env_kwargs": {}}
    assert json.loads(str(found["shapes"])) == [2, {"front_image": [3, 84, 84], "joint_pos": [2]}]
