"""Evaluating a state on the whole evaluation split, every example once."""

import collections
from collections.abc import Callable

import jax
import numpy as np

from perceiver_jax.data.base import eval_batches
from perceiver_jax.tasks.base import Report
from perceiver_jax.training import parallel, processes
from perceiver_jax.training.job import Job, device_batches, this_process
from perceiver_jax.training.state import TrainState
from perceiver_jax.training.step import make_eval_step


def make_evaluator(job: Job) -> Callable[..., dict[str, float] | None]:
  """Makes the function that returns the metrics of the evaluation split.

  They are the means over its examples, and what the task computes of all of
  them together. The function compiles on its first call. Its result does not
  depend on the number of devices, but for the order of float32 sums. It takes
  a state, and optionally a report. With many processes, all give one or none,
  each is told of all examples, and that of the first process is shown its own:
  batches of videos are too large to go from host to host. After every batch it
  asks `must_stop`, if given, which must answer all processes alike; told so, it
  returns None.
  """
  eval_step = parallel.parallel_eval_step(make_eval_step(job.task))
  split_metrics = job.task.split_metrics

  def evaluate(
    state: TrainState,
    report: Report | None = None,
    must_stop: Callable[[], bool] | None = None,
  ) -> dict[str, float] | None:
    totals: collections.Counter[str] = collections.Counter()
    parts: list[dict[str, np.ndarray]] = []

    def note(sums, batch, outcomes):
      totals.update(jax.device_get(sums))
      if report is None and split_metrics is None:
        return
      mask = batch['mask']
      if report is not None and processes.is_primary():
        report.show(*_examples(*jax.device_get((mask, batch, outcomes))))
      _, outcomes = _examples(*parallel.gather((mask, {}, outcomes)))
      if report is not None:
        report.observe(outcomes)
      if split_metrics is not None:
        parts.append(outcomes)

    batches = eval_batches(job.config.data, shard=this_process())
    with device_batches(job, batches) as on_devices:
      previous = None
      for batch in on_devices:
        sums, outcomes = eval_step(state, batch)
        if report is None:
          batch = {'mask': batch['mask']}
        # Fetched while the next batch is under way.
        if previous is not None:
          note(*previous)
        previous = sums, batch, outcomes
        if must_stop is not None and must_stop():
          return None
    note(*previous)
    totals = {name: float(total) for name, total in totals.items()}
    count = totals.pop('count')
    metrics = {name: total / count for name, total in totals.items()}
    if split_metrics is not None:
      metrics |= split_metrics(
        jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
      )
    return metrics | {'num_examples': count}

  return evaluate


def _examples(
  mask: np.ndarray,
  batch: dict[str, np.ndarray],
  outcomes: dict[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """Returns the examples that count, without axes of devices."""
  return tuple(
    {name: array[mask] for name, array in arrays.items()}
    for arrays in (batch, outcomes)
  )
