"""What is to be done, and scripted operators who do it as a person might."""

from robolearn.tasks.operators import operator_for
from robolearn.tasks.task import Outcome, Task, task_for

__all__ = ["Outcome", "Task", "operator_for", "task_for"]
