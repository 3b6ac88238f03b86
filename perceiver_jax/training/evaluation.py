"""Evaluating a state on the whole evaluation split, every example once."""

from collections.abc import Callable

import jax

from perceiver_jax.data.base import eval_batches
from perceiver_jax.training import parallel
from perceiver_jax.training.job import Job, device_batches, this_process
from perceiver_jax.training.state import TrainState
from perceiver_jax.training.step import make_eval_step


def make_evaluator(job: Job) -> Callable[[TrainState], dict[str, float]]:
  """Makes the function that returns the mean of every metric over the split.

  The function compiles on its first call. Its result does not depend on the
  number of devices, but for the order of float32 sums.
  """
  eval_step = parallel.parallel_eval_step(make_eval_step(job.task))

  def evaluate(state: TrainState) -> dict[str, float]:
    totals: dict[str, float] = {}
    batches = eval_batches(job.config.data, shard=this_process())
    with device_batches(job, batches) as on_devices:
      for batch in on_devices:
        for name, total in jax.device_get(eval_step(state, batch)).items():
          totals[name] = totals.get(name, 0.0) + float(total)
    count = totals.pop('count')
    means = {name: total / count for name, total in totals.items()}
    return means | {'num_examples': count}

  return evaluate
