"""What people see of a run while it goes, in files and on the terminal."""

import contextlib
import os
from collections.abc import Mapping
from typing import Any

from perceiver_jax.data.prefetch import Prefetcher
from perceiver_jax.progress import Progress
from perceiver_jax.training.job import Job
from perceiver_jax.training.metrics import MetricWriter
from perceiver_jax.training.speed import SPEED_SPLIT, Speedometer


class Recorder:
  """Writes metrics and speed, and shows how far a run is.

  A context manager. In a run of many processes only the first one writes: the
  others give `is_primary=False`, and each call does nothing.

  Args:
    job: what is run.
    workdir: the directory of the run.
    resume_step: the step of the checkpoint that the run goes on from; None for
      a run that starts anew.
    is_primary: whether to write at all.
  """

  def __init__(
    self,
    job: Job,
    workdir: str | os.PathLike[str],
    *,
    resume_step: int | None,
    is_primary: bool,
  ) -> None:
    self._job, self._is_primary = job, is_primary
    self._speedometer: Speedometer | None = None
    with contextlib.ExitStack() as stack:
      self._writer = stack.enter_context(
        MetricWriter(workdir, resume_step=resume_step, is_primary=is_primary)
      )
      self._progress = stack.enter_context(
        Progress(
          job.num_steps, job.config.data.batch_size, is_primary=is_primary
        )
      )
      self._opened = stack.pop_all()

  def __enter__(self) -> 'Recorder':
    return self

  def __exit__(self, *exception: Any) -> None:
    self._opened.__exit__(*exception)

  def watch(self, batches: Prefetcher) -> None:
    """Takes note of what the updates wait for; before the first of them."""
    if self._is_primary:
      self._speedometer = Speedometer(self._job, batches)

  def restart(self, step: int) -> None:
    """Leaves the time until now out of the speed, with so many updates done."""
    if self._speedometer is not None:
      self._speedometer.restart(step)

  def update(self, step: int) -> None:
    """Shows that so many updates were started."""
    self._progress.update(step)

  def log(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Writes the metrics of the update that was done last, and the speed."""
    self._writer.write(step, 'train', metrics)
    self._progress.update(step, {'loss': metrics['loss']})
    if self._speedometer is not None and (
      speed := self._speedometer.read(step)
    ):
      self._writer.write(step, SPEED_SPLIT, speed)

  def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
    """Writes the metrics of the evaluation that has just been made."""
    self._writer.write(step, self._job.config.data.eval_split, metrics)
    self.restart(step)
