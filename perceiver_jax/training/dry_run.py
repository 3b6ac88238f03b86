"""What a job would do, without doing it: checks and a summary in seconds.

Compiling the update as well takes longer (46 s for Perceiver IO on ImageNet, on
two busy CPU cores), so that it is done only where it is asked for.
"""

import math
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from perceiver_jax.arrays import DEVICE_AXIS
from perceiver_jax.tasks.base import Batch
from perceiver_jax.training import parallel
from perceiver_jax.training.compatibility import check_run
from perceiver_jax.training.config import TrainConfig
from perceiver_jax.training.job import (
  Job,
  abstract_state,
  forward_flops,
  loss_batch,
  make_job,
  train_step,
)
from perceiver_jax.training.state import TrainState
from perceiver_jax.training.step import make_eval_step


def dry_run(
  config: TrainConfig,
  workdir: str | os.PathLike[str] | None = None,
  *,
  compiles: bool = False,
) -> str:
  """Traces a whole job and returns a summary of it for people.

  Every check of a real run is made: the config, the data set, the shapes of
  data, model, loss, optimizer and evaluation, and whether a checkpoint is one
  of this job. Nothing is computed or written.

  Args:
    config: the job; frozen by this.
    workdir: the directory of the run, which may have begun; None: a new one.
    compiles: whether to compile the update for the devices at hand too, and
      tell what memory it takes there; in a single process only.

  Raises:
    ValueError: the job could not run, or there are several processes to
      compile for.
    NotADirectoryError: `workdir` is a file.
  """
  job = make_job(config)
  saved = abstract_state(job)
  resume_step = None if workdir is None else _resume_step(job, saved, workdir)
  if resume_step is None and config.initial_weights is not None:
    config.initial_weights.check_path()
  state = jax.tree.map(_on_a_device, saved)
  _trace_steps(job, state)
  num_params = sum(leaf.size for leaf in jax.tree.leaves(state.params))
  num_examples = config.data.num_train_examples
  lines = {
    'parameters': f'{num_params:,}',
    'forward FLOPs per example': f'{forward_flops(job):,}',
    'devices': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
    'batch': f'{config.data.batch_size:,} examples, '
    f'{_spelled_share(config)} a device',
    **_memory_of_state(state),
    'saved activations per device': 'about '
    f'{_spelled_bytes(_activations(job, state))}',
    'training examples': f'{num_examples:,}',
    'evaluation examples': f'{config.data.num_eval_examples:,}',
    'steps': f'{job.num_steps:,} '
    f'({job.num_steps * config.data.batch_size / num_examples:.1f} epochs)',
  }
  if workdir is not None:
    lines['start'] = (
      'anew' if resume_step is None else f'from step {resume_step:,}'
    )
  if compiles:
    lines |= _compiled_lines(job, saved)
  width = max(map(len, lines))
  return '\n'.join(f'{name:<{width}}  {text}' for name, text in lines.items())


def _resume_step(
  job: Job, saved: TrainState, workdir: str | os.PathLike[str]
) -> int | None:
  """Returns where a run goes on, None if it starts anew; checks that it can."""
  config = job.config
  with config.checkpoint.make(
    workdir, config.to_json(), read_only=True
  ) as checkpointer:
    saved_json = checkpointer.saved_config_json()
    if saved_json is None:
      return None
    check_run(saved_json, config.to_dict(), workdir=str(workdir))
    step = checkpointer.latest_step()
    checkpointer.check_fits(step, saved)
  return step


def _memory_of_state(state: TrainState) -> dict[str, str]:
  """Says what a device holds from update to update, and for what."""
  parts = {
    'parameters': state.params,
    'optimizer': state.optimizer_state,
    'running mean of parameters': state.ema_params,
    'running statistics': state.model_state,
  }
  sizes = {name: _num_bytes(part) for name, part in parts.items()}
  return {
    'state per device': _spelled_bytes(_num_bytes(state)),
    **{f'- {n}': _spelled_bytes(size) for n, size in sizes.items() if size},
  }


def _spelled_share(config: TrainConfig) -> str:
  """Says how many examples a device gets of a batch, and how many at a time."""
  share = config.data.batch_size // jax.device_count()
  if config.accumulation_steps == 1:
    return f'{share:,}'
  part = share // config.accumulation_steps
  return f'{config.accumulation_steps} times {part:,}'


def _trace_steps(job: Job, state: TrainState) -> None:
  """Follows shapes through an update and an evaluation on one device."""
  examples = next(iter(job.device_batch.values())).shape[0]
  mask = jax.ShapeDtypeStruct((examples,), jnp.bool_)
  _trace(train_step(job), state, job.device_batch)
  _trace(make_eval_step(job.task), state, job.device_batch | {'mask': mask})


def _on_a_device(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
  """Returns what one device holds of an array, which may be a share."""
  shape = leaf.sharding.shard_shape(leaf.shape)
  return jax.ShapeDtypeStruct(shape, leaf.dtype)


def _activations(job: Job, state: TrainState) -> int:
  """Estimates the bytes that the backward pass keeps of a device's batch.

  It is what a batch twice as large would keep more: residuals that do not
  depend on the batch, such as parameters, fall out. With gradient accumulation
  it is those of one part.
  """

  def backward(params: Any, model_state: Any, batch: Batch) -> Any:
    rngs = jax.random.split(jax.random.key(0), len(jax.tree.leaves(batch)[0]))
    _, pullback, _ = jax.vjp(
      lambda params: job.task.loss(params, model_state, rngs, batch),
      params,
      has_aux=True,
    )
    return pullback

  def residuals(factor: int) -> int:
    batch = {
      name: jax.ShapeDtypeStruct((factor * a.shape[0], *a.shape[1:]), a.dtype)
      for name, a in loss_batch(job).items()
    }
    return _num_bytes(_trace(backward, state.params, state.model_state, batch))

  return residuals(2) - residuals(1)


def compiled_bytes(
  update: parallel.ParallelStep, state: Any, batch: Batch
) -> dict[str, int] | None:
  """Compiles an update and returns the bytes that a device needs for it.

  Args:
    update: what is compiled.
    state: its shapes, with the shardings of arrays.
    batch: its shapes, with a leading axis of devices.

  Returns:
    The bytes by what they are for; None if this kind of device does not tell.
  """
  memory = update.lower(state, batch).compile().memory_analysis()
  if memory is None:
    return None
  in_place = memory.alias_size_in_bytes
  return {
    'state and batch': memory.argument_size_in_bytes,
    'results in new memory': memory.output_size_in_bytes - in_place,
    'activations and gradients': memory.temp_size_in_bytes,
    'program': memory.generated_code_size_in_bytes,
  }


def _compiled_lines(job: Job, saved: TrainState) -> dict[str, str]:
  """Compiles the update of a job and says what memory a device needs for it."""
  if jax.process_count() > 1:
    raise ValueError(
      'a dry run that compiles must be of one process, got '
      f'{jax.process_count()}.'
    )
  batch = {
    name: jax.ShapeDtypeStruct((jax.device_count(), *a.shape), a.dtype)
    for name, a in job.device_batch.items()
  }
  start = time.monotonic()
  update = parallel.parallel_train_step(train_step(job))
  sizes = compiled_bytes(update, parallel.described_locally(saved), batch)
  seconds = time.monotonic() - start
  name = 'compiled update per device'
  if sizes is None:
    return {name: f'not known here; compiled in {seconds:.1f} s'}
  return {
    name: f'{_spelled_bytes(sum(sizes.values()))}; compiled in {seconds:.1f} s',
    **{f'- {part}': _spelled_bytes(size) for part, size in sizes.items()},
  }


def _trace(function: Callable[..., Any], *args: Any) -> Any:
  """Returns the shapes that a function of one device would return."""
  axis_env = [(DEVICE_AXIS, jax.device_count())]
  trace = jax.make_jaxpr(function, axis_env=axis_env, return_shape=True)
  return trace(*args)[1]


def _num_bytes(tree: Any) -> int:
  return sum(
    math.prod(leaf.shape) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
  )


def _spelled_bytes(num_bytes: int) -> str:
  if num_bytes < 2**20:
    return f'{num_bytes / 2**10:,.1f} KiB'
  return f'{num_bytes / 2**20:,.1f} MiB'
