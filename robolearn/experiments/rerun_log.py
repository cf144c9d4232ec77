"""Episodes as a Rerun recording (https://rerun.io): every camera, state and action on one clock, to be scrubbed through."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from hardware.types import RobotSpec
from robolearn.core.errors import UserError
from robolearn.data.episode import Episode

QUALITY = 85  # JPEG's, of the pictures
TIMELINE = "time"  # seconds from each episode's first row


class RerunLog:
    """One .rrd file; each episode is a tree of its own: episode_<n>/{images, state, action, requested_action, reward, streams}/...

    The file appears under its name when the `with` block is left; not at all where an exception leaves it.
    """

    def __init__(self, path: Path, spec: RobotSpec, name: str) -> None:
        """UserError: rerun-sdk is missing, or `path` cannot be written."""
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "numpy 1 detected")  # it works with both, see the tests
                import rerun
        except ImportError as error:
            raise UserError("--rerun needs rerun-sdk: pip install robolearn[rerun]") from error
        self.path, self.spec = path, spec
        self._building = path.with_name(f".{path.name}.part")
        self._rerun: Any = rerun
        self._recording = rerun.RecordingStream("robolearn")
        self._recording.send_recording_name(name)
        self._episodes: list[int] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._building.touch()  # rerun says nothing of a folder that it may not write to
            self._recording.save(self._building)
        except OSError as error:
            raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
        self._recording.set_log_time_enabled(False)  # when it was exported is of no interest
        self._recording.set_log_tick_enabled(False)

    def add(self, index: int, episode: Episode) -> None:
        """Log every row; pictures as JPEG at `image_time` where that is known."""
        start, time = float(episode.time[0]), episode.time - episode.time[0]
        self._episodes.append(index)
        for name, frames in episode.images.items():
            where = self._path(index, "images", name)
            for at, frame in zip(_nanoseconds(episode.image_time.get(name, episode.time) - start), frames, strict=True):
                self._recording.set_time(TIMELINE, duration=at)
                self._recording.log(where, self._rerun.Image(frame).compress(jpeg_quality=QUALITY))
        for name, part in self.spec.state.items():
            self._series(self._path(index, "state", name), time, episode.state[name], part.names)
        self._series(self._path(index, "action"), time, episode.action, self.spec.action.names)
        self._series(self._path(index, "requested_action"), time, episode.requested_action, self.spec.action.names)
        self._series(self._path(index, "reward"), time, episode.reward[:, None], ("reward",))
        for name, part in self.spec.streams.items():
            stream = episode.streams[name]
            self._series(self._path(index, "streams", name), stream.time - start, stream.values, part.names)
        self._recording.log(self._path(index, "meta"), self._rerun.TextDocument(str(dict(episode.meta))), static=True)

    def __enter__(self) -> RerunLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._recording.send_blueprint(self._views())
            self._recording.flush()
        self._recording.disconnect()
        if kind is None:
            os.replace(self._building, self.path)
        else:
            self._building.unlink(missing_ok=True)

    def _series(self, where: str, time: np.ndarray, values: np.ndarray, names: tuple[str, ...]) -> None:
        if not len(time):
            return
        rerun = self._rerun
        self._recording.log(where, rerun.SeriesLines(names=list(names)), static=True)
        scalars = rerun.Scalars.columns(scalars=values.astype(np.float64).ravel()).partition([values.shape[1]] * len(values))
        self._recording.send_columns(where, [rerun.TimeColumn(TIMELINE, duration=_nanoseconds(time))], scalars)

    def _views(self) -> Any:
        """A tab for each episode: cameras above, curves below."""
        import rerun.blueprint as views

        tabs = []
        for index in self._episodes:
            cameras = [views.Spatial2DView(origin=self._path(index, "images", name), name=name) for name in self.spec.cameras]
            curves = [views.TimeSeriesView(origin=self._path(index, "state", name), name=name) for name in self.spec.state]
            curves.append(views.TimeSeriesView(origin=self._path(index, "action"), name="action"))
            below = views.Grid(*curves)
            tabs.append(views.Vertical(views.Horizontal(*cameras), below, name=f"episode {index}") if cameras else below)
        return views.Blueprint(views.Tabs(*tabs))

    def _path(self, index: int, *parts: str) -> str:
        return self._rerun.new_entity_path([f"episode_{index}", *parts])


def _nanoseconds(seconds: np.ndarray) -> np.ndarray:
    """Rerun's clock, rounded: it would cut 0.3 s to 0.299999999."""
    return np.rint(seconds * 1e9).astype("timedelta64[ns]")
