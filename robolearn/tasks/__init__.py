"""What is to be done, and scripted operators who do it as a person might."""

from robolearn.tasks.mixed_operator import MixedOperator
from robolearn.tasks.operators import operator_for
from robolearn.tasks.task import Outcome, Task, task_for

__all__ = ["MixedOperator", "Outcome", "Task", "operator_for", "task_for"]
