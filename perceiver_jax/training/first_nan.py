"""Finding the operation that made the first NaN of an update.

An update that is not finite leaves the parameters as they were. So it can be
computed once more, with a look at the results of every operation, and costs a
run nothing before.

JAX's own `jax_debug_nans` looks at what a compiled function returns, and then
calls it again operation by operation. JAX 0.10 stops looking, in the whole
thread, as soon as anything has switched it off for a moment, as functions of
JAX themselves do; and of what pmap runs it names no operation.
"""

import traceback
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import checkify

from perceiver_jax.tasks.base import Batch
from perceiver_jax.training import parallel
from perceiver_jax.training.job import Job
from perceiver_jax.training.processes import texts_of_all
from perceiver_jax.training.state import TrainState
from perceiver_jax.training.step import make_gradients

NanCheck = Callable[[TrainState, Batch, Mapping[str, Any]], str | None]

# They bring the NaN of one device to all.
_COLLECTIVES = ('psum', 'pmax', 'pmin', 'all_gather', 'reduce_scatter')


def make_nan_check(job: Job) -> NanCheck:
  """Makes the function that looks at an update, and into one with a NaN.

  Returns:
    A function of the state after an update, its batch, and its metrics. It
    waits for the update, and returns None if loss and gradient are finite, else
    which operation made the first NaN, where it stands, and on which device; in
    all processes of a run alike. A scaled loss may have a gradient that is not
    finite, as long as it is so itself.
  """
  gradients = checkify.checkify(
    make_gradients(job.config, job.task), errors=checkify.nan_checks
  )

  def look(state: TrainState, batch: Batch) -> tuple[tuple[()], Any]:
    error, _ = gradients(state, batch)
    return (), error

  look = parallel.parallel_eval_step(look)

  def check(
    state: TrainState, batch: Batch, metrics: Mapping[str, Any]
  ) -> str | None:
    names = ['loss']
    if job.config.loss_scaling is None:
      names.append('gradient_norm')
    values = {name: float(metrics[name]) for name in names}
    if all(map(np.isfinite, values.values())):
      return None
    step = int(state.step)
    state = state._replace(step=state.step - 1)  # As the update drew.
    if job.config.loss_scaling is not None:
      scale = metrics['loss_scale']
      state = state._replace(loss_scale=state.loss_scale._replace(scale=scale))
    _, error = look(state, batch)
    spelled = ' and '.join(f'{name} {value}' for name, value in values.items())
    return (
      f'loss and gradient must be finite, got {spelled} in step {step}. '
      f'{_origin(error)}'
    )

  return check


def _origin(error: checkify.Error) -> str:
  """Says what made the first NaN, on a device of any process."""
  exception = jax.device_get(error).get_exception()
  found = {} if exception is None else exception.error_mapping
  made = {
    place: nan
    for place, nan in found.items()
    if not nan.prim.startswith(_COLLECTIVES)
  }
  # A process in which none was made has those that a collective brought.
  for of_this_process in (made, found):
    for said in texts_of_all(_spelled(of_this_process)):
      if said:
        return said
  return 'No operation made a NaN: a number was infinite.'


def _spelled(found: Mapping[tuple[int, ...], Any]) -> str:
  """Says where one of the first NaN of this process is from, if any."""
  if not found:
    return ''
  (device, *_), nan = next(iter(found.items()))
  process = (
    f' of process {jax.process_index()}' if jax.process_count() > 1 else ''
  )
  return (
    f'The first NaN on device {jax.local_devices()[device].id}{process} is of '
    f'the operation {nan.prim}, {_place(nan.traceback_info)}.'
  )


def _place(frames: Any) -> str:
  """Says which line outside of libraries an operation comes from."""
  stack = traceback.extract_tb(frames.as_python_traceback())
  own = [f for f in stack if 'site-packages' not in f.filename]
  frame = (own or stack)[-1]
  return f'from {frame.filename}, line {frame.lineno}: {frame.line}'
