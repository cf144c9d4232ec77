"""Self-supervised objectives, one per module; what draws their clips and trains them comes from here."""

from robolearn.learners.pretraining._clips import Clips, rows_of
from robolearn.learners.pretraining._learner import LearningConfig, Pretraining

__all__ = ["Clips", "LearningConfig", "Pretraining", "rows_of"]
