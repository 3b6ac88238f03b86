"""From the config of a job to the functions that run it."""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from perceiver_jax.data.base import Shard, prefetch
from perceiver_jax.data.prefetch import Prefetcher
from perceiver_jax.flops import count_flops
from perceiver_jax.tasks.base import Batch, Metrics, Outcomes, Task
from perceiver_jax.training import parallel
from perceiver_jax.training.config import TrainConfig
from perceiver_jax.training.processes import check_same, primary_first
from perceiver_jax.training.state import TrainState, init_state
from perceiver_jax.training.step import make_train_step


class Job(NamedTuple):
  """What a config makes before anything is computed.

  Attributes:
    config: the config, frozen.
    num_steps: updates of the whole run; 0 if nothing is trained.
    task: the pure functions of the objective.
    optimizer: the gradient transformation.
    schedule: the learning rate by step.
    device_batch: shapes of one device's share of a training batch.
  """

  config: TrainConfig
  num_steps: int
  task: Task
  optimizer: optax.GradientTransformation
  schedule: optax.Schedule
  device_batch: dict[str, jax.ShapeDtypeStruct]


def make_job(config: TrainConfig, *, is_training: bool = True) -> Job:
  """Checks a config against its data and devices, and makes what runs it.

  Args:
    config: is frozen by this.
    is_training: whether updates will be made, which the devices must share
      evenly; evaluation goes with any devices, and without a training split.

  Raises:
    ValueError: the config is inconsistent, or does not suit the data or the
      devices.
  """
  config.validate()
  config.freeze()
  check_same('the config', config.to_json())
  batch_size = config.data.batch_size
  parts = jax.device_count() * config.accumulation_steps
  if is_training and batch_size % parts:
    times = f' times the {config.accumulation_steps} accumulation_steps'
    raise ValueError(
      f'batch_size must be divisible by the {jax.device_count()} devices'
      f'{times if config.accumulation_steps > 1 else ""}, got {batch_size}.'
    )
  with primary_first('the data set is prepared'):
    spec = config.data.element_spec(is_training=is_training)
  config.task.validate_spec(spec, config.model)
  if not config.data.num_eval_examples:
    raise ValueError(
      'eval_split must have at least one example, got none in '
      f'{config.data.eval_split!r}.'
    )
  num_steps, schedule = 0, optax.constant_schedule(0.0)
  if is_training:
    num_examples = config.data.num_train_examples
    num_steps = config.steps(num_examples)
    schedule = config.optimizer.schedule.make(
      batch_size=batch_size,
      steps_per_epoch=num_examples / batch_size,
      num_steps=num_steps,
    )
  per_device = max(1, batch_size // jax.device_count())
  task = config.task.make(config.model)
  device_batch = {
    name: jax.ShapeDtypeStruct((per_device, *array.shape), array.dtype)
    for name, array in spec.items()
  }
  config.checkpoint.validate_metrics(_metric_names(task, device_batch))
  optimizer = config.optimizer.make(
    schedule, shard_state=config.shard_optimizer_state
  )
  job = Job(config, num_steps, task, optimizer, schedule, device_batch)
  if is_training:
    loss_batch(job)  # Augmentation checks what it gets.
  return job


def train_step(job: Job) -> Callable:
  """Returns the per-device function of one update; see `make_train_step`."""
  return make_train_step(job.config, job.task, job.optimizer, job.schedule)


def loss_batch(job: Job) -> Batch:
  """Returns shapes and dtypes of what the loss gets at a time on a device."""
  part = {
    name: jax.ShapeDtypeStruct(
      (array.shape[0] // job.config.accumulation_steps, *array.shape[1:]),
      array.dtype,
    )
    for name, array in job.device_batch.items()
  }
  num_examples = jax.tree.leaves(part)[0].shape[0]
  return jax.eval_shape(
    lambda batch: job.task.augment(
      jax.random.key(0), jnp.arange(num_examples), batch
    ),
    part,
  )


def forward_flops(job: Job) -> int:
  """Returns the FLOPs of the model for one example, as published."""
  one = {
    name: jax.ShapeDtypeStruct((1, *array.shape[1:]), array.dtype)
    for name, array in job.device_batch.items()
  }
  inputs = jax.eval_shape(job.task.inputs, one)
  return count_flops(job.config.model, inputs)


def _metric_names(task: Task, device_batch: Batch) -> list[str]:
  """Returns the names of the metrics of an evaluation, evaluating nothing."""

  def evaluated(batch: Batch) -> tuple[Metrics, Outcomes]:
    return task.metrics(*task.init(jax.random.key(0), batch), batch)

  metrics, outcomes = jax.eval_shape(evaluated, device_batch)
  names = list(metrics)
  if task.split_metrics is not None:
    names += task.split_metrics(
      {name: np.zeros(a.shape, a.dtype) for name, a in outcomes.items()}
    )
  return names


def first_state(job: Job) -> TrainState:
  """Returns the state before the first update, on every device."""
  # Compiled as a whole, so that it is born where the steps expect it.
  places = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(job))
  init = jax.jit(functools.partial(_init, job), out_shardings=places)
  return parallel.as_local(init())


def abstract_state(job: Job) -> TrainState:
  """Returns shapes, dtypes and places of the state as a checkpoint holds it."""
  state = jax.eval_shape(functools.partial(_init, job))
  placed = parallel.placed_globally(state)
  if not job.config.shard_optimizer_state:
    return placed
  divided = parallel.placed_globally(state, is_divided=True)
  return placed._replace(
    optimizer_state=divided.optimizer_state, ema_params=divided.ema_params
  )


def _init(job: Job) -> TrainState:
  """Returns the first state in plain shapes, to be compiled."""
  batch = {
    name: jnp.zeros(array.shape, array.dtype)
    for name, array in job.device_batch.items()
  }
  return init_state(
    jax.random.key(job.config.seed),
    job.task,
    job.optimizer,
    batch,
    has_ema=job.config.ema_decay is not None,
    loss_scaling=job.config.loss_scaling,
  )


def device_batches(job: Job, batches: Iterator[Batch]) -> Prefetcher:
  """Checks batches and moves them to the devices, ahead of their use."""

  def transfer(batch: dict[str, np.ndarray]) -> Batch:
    job.config.task.validate_batch(batch, job.config.model)
    return parallel.put_batch(batch)

  return prefetch(batches, transfer)


def this_process() -> Shard:
  """Returns this process's share of every batch."""
  return Shard(
    jax.process_index(), jax.process_count(), jax.local_device_count()
  )
