"""What a job would do, without doing it: checks and a summary in seconds."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from perceiver_jax.arrays import DEVICE_AXIS
from perceiver_jax.tasks.base import Batch
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


def dry_run(config: TrainConfig) -> str:
  """Traces a whole job and returns a summary of it for people.

  Every check of a real run is made: the config, the data set, the shapes of
  data, model, loss, optimizer and evaluation. Nothing is computed.

  Args:
    config: the job; frozen by this.

  Raises:
    ValueError: the job could not run.
  """
  job = make_job(config)
  if config.initial_weights is not None:
    config.initial_weights.check_path()
  state = jax.tree.map(_on_a_device, abstract_state(job))
  _trace_steps(job, state)
  num_params = sum(leaf.size for leaf in jax.tree.leaves(state.params))
  num_examples = config.data.num_train_examples
  lines = {
    'parameters': f'{num_params:,}',
    'forward FLOPs per example': f'{forward_flops(job):,}',
    'devices': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
    'batch': f'{config.data.batch_size:,} examples, '
    f'{_spelled_share(config)} a device',
    'state per device': _mebibytes(_num_bytes(state)),
    'saved activations per device': 'about '
    f'{_mebibytes(_activations(job, state))}',
    'training examples': f'{num_examples:,}',
    'evaluation examples': f'{config.data.num_eval_examples:,}',
    'steps': f'{job.num_steps:,} '
    f'({job.num_steps * config.data.batch_size / num_examples:.1f} epochs)',
  }
  width = max(map(len, lines))
  return '\n'.join(f'{name:<{width}}  {text}' for name, text in lines.items())


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
    rng = jax.random.key(0)
    _, pullback, _ = jax.vjp(
      lambda params: job.task.loss(params, model_state, rng, batch),
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


def _mebibytes(num_bytes: int) -> str:
  return f'{num_bytes / 2**20:,.1f} MiB'
