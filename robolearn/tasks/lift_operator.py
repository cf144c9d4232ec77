"""A scripted operator for Lift that errs as a person at a joystick does: late, unsteady, sometimes beside the cube."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hardware.robot import SafeRobot
from hardware.types import Command, Observation, Source


@dataclass(frozen=True)
class LiftStyle:
    """How the operator behaves. Lengths in m, times in s; ranges are uniform, drawn anew each episode or attempt."""

    speed: tuple[float, float] = (0.07, 0.20)  # m/s, one per episode
    gain: tuple[float, float] = (2.5, 4.5)  # 1/s, towards the goal; with the arm's delay the high end overshoots
    reaction_s: tuple[float, float] = (0.1, 0.5)  # before a new phase is acted on
    hover: tuple[float, float] = (0.04, 0.09)  # above the cube, before going down
    pause_chance: float = 0.3  # of stopping to look before going down
    pause_s: tuple[float, float] = (0.2, 0.8)
    aim_error: float = 0.004  # standard deviation of where the cube is believed to be, each axis
    misjudge_chance: float = 0.32  # of an attempt aimed badly
    misjudge_error: tuple[float, float] = (0.025, 0.045)  # then off by this much, in any direction
    grip_s: tuple[float, float] = (0.3, 0.6)  # from closing to lifting
    give_up_chance: float = 0.5  # after a failed attempt
    noise_share: float = 0.15  # hand noise grows with speed (Harris & Wolpert, Nature 1998)
    noise_floor: float = 0.008  # m/s, and never quite stops
    patience_s: float = 2.0  # of pushing down without getting there: a finger stands on the cube
    correlation: float = 0.7  # of that noise from one tenth of a second to the next


class LiftOperator:
    """approach, go down, close, lift; notices an empty gripper, opens and tries again, or gives up. robot: robosuite:Lift."""

    LIFT = 0.12  # m above the table: well past success
    MISSED = 0.05  # m the hand rose without the cube before the operator notices

    def __init__(self, robot: SafeRobot, rng: np.random.Generator, style: LiftStyle | None = None) -> None:
        if robot.world is None:
            raise ValueError("a scripted operator needs the simulator's state; this robot has no world")
        self.style = style or LiftStyle()
        self._world, self._spec, self._rng = robot.world, robot.spec, rng
        self.reset()

    def reset(self) -> None:
        """A new episode: another mood, a first attempt."""
        self._speed, self._gain = self._draw(self.style.speed), self._draw(self.style.gain)
        self._noise = np.zeros(3)
        self._now: float | None = None
        self._begin_attempt()

    def _begin_attempt(self) -> None:
        style, rng = self.style, self._rng
        self._error = rng.normal(0.0, style.aim_error, 2)
        if rng.random() < style.misjudge_chance:
            angle = rng.uniform(0, 2 * np.pi)
            self._error += self._draw(style.misjudge_error) * np.array([np.cos(angle), np.sin(angle)])
        self._hover = self._draw(style.hover)
        self._pauses = rng.random() < style.pause_chance
        self._enter("approach")

    def _enter(self, phase: str, wait_s: float | None = None) -> None:
        self.phase = phase
        self._wait_s = self._draw(self.style.reaction_s) if wait_s is None else wait_s
        self._age_s = 0.0

    def _failed(self) -> None:
        self._enter("give up") if self._rng.random() < self.style.give_up_chance else self._begin_attempt()

    def decide(self, observation: Observation) -> Command:
        elapsed = 0.0 if self._now is None else observation.time - self._now
        self._now = observation.time
        tool = observation.state["ee_pos"].astype(np.float64)
        goal, gripper = self._act(tool, self._world.privileged()["cube_pos"])
        velocity = np.zeros(3)
        self._wait_s, self._age_s = self._wait_s - elapsed, self._age_s + elapsed
        if self._wait_s <= 0 and goal is not None:
            velocity = self._gain * (goal - tool)
            velocity *= min(1.0, self._speed / max(float(np.linalg.norm(velocity)), 1e-9))
        step = (velocity + self._hand_noise(velocity)) / self._spec.rate_hz
        action = np.clip(np.append(step, gripper), self._spec.action.low, self._spec.action.high)
        return Command(observation.time, action.astype(np.float32), Source.SCRIPTED)

    def _act(self, tool: np.ndarray, cube: np.ndarray) -> tuple[np.ndarray | None, float]:
        """Where the hand wants to be (None: nowhere in particular), and the gripper. Moves on to the next phase when due."""
        believed = np.append(cube[:2] + self._error, cube[2])
        above = believed + np.array([0.0, 0.0, self._hover])
        beside = float(np.linalg.norm(tool[:2] - believed[:2]))
        waited = self._wait_s <= 0
        match self.phase:
            case "approach":
                if waited and beside < 0.012 and tool[2] - above[2] < 0.03:
                    self._enter("down", self._draw(self.style.pause_s) if self._pauses else 0.0)
                return above, 1.0
            case "down":
                if waited and tool[2] - believed[2] < 0.013:
                    self._enter("close", self._draw(self.style.grip_s))
                elif self._age_s > self.style.patience_s:
                    self._failed()
                elif beside > 0.02:
                    self._enter("approach")  # drifted off, or overshot: back up and correct
                return believed + np.array([0.0, 0.0, 0.009]), 1.0
            case "close":
                if waited:
                    self._enter("lift", 0.0)
                    self._from = float(tool[2])
                return None, 0.0
            case "lift":
                if tool[2] - self._from > self.MISSED and cube[2] < 0.83:
                    self._failed()
                return np.array([tool[0], tool[1], self._from + self.LIFT]), 0.0
        return None, 1.0  # gave up

    def _hand_noise(self, velocity: np.ndarray) -> np.ndarray:
        """m/s, (3,): first-order correlated, stronger in fast motion."""
        keep = self.style.correlation ** (10.0 / self._spec.rate_hz)
        self._noise = keep * self._noise + np.sqrt(1 - keep**2) * self._rng.normal(size=3)
        return self._noise * (self.style.noise_floor + self.style.noise_share * float(np.linalg.norm(velocity)))

    def _draw(self, bounds: tuple[float, float]) -> float:
        return float(self._rng.uniform(*bounds))
