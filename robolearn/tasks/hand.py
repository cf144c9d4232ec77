"""What robosuite's scripted operators share: a hand that errs as a person's at a joystick does: late, unsteady, beside the mark."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hardware.robot import SafeRobot
from hardware.types import Command, Observation, Source


@dataclass(frozen=True)
class HandStyle:
    """How the operator behaves. Lengths in m, times in s, angles in rad; ranges are uniform, drawn anew each episode or attempt."""

    speed: tuple[float, float] = (0.07, 0.20)  # m/s, one per episode
    gain: tuple[float, float] = (2.5, 4.5)  # 1/s, towards the goal; with the arm's delay the high end overshoots
    reaction_s: tuple[float, float] = (0.1, 0.5)  # before a new phase is acted on
    hover: tuple[float, float] = (0.04, 0.09)  # above the object, before going down
    pause_chance: float = 0.3  # of stopping to look before going down
    pause_s: tuple[float, float] = (0.2, 0.8)
    aim_error: float = 0.004  # standard deviation of where the object is believed to be, each axis
    misjudge_chance: float = 0.32  # of an attempt aimed badly
    misjudge_error: tuple[float, float] = (0.025, 0.045)  # then off by this much, in any direction
    grip_s: tuple[float, float] = (0.3, 0.6)  # from closing to lifting
    give_up_chance: float = 0.5  # after a failed attempt
    noise_share: float = 0.15  # hand noise grows with speed (Harris & Wolpert, Nature 1998)
    noise_floor: float = 0.008  # m/s, and never quite stops
    patience_s: float = 2.0  # of pushing down without getting there: a finger stands on the object
    correlation: float = 0.7  # of that noise from one tenth of a second to the next


Wish = tuple[np.ndarray | None, float]  # where the tool's centre wants to be (None: nowhere in particular), and the gripper


class Hand:
    """Goes, at its own speed and with its own noise, where `_act` wishes. Gives up after a failed attempt, or tries again."""

    def __init__(self, robot: SafeRobot, rng: np.random.Generator, style: HandStyle | None = None) -> None:
        if robot.world is None:
            raise ValueError("a scripted operator needs the simulator's state; this robot has no world")
        self.style = style or HandStyle()
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

    @property
    def _waited(self) -> bool:
        return self._wait_s <= 0

    def decide(self, observation: Observation) -> Command:
        elapsed = 0.0 if self._now is None else observation.time - self._now
        self._now = observation.time
        tool, seen = observation.state["ee_pos"].astype(np.float64), self._world.privileged()
        self._turn = self.turn(observation, seen)
        goal, gripper = self._act(tool, seen)
        velocity = np.zeros(3)
        self._wait_s, self._age_s = self._wait_s - elapsed, self._age_s + elapsed
        if self._waited and goal is not None:
            velocity = self._gain * (goal - tool)
            velocity *= min(1.0, self._speed / max(float(np.linalg.norm(velocity)), 1e-9))
        step = (velocity + self._hand_noise(velocity)) / self._spec.rate_hz
        turning = self._gain * self._turn / self._spec.rate_hz
        wanted = np.concatenate([step, turning[: self._spec.action.dim - 4], [gripper]])
        action = np.clip(wanted, self._spec.action.low, self._spec.action.high)
        return Command(observation.time, action.astype(np.float32), Source.SCRIPTED)

    @abstractmethod
    def _act(self, tool: np.ndarray, seen: Mapping[str, np.ndarray]) -> Wish:
        """What the hand wants now, its centre at `tool` (3,) [m]. Moves on to the next phase when due."""

    def turn(self, observation: Observation, seen: Mapping[str, np.ndarray]) -> np.ndarray:
        """How far the tool has to turn (3,) [rad], about the world's axes; done only by bodies that can."""
        return np.zeros(3)

    def _turned(self) -> bool:
        return float(np.abs(self._turn).max()) < 0.06

    def _hand_noise(self, velocity: np.ndarray) -> np.ndarray:
        """m/s, (3,): first-order correlated, stronger in fast motion."""
        keep = self.style.correlation ** (10.0 / self._spec.rate_hz)
        self._noise = keep * self._noise + np.sqrt(1 - keep**2) * self._rng.normal(size=3)
        return self._noise * (self.style.noise_floor + self.style.noise_share * float(np.linalg.norm(velocity)))

    def _draw(self, bounds: tuple[float, float]) -> float:
        return float(self._rng.uniform(*bounds))


class HandOperator(Hand):
    """approach, go down, close: then `carry` says what a task does with what it holds."""

    DEPTH = 0.009  # m, the tool's centre above the object's when the fingers close
    CLEARANCE = 0.0  # m, what of the object rises above its centre, more than fingers that hover already clear

    def _act(self, tool: np.ndarray, seen: Mapping[str, np.ndarray]) -> Wish:
        thing = self.object(seen)
        believed = np.append(thing[:2] + self._error, thing[2])
        above = believed + np.array([0.0, 0.0, self._hover + self.CLEARANCE])
        beside = float(np.linalg.norm(tool[:2] - believed[:2]))
        match self.phase:
            case "approach":
                if self._waited and beside < 0.012 and tool[2] - above[2] < 0.03 and self._turned():
                    self._enter("down", self._draw(self.style.pause_s) if self._pauses else 0.0)
                return above, 1.0
            case "down":
                if self._waited and tool[2] - believed[2] < self.DEPTH + 0.004:
                    self._enter("close", self._draw(self.style.grip_s))
                elif self._age_s > self.style.patience_s:
                    self._failed()
                elif beside > 0.02:
                    self._enter("approach")  # drifted off, or overshot: back up and correct
                return believed + np.array([0.0, 0.0, self.DEPTH]), 1.0
            case "close":
                if self._waited:
                    self._enter("lift", 0.0)
                    self._from = float(tool[2])
                return None, 0.0
            case "give up":
                return None, 1.0
        return self.carry(tool, thing, seen)

    @abstractmethod
    def object(self, seen: Mapping[str, np.ndarray]) -> np.ndarray:
        """Where to take hold (3,) [m], of what the simulator's `privileged` says."""

    @abstractmethod
    def carry(self, tool: np.ndarray, thing: np.ndarray, seen: Mapping[str, np.ndarray]) -> Wish:
        """From the phase "lift" on. tool, thing: (3,) [m] of the tool's centre and of where it took hold."""
