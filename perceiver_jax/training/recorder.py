"""What people see of a run while it goes, in files and on the terminal."""

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

from absl import logging
from etils import epath

from perceiver_jax.data.prefetch import Prefetcher
from perceiver_jax.progress import Progress
from perceiver_jax.tasks.base import Batch, Report
from perceiver_jax.training.curves import save_curves
from perceiver_jax.training.histograms import make_histograms
from perceiver_jax.training.job import Job
from perceiver_jax.training.metrics import MetricWriter
from perceiver_jax.training.profiling import Profiler
from perceiver_jax.training.run_log import RunLog
from perceiver_jax.training.speed import SPEED_SPLIT, Speedometer
from perceiver_jax.training.state import TrainState

EVALUATION_DIR = 'evaluation'
# Of the time of a run, at most.
_CURVES_SHARE = 0.01


class Recorder:
  """Writes metrics, speed and profiles, and shows how far a run is.

  A context manager. In a run of many processes only the first one writes: the
  others give `is_primary=False`, and their calls write nothing.

  Args:
    job: what is run.
    workdir: the directory of the run.
    log: gets the metrics too.
    resume_step: the step of the checkpoint that the run goes on from; None for
      a run that starts anew.
    must_evaluate: whether the state of that checkpoint is evaluated first; what
      an evaluation that did not get into the checkpoint has left is forgotten.
    profile_steps: updates to profile; None: none.
    is_primary: whether to write at all.

  Raises:
    ValueError: the run ends before `profile_steps`.
  """

  def __init__(
    self,
    job: Job,
    workdir: str | os.PathLike[str],
    log: RunLog,
    *,
    resume_step: int | None,
    must_evaluate: bool,
    profile_steps: range | None,
    is_primary: bool,
  ) -> None:
    self._job, self._log, self._is_primary = job, log, is_primary
    self._workdir = epath.Path(workdir)
    self._start = resume_step or 0
    self._speedometer: Speedometer | None = None
    self._histograms = make_histograms(job)
    self._next_curves_secs = 0.0
    with contextlib.ExitStack() as stack:
      self._profiler = stack.enter_context(
        Profiler(
          workdir,
          profile_steps,
          start=self._start,
          num_steps=job.num_steps,
          is_primary=is_primary,
        )
      )
      self._writer = stack.enter_context(
        MetricWriter(
          workdir,
          resume_step=resume_step,
          repeated_split=job.config.data.eval_split if must_evaluate else None,
          is_primary=is_primary,
        )
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

  @contextlib.contextmanager
  def step(self, step: int) -> Iterator[None]:
    """Is around an update, which must be done at its end if `waits` says so."""
    with self._profiler.step(step):
      yield
    if self.waits(step):
      # Most of the time went into compilation, or into a profile.
      self._restart(step)

  def look(self, step: int, state: TrainState, batch: Batch) -> None:
    """Writes histograms of the update that comes next, if they are due.

    All processes must call it, for the gradient is that of the whole batch.

    Args:
      step: updates with this one.
      state: before it.
      batch: on the devices.
    """
    every = self._job.config.log_histograms_every_steps
    if every is not None and step % every == 0:
      self._writer.write_histograms(step, self._histograms(state, batch))
      self._restart(step - 1)

  def waits(self, step: int) -> bool:
    """Returns whether an update must be done when `step` is left."""
    return step == self._start + 1 or self._profiler.waits(step)

  def progress(self, step: int) -> None:
    """Shows that so many updates were started."""
    self._progress.update(step)

  def log(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Writes the metrics of the update that was done last, and the speed."""
    self._write(step, 'train', metrics)
    self._progress.update(step, {'loss': metrics['loss']})
    speed = self._speedometer.read(step) if self._speedometer else {}
    if speed:
      self._write(step, SPEED_SPLIT, speed)

  def new_report(self, step: int) -> Report | None:
    """Returns what the evaluation after an update is to fill, if anything."""
    config, every = self._job.config, self._job.config.report_every_steps
    is_due = every is not None and step % every == 0
    if step < self._job.num_steps and not is_due:
      return None
    return config.task.make_report(config.data.class_names)

  def evaluated(
    self, step: int, metrics: Mapping[str, float], report: Report | None = None
  ) -> None:
    """Writes the metrics of an evaluation, and the report that it filled.

    Draws the curves too, after the last evaluation, and so often before as
    takes little of the run's time.
    """
    split = self._job.config.data.eval_split
    self._write(step, split, metrics)
    if report is not None and self._is_primary:
      try:
        pictures = report.save(self._workdir / EVALUATION_DIR)
        self._writer.write_pictures(step, split, pictures)
      except Exception as error:  # Whatever it is, it must not end the run.
        logging.error('The evaluation has no pictures: %s', error)
    if self._is_primary:
      self._draw_curves(must_draw=step == self._job.num_steps)
    self._restart(step)

  def flush(self) -> None:
    """Writes lines that wait, for a run that goes on does not repeat them.

    To be called before a state is saved, or is said to be evaluated.
    """
    self._writer.flush()
    self._log.flush()

  def _draw_curves(self, *, must_draw: bool) -> None:
    """Draws what was written so far, unless it was just drawn.

    A failure is logged, and ends nothing.
    """
    start_secs = time.monotonic()
    if not must_draw and start_secs < self._next_curves_secs:
      return
    self._writer.flush()
    try:
      save_curves(self._workdir)
    except Exception as error:  # Such as a disk that is full.
      logging.warning('The run has no curves: %s', error)
    took_secs = time.monotonic() - start_secs
    self._next_curves_secs = start_secs + took_secs / _CURVES_SHARE

  def _write(self, step: int, split: str, metrics: Mapping[str, Any]) -> None:
    self._writer.write(step, split, metrics)
    numbers = (f'{name} {float(value):.4g}' for name, value in metrics.items())
    self._log.note(f'step {step}, {split}: {", ".join(numbers)}')

  def _restart(self, step: int) -> None:
    """Leaves the time until now out of the speed, with so many updates done."""
    if self._speedometer is not None:
      self._speedometer.restart(step)
