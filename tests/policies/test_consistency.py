"""The one-step student: the contract, what it learns from its teacher, and that it needs the teacher for nothing else."""

import copy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from robolearn.core.checkpoint import load_policy, save_checkpoint
from robolearn.core.errors import UserError
from robolearn.learners.imitation import Imitation, ImitationConfig
from robolearn.models.encoders.cnn import SmallCnnConfig
from robolearn.policies.bc import BcConfig
from robolearn.policies.consistency import ConsistencyConfig
from robolearn.policies.diffclone import DiffCloneConfig
from robolearn.policies.diffusion import DiffusionConfig
from robolearn.policies.flow import FlowConfig
from robolearn.policies.regression import RegressionConfig
from robolearn.testing import SPEC, PolicyContract
from tests.policies.test_denoising import two_ways

UNET = {"widths": (16, 32), "horizon": 8}
DIT = {"net": "dit", "width": 16, "layers": 1, "heads": 2, "dropout": 0.0, "horizon": 8, "prefix": 2}
CNN = SmallCnnConfig(channels=(8,), strides=(2,), keypoints=4)


class StudentContract(PolicyContract):
    """The contract of a policy that needs `prepare`; its teacher learned a little."""

    teacher: DiffusionConfig | FlowConfig
    student: dict
    overfit_lr = 2e-3
    overfit_steps = 40

    @pytest.fixture(scope="class")
    @classmethod
    def taught(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        contract = PolicyContract()
        contract.config = cls.teacher
        learner = Imitation(contract.build(), ImitationConfig(lr=5e-3, warmup=5, schedule="constant", precision="float32"))
        batch = contract.batch(16)
        for _ in range(25):
            learner.update(batch)
        path = tmp_path_factory.mktemp("taught") / "teacher.pt"
        save_checkpoint(path, learner.trained, cls.teacher)
        return path

    @pytest.fixture(autouse=True)
    def _of_teacher(self, taught: Path):
        same = {name: value for name, value in vars(self.teacher).items() if name in ConsistencyConfig.__dataclass_fields__}
        self.config = ConsistencyConfig(**same | {"sample_steps": 1} | self.student, teacher=taught)

    def build(self, config=None):
        torch.manual_seed(0)
        policy = (config or self.config).build(self.spec)
        policy.prepare()
        policy.seed(0)
        return policy


class TestOfDiffusion(StudentContract):
    teacher = DiffusionConfig(**UNET, sample_steps=8)
    student = {"rungs": 10}

    def test_it_starts_as_the_teacher_and_keeps_its_units(self):
        student, teacher = self.build(), load_policy(self.config.teacher)
        student.fit_normalizers(self.batch(8).obs.state[:, -1].numpy() * 9, self.batch(8).action.flatten(0, 1).numpy())
        state = student.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in teacher.state_dict().items())

    def test_going_on_keeps_what_it_has_learned(self):
        """prepare() is called again on resume, whether before or after the state is loaded."""
        learned = self.build()
        with torch.no_grad():
            learned.net.head.weight.add_(1)
        for order in (("load", "prepare"), ("prepare", "load")):
            resumed = self.config.build(self.spec)
            for step in order:
                resumed.prepare() if step == "prepare" else resumed.load_state_dict(learned.state_dict())
            assert all(torch.equal(value, learned.state_dict()[name]) for name, value in resumed.state_dict().items())
            resumed.loss(self.batch(4))

    def test_acting_needs_no_teacher(self, tmp_path):
        save_checkpoint(tmp_path / "student.pt", self.build(), replace(self.config, teacher=tmp_path / "elsewhere.pt"))
        student = load_policy(tmp_path / "student.pt")
        assert student.act(self.batch(2).obs).shape == (2, 8, 3)
        with pytest.raises(RuntimeError, match=r"no teacher to learn from; call prepare\(\) first"):
            student.loss(self.batch(2))

    def test_the_teacher_is_not_part_of_the_student(self):
        student = self.build()
        assert not any("teacher" in name for name in student.state_dict())
        assert copy.deepcopy(student)._apart is student._apart
        assert [name for name, p in student.named_parameters() if p.requires_grad] == [
            f"net.{name}" for name, _ in student.net.named_parameters()
        ]

    def test_the_target_follows_in_training_only(self):
        student, batch = self.build(), self.batch(4)
        with torch.no_grad():
            student.net.head.bias.add_(1)
        gap = lambda: float((student.net.head.bias - student.target.head.bias).detach().abs().max())  # noqa: E731
        student.eval().loss(batch)
        assert gap() == pytest.approx(1)
        student.train().loss(batch)
        assert gap() == pytest.approx(0.95)

    def test_validated_it_is_its_own_target(self):
        """The averaged copy's target stands where training began: judged against it the student would look worse as it learns."""
        student, batch = self.build(), self.batch(4)
        with torch.no_grad():
            student.target.head.bias.add_(5)
        far = student.train().loss(batch)[1]["loss"]
        assert student.eval().loss(batch)[1]["loss"] < 0.5 * far

    def test_its_teacher_must_fit(self, tmp_path):
        with pytest.raises(UserError, match=r"policy.widths: \(8, 16\); the teacher .*teacher.pt has \(16, 32\)"):
            replace(self.config, widths=(8, 16)).build(self.spec).prepare()
        with pytest.raises(UserError, match="policy.teacher: none; expected the policy.pt of a diffusion or flow policy"):
            replace(self.config, teacher=None).build(self.spec).prepare()
        bc = BcConfig(hidden=(8,), horizon=8)
        save_checkpoint(tmp_path / "bc.pt", bc.build(self.spec), bc)
        with pytest.raises(UserError, match="bc.pt is a BcPolicy; expected a diffusion or flow policy"):
            replace(self.config, teacher=tmp_path / "bc.pt").build(self.spec).prepare()
        regression = RegressionConfig(**UNET, history=2)
        save_checkpoint(tmp_path / "regression.pt", regression.build(self.spec), regression)
        with pytest.raises(UserError, match="regression.pt is a RegressionPolicy; expected a diffusion or flow policy"):
            replace(self.config, teacher=tmp_path / "regression.pt").build(self.spec).prepare()
        save_checkpoint(tmp_path / "student.pt", self.build(), self.config)
        with pytest.raises(UserError, match="student.pt is a ConsistencyPolicy"):
            replace(self.config, teacher=tmp_path / "student.pt").build(self.spec).prepare()
        clone = DiffCloneConfig(**UNET, history=2, sample_steps=8, goal="none", units="range", encoder=None, kernel=3, transition=0.0)
        save_checkpoint(tmp_path / "clone.pt", clone.build(self.spec), clone)
        with pytest.raises(UserError, match=r"clone.pt: a student has no place for what a DiffClonePolicy knows \(\w+\)"):
            replace(self.config, teacher=tmp_path / "clone.pt").build(self.spec).prepare()
        with pytest.raises(UserError, match="policy.rungs: 200; the teacher knows 100 noise levels"):
            replace(self.config, rungs=200).build(self.spec).prepare()


class TestOfFlow(StudentContract):
    teacher = FlowConfig(**DIT)
    student = {"rungs": 8, "sample_steps": 2}


class TestOfAPolicyWithEyes(StudentContract):
    teacher = DiffusionConfig(**UNET, sample_steps=8, encoder=CNN, prediction="v_prediction")
    student = {"rungs": 8, "sample_steps": 4}


def test_one_jump_ends_where_the_teachers_steps_do(tmp_path):
    """From the same noise, and both ways stay open."""
    config = FlowConfig(**UNET, sample_steps=3)
    teacher, obs = two_ways(config)
    save_checkpoint(tmp_path / "teacher.pt", teacher, config)
    config = ConsistencyConfig(**UNET, teacher=tmp_path / "teacher.pt", rungs=3, target_decay=0.5)
    untaught = config.build(SPEC)
    untaught.prepare()
    student, _ = two_ways(config, 120, lr=3e-3)
    its, before, after = (policy.sample(obs, 64, torch.Generator().manual_seed(4))[0, ..., 0] for policy in (teacher, untaught, student))
    assert (after - its).abs().mean() < 0.5 * (before - its).abs().mean()
    assert before.mean(1).abs().mean() < 0.03 < 0.05 < after.mean(1).abs().mean(), "no longer the average, which nobody showed"
    assert 0.2 < (after.mean(1) > 0).float().mean() < 0.8


def test_without_noise_the_student_leaves_the_chunk_as_it_is():
    """The boundary condition: at the last rung the network has no say."""
    for config in (DiffusionConfig(**UNET), DiffusionConfig(**UNET, prediction="sample"), FlowConfig(**UNET)):
        ladder = config.build(SPEC).ladder(6)
        assert len(ladder) == 7 and ladder[-1][1:] == (1.0, 0.0, 1.0, 0.0)
        assert all(high.noise > low.noise and high.signal < low.signal for high, low in pairwise(ladder))
        assert all(rung.of_net for rung in ladder[:-1])


def test_the_frozen_eyes_must_be_the_teachers(tmp_path):
    eyes = replace(CNN, tune="none")
    contract = PolicyContract()
    contract.config = DiffusionConfig(**UNET, encoder=eyes)
    teacher = contract.build()
    save_checkpoint(tmp_path / "teacher.pt", teacher, contract.config)
    student = ConsistencyConfig(**UNET, encoder=replace(eyes, weights="mine.safetensors"), teacher=tmp_path / "teacher.pt").build(SPEC)
    with pytest.raises(UserError, match=r"policy.encoder.weights: mine.safetensors; not what the teacher .*teacher.pt sees with"):
        student.prepare()
    student.encoder.load_state_dict(teacher.encoder.state_dict())
    student.prepare()
    assert torch.equal(student.feature_norm.offset, teacher.feature_norm.offset)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample_steps": 0}, "policy.sample_steps: 0 jumps; expected 1 to 4"),
        ({"sample_steps": 5}, "policy.sample_steps: 5 jumps; expected 1 to 4"),
        ({"rungs": 2, "sample_steps": 3}, "policy.rungs: 2 noise levels, one for each of the sample_steps; expected at least 3"),
        ({"target_decay": 1.0}, "policy.target_decay: 1.0; expected 0 to below 1"),
    ],
)
def test_a_config_that_cannot_be_built_says_why_in_one_line(options, message):
    with pytest.raises(UserError, match=message) as error:
        ConsistencyConfig(**options).build(SPEC)
    assert "\n" not in str(error.value)
