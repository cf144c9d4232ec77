"""Actions inside a policy: every space is left as it was entered, and every chunk policy works in it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from hardware.types import ArraySpec, RobotSpec
from robolearn.core.errors import UserError
from robolearn.core.types import Past
from robolearn.data.editing import rotations
from robolearn.learners.imitation import Imitation, ImitationConfig
from robolearn.models.rotations import to_matrix
from robolearn.policies._action_space import ActionSpace
from robolearn.policies.act import ActConfig
from robolearn.policies.bc import BcConfig
from robolearn.policies.bc_gmm import BcGmmConfig
from robolearn.policies.bc_rnn import BcRnnConfig
from robolearn.policies.bc_transformer import BcTransformerConfig
from robolearn.policies.decision_transformer import DecisionTransformerConfig
from robolearn.policies.diffusion import DiffusionConfig
from robolearn.policies.flow import FlowConfig
from robolearn.policies.regression import RegressionConfig
from robolearn.policies.vinn import VinnConfig
from robolearn.testing import SPEC, PolicyContract


def vector(names: str, units: str, bound: float = 9.0) -> ArraySpec:
    listed = tuple(names.split())
    given = tuple(units.split())
    return ArraySpec(listed, given if len(given) > 1 else given * len(listed), (-bound,) * len(listed), (bound,) * len(listed))


def robot(state: dict[str, ArraySpec], action: ArraySpec, mode: str = "ee_pose") -> RobotSpec:
    return replace(SPEC, cameras={}, state=state, action=action, action_mode=mode)


JOINTS = robot(
    {"q": vector("a b gripper", "rad rad 1"), "object": vector("x y", "m")}, vector("b gripper a extra", "rad 1 rad m"), "joint_pos"
)
POSE = robot(
    {"pos": vector("x y z", "m"), "quat": vector("qw qx qy qz", "1"), "gripper": vector("gripper", "1")},
    vector("x y z rx ry rz gripper", "m m m rad rad rad 1"),
)
EULER = robot({"ee": vector("x roll pitch yaw", "m deg deg deg", 360)}, vector("roll pitch yaw x", "deg deg deg m", 360))
ARMS = robot(
    {"both": vector("left_rx left_ry left_rz right_rx right_ry right_rz", "rad")},
    vector("left_rx left_ry left_rz left_grip right_rx right_ry right_rz right_grip", "rad rad rad 1 rad rad rad 1"),
)
ROBOTS = {"joints": JOINTS, "pose": POSE, "euler": EULER, "arms": ARMS}


def some(spec: ArraySpec, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Numbers of that vector: rotations anywhere, all others within +-2."""
    values = rng.uniform(-2, 2, (*shape, spec.dim))
    for i, name in enumerate(spec.names):
        rotation = Rotation.random(int(np.prod(shape)), random_state=int(rng.integers(1 << 31)))
        if name.endswith(("rx", "qw", "roll")):
            form = {"rx": "axis_angle", "qw": "quat_wxyz", "ll": "euler_xyz_extrinsic_deg"}[name[-2:]]
            encoded = rotations.form(form).encode(rotation)
            values[..., i : i + encoded.shape[1]] = encoded.reshape(*shape, -1)
    return values.astype(np.float32)


def drawn(spec: RobotSpec, rows: int, horizon: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    state = np.concatenate([some(part, (rows,), rng) for part in spec.state.values()], axis=-1)
    return torch.from_numpy(some(spec.action, (rows, horizon), rng)), torch.from_numpy(state)


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([*ROBOTS]), st.sampled_from(["absolute", "delta"]), st.sampled_from(["as stored", "6d"]))
def test_what_goes_in_comes_out(seed, name, actions, form):
    spec = ROBOTS[name]
    if form == "6d" and name == "joints":
        return
    space = ActionSpace(spec, actions, form)
    action, state = drawn(spec, 3, 4, seed)
    inside = space.encode(action, state)
    assert inside.shape == (3, 4, space.dim)
    out = space.decode(inside, state)
    assert torch.allclose(space.encode(out, state), inside, atol=2e-5)
    same_rotation = ActionSpace(spec, "absolute", form if form == "6d" or name == "joints" else "6d")
    tolerance = 1e-5 if name != "euler" else 1e-4  # numbers and matrices, degrees among them
    assert torch.allclose(same_rotation.encode(out), same_rotation.encode(action), atol=tolerance)


WRIST = robot({"q": vector("wrist_roll wrist_pitch wrist_yaw", "rad")}, vector("wrist_roll wrist_pitch wrist_yaw", "rad"), "joint_pos")


def test_three_joints_of_a_wrist_are_no_rotation():
    """As one they would come back as another trio of angles, where the second lies beyond a right angle."""
    action = torch.tensor([[[0.2, 1.9, -0.3]]])
    space = ActionSpace(WRIST, "delta")
    assert torch.allclose(space.decode(space.encode(action, action[:, 0] * 0.9), action[:, 0] * 0.9), action)
    with pytest.raises(UserError, match="the action has no rotation"):
        ActionSpace(WRIST, rotations="6d")


@pytest.mark.parametrize("name", ["pose", "euler", "arms"])
def test_the_mean_of_rotations_is_a_rotation_between_them(name):
    """Numbers of angles jump: of 3.13 and -3.13 about one axis the mean is pi, not nothing."""
    space, (action, _) = ActionSpace(ROBOTS[name]), drawn(ROBOTS[name], 1, 1, seed=3)
    one = action[0, 0].double()
    assert torch.allclose(
        _turned(space, space.mean(one.repeat(3, 1), torch.tensor([1.0, 2.0, 0.5]).double())), _turned(space, one), atol=1e-6
    )
    pose = ActionSpace(POSE)
    two = torch.tensor([[0.0, 0, 0, 3.13, 0, 0, 1], [0.2, 0, 0, -3.13, 0, 0, 0]], dtype=torch.float64)
    mean = pose.mean(two, torch.tensor([1.0, 1.0]).double())
    assert mean[3:6].norm() == pytest.approx(np.pi) and mean[[0, 6]].tolist() == pytest.approx([0.1, 0.5])


def _turned(space: ActionSpace, action: torch.Tensor) -> torch.Tensor:
    """The action with matrices for rotations."""
    parts = [(held.part, action[list(held.part.columns)]) for held in space._held]
    return torch.cat([to_matrix(value, part.form).flatten() if part.form else value for part, value in parts])


def test_answers_in_two_vectors_are_made_orthonormal_even_where_the_data_has_them():
    spec = robot({"q": vector("a", "rad")}, vector("r11 r21 r31 r12 r22 r32", "1"))
    out = ActionSpace(spec).decode(torch.tensor([[[2.0, 0, 0, 1, 3, 0]]]))
    assert torch.allclose(out, torch.tensor([[[1.0, 0, 0, 0, 1, 0]]]))


def test_by_default_it_does_nothing():
    action, state = drawn(POSE, 2, 3, 0)
    space = ActionSpace(POSE)
    assert space.encode(action, state) is action and space.decode(action) is action and space.dim == 7 and not space.relative
    rows = np.arange(14.0).reshape(2, 7)
    assert np.array_equal(space.rows(rows, np.zeros((2, 8))), rows)


def test_a_chunk_is_told_from_the_newest_state_on_by_name_and_unit():
    space = ActionSpace(JOINTS, "delta")
    state = torch.tensor([[10.0, 20.0, 0.5, 7.0, 7.0]])
    action = torch.tensor([[[21.0, 0.9, 12.0, 3.0], [22.0, 0.1, 14.0, 4.0]]])
    expected = torch.tensor([[[1.0, 0.9, 2.0, 3.0], [2.0, 0.1, 4.0, 4.0]]])  # the gripper, and what has no state, stay
    assert torch.equal(space.encode(action, state), expected)
    assert torch.equal(space.decode(expected, state), action)


def test_rotations_differ_as_the_importers_say():
    space = ActionSpace(POSE, "delta")
    action, state = drawn(POSE, 50, 1, 3)
    form = rotations.form("axis_angle")
    start = rotations.convert(state[:, 3:7].double().numpy(), rotations.form("quat_wxyz"), form)
    expected = rotations.difference(action[:, 0, 3:6].double().numpy(), start, form, "world")
    inside = space.encode(action, state)[:, 0].double().numpy()
    apart = form.decode(inside[:, 3:6]) * form.decode(expected).inv()
    assert apart.magnitude().max() < 1e-5
    assert np.allclose(inside[:, :3], (action[:, 0, :3] - state[:, :3]).numpy(), atol=1e-6)


def test_6d_is_the_first_two_columns_of_the_matrix():
    space = ActionSpace(POSE, rotations="6d")
    action, _ = drawn(POSE, 20, 1, 4)
    inside = space.encode(action)[:, 0].numpy()
    assert space.dim == 10
    assert np.allclose(inside[:, 3:9], rotations.form("rot6d").encode(Rotation.from_rotvec(action[:, 0, 3:6].numpy())), atol=1e-6)
    assert np.array_equal(inside[:, [0, 1, 2, 9]], action[:, 0, [0, 1, 2, 6]].numpy())


def test_angles_that_wrap_are_near_inside():
    """From 179 to -179 degrees is a turn of two."""
    action = torch.tensor([[[0.0, 0.0, 179.0, 0.0], [0.0, 0.0, -179.0, 0.0]]])
    inside = ActionSpace(EULER, rotations="6d").encode(action)[0]
    assert (inside[0] - inside[1]).abs().max() < 0.04
    state = torch.tensor([[0.0, 0.0, 0.0, 179.0]])
    delta = ActionSpace(EULER, "delta").encode(action, state)[0]
    assert torch.allclose(delta, torch.tensor([[0.0] * 4, [0.0, 0.0, 2.0, 0.0]]), atol=1e-4)
    assert torch.allclose(ActionSpace(EULER, "delta").decode(delta[None], state), action, atol=1e-4)


def test_autocast_does_not_blur_them():
    space = ActionSpace(POSE, "delta", "6d")
    action, state = drawn(POSE, 20, 4, 5)
    with torch.autocast("cpu", torch.bfloat16):
        blurred = space.decode(space.encode(action, state), state)
    assert torch.allclose(blurred, space.decode(space.encode(action, state), state), atol=1e-5)


def test_the_units_of_deltas_come_from_whole_chunks():
    """The further ahead, the further away: rows alone would not know."""
    spec = robot({"q": vector("a", "rad")}, vector("a", "rad"), "joint_pos")
    policy = BcConfig(history=1, horizon=4, actions="delta").build(spec)
    state = np.arange(10, dtype=np.float32)[:, None]
    chunks = state[:, None] + np.arange(4, dtype=np.float32)[None, :, None]
    policy.fit_normalizers(state, chunks)
    assert (policy.action_norm.offset.item(), policy.action_norm.scale.item()) == (1.5, 1.5)
    assert policy.state_norm.scale.item() == 4.5
    with pytest.raises(ValueError, match="need chunks"):
        policy.fit_normalizers(state, state)


REFUSED = [
    (SPEC, {"actions": "delta"}, "actions of mode ee_delta are differences already; valid: absolute"),
    (SPEC, {"rotations": "6d"}, r"the action has no rotation \(dx \[m\], dy \[m\], grip \[1\]\); known by name and unit: qw qx qy qz, .*"),
    (JOINTS, {"actions": "delta", "relative_to": ("arm",)}, "policy.relative_to: 'arm' is not a state the policy sees; valid: q, object"),
    (JOINTS, {"relative_to": ("q",)}, "policy.relative_to: q without policy.actions: delta; .*"),
    (
        robot({"ee": vector("x", "m"), "cube": vector("x", "m")}, vector("x", "m")),
        {"actions": "delta"},
        r"x \[m\] is in several states; pick by policy.relative_to: ee, cube",
    ),
    (
        robot({"agent": vector("agent_x agent_y", "px"), "block": vector("x y angle", "px px rad")}, vector("to_x to_y", "px")),
        {"actions": "delta"},
        r"no state fits the action \(to_x \[px\], to_y \[px\]\) by name and unit; "
        "fitting by unit, in this order, so to be named in policy.relative_to: agent",
    ),
    (
        robot({"q": vector("a", "deg")}, vector("a", "rad"), "joint_pos"),
        {"actions": "delta"},
        r"no state fits the action \(a \[rad\]\).* in policy.relative_to: \(none\)",
    ),
    (robot({"q": vector("a", "rad")}, vector("rx ry rz", "1")), {"rotations": "6d"}, r"no rotation \(rx \[1\], ry \[1\], rz \[1\]\)"),
]


@pytest.mark.parametrize(("spec", "config", "message"), REFUSED)
def test_what_cannot_be_held_is_refused_in_one_line(spec, config, message):
    with pytest.raises(UserError, match=message) as error:
        BcConfig(**config).build(spec)
    assert "\n" not in str(error.value)


def test_a_state_can_be_named_where_names_differ():
    spec = robot({"agent": vector("agent_x agent_y", "px"), "cube": vector("x y", "px")}, vector("to_x to_y", "px"))
    space = ActionSpace(spec, "delta", relative_to=("agent",))
    assert space.encode(torch.tensor([[[5.0, 6.0]]]), torch.tensor([[1.0, 3.0, 90.0, 90.0]])).tolist() == [[[4.0, 3.0]]]
    picked = robot({"ee": vector("x", "m"), "cube": vector("x", "m")}, vector("x", "m"))
    assert ActionSpace(picked, "delta", relative_to=("cube",)).encode(torch.ones(1, 1, 1), torch.tensor([[5.0, 3.0]])).item() == -2


class Reaching(PolicyContract):
    """Absolute pose targets a little beyond the pose, in forms that differ: a delta is easy, an absolute target is not."""

    spec = POSE

    def batch(self, rows, seed=0):
        history, horizon = self.config.history, self.config.horizon
        rng = np.random.default_rng(seed)
        steps = history + horizon - 1
        position = rng.uniform(-1, 1, (rows, steps, 3))
        pose = Rotation.random(rows * steps, random_state=seed)
        turned = Rotation.from_rotvec(0.1 * position.reshape(-1, 3)) * pose
        state = np.concatenate([position, _flat(rotations.form("quat_wxyz").encode(pose), steps), np.zeros((rows, steps, 1))], -1)
        action = np.concatenate([1.1 * position, _flat(turned.as_rotvec(), steps), (position[..., :1] > 0)], -1)
        held = np.repeat(action[:, history - 1 : history], horizon, axis=1)
        obs = super().batch(rows, seed).obs
        done = action[:, :history].astype(np.float32)
        done[:, -1] = 0
        real = torch.ones(rows, history, dtype=torch.bool)
        past = Past(torch.from_numpy(done), torch.zeros(rows, history), torch.zeros(rows, history, dtype=torch.long), real)
        obs = replace(obs, state=torch.from_numpy(state[:, :history].astype(np.float32)), past=past)
        return replace(super().batch(rows, seed), obs=obs, action=torch.from_numpy(held.astype(np.float32)))


def _flat(values: np.ndarray, steps: int) -> np.ndarray:
    return values.reshape(-1, steps, values.shape[-1])


SPACE = {"actions": "delta", "rotations": "6d", "history": 2}


class TestRegressionInDeltasAnd6d(Reaching):
    config = BcConfig(**SPACE, hidden=(64, 64), dropout=0.0, horizon=4)


class TestDiffusionInDeltasAnd6d(Reaching):
    config = DiffusionConfig(**SPACE, widths=(16, 32), horizon=8, sample_steps=8)


@pytest.mark.parametrize(
    "config",
    [
        BcGmmConfig(**SPACE, hidden=(64, 64), horizon=4, modes=2),
        RegressionConfig(**SPACE, widths=(16, 32), horizon=8),
        BcRnnConfig(**SPACE, hidden=32, horizon=2, modes=0),
        BcTransformerConfig(**SPACE, width=32, layers=1, heads=2, dropout=0.0, modes=2),
        ActConfig(**SPACE, horizon=4, width=32, feedforward=64, encoder_layers=1, dropout=0.0, kl_weight=1.0),
        FlowConfig(**SPACE, horizon=4, widths=(32, 32), sample_steps=8),
        DecisionTransformerConfig(**SPACE, horizon=1, width=32, layers=1, dropout=0.0),
        VinnConfig(**SPACE, horizon=4, neighbours=1),
    ],
    ids=lambda config: type(config).__name__,
)
def test_every_policy_learns_in_deltas_and_6d(config):
    contract = Reaching()
    contract.config = config
    policy, batch = contract.build(), contract.batch(8)
    if policy.learns_by == "memory":
        policy.memorize(batch)
    else:
        learner = Imitation(policy, ImitationConfig(lr=5e-3, warmup=5, schedule="constant", precision="float32"))
        for _ in range(150):
            learner.update(batch)
    action = policy.act(batch.obs)
    assert action.shape == batch.action.shape
    turned = (
        Rotation.from_rotvec(action[..., 3:6].flatten(0, 1).numpy())
        * Rotation.from_rotvec(batch.action[..., 3:6].flatten(0, 1).numpy()).inv()
    )
    assert (action - batch.action)[..., :3].abs().mean() < 0.03 and turned.magnitude().mean() < 0.06
