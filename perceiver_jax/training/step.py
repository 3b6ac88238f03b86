"""One update and one evaluated batch, as seen by a single device.

Both are pure functions that speak to the other devices through `lax` over the
one axis `DEVICE_AXIS`; what runs them on all devices is in `parallel.py`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from perceiver_jax.arrays import DEVICE_AXIS, State
from perceiver_jax.tasks.base import Batch, Outcomes, Task, mean_metrics
from perceiver_jax.training.state import TrainState

Scalars = dict[str, jax.Array]


def make_train_step(
  task: Task,
  optimizer: optax.GradientTransformation,
  schedule: optax.Schedule,
  seed: int,
  accumulation_steps: int,
) -> Callable[[TrainState, Batch], tuple[TrainState, Scalars]]:
  """Makes the function that does one update.

  Args:
    task: whose loss is minimised.
    optimizer: turns gradients into updates.
    schedule: the learning rate, to report it.
    seed: of augmentation and dropout, which differ by step.
    accumulation_steps: parts of the batch whose gradients are computed one
      after the other.

  Returns:
    A function of the state, the same on every device, and this device's share
    of the batch. It returns the new state and metrics over the whole batch.
  """

  def train_step(state, batch):
    rng = jax.random.fold_in(jax.random.key(seed), state.step)
    augment_rng, dropout_rng = jax.random.split(rng)

    def gradient(model_state, part, batch):
      """Returns gradients, metrics and state of a part of the global batch."""
      size = len(jax.tree.leaves(batch)[0])
      positions = part * size + jnp.arange(size)
      batch = task.augment(augment_rng, positions, batch)
      (loss, (model_state, metrics)), grads = jax.value_and_grad(
        task.loss, has_aux=True
      )(state.params, model_state, jax.random.fold_in(dropout_rng, part), batch)
      return (grads, mean_metrics(metrics) | {'loss': loss}), model_state

    (grads, metrics), model_state = _mean_over_devices(
      _mean_over_parts(gradient, state.model_state, batch, accumulation_steps)
    )
    updates, optimizer_state = optimizer.update(
      grads, state.optimizer_state, state.params
    )
    params = optax.apply_updates(state.params, updates)
    metrics |= {
      'learning_rate': schedule(state.step),
      'gradient_norm': optax.tree.norm(grads),
    }
    return (
      TrainState(state.step + 1, params, model_state, optimizer_state),
      metrics,
    )

  return train_step


def make_eval_step(
  task: Task,
) -> Callable[[TrainState, Batch], tuple[Scalars, Outcomes]]:
  """Makes the function that evaluates one batch.

  Returns:
    A function of the state and this device's share of a batch with a 'mask'.
    It returns, over the whole batch, the sum of every metric over the examples
    that count, and under 'count' their number; and the outcomes of this share.
  """

  def eval_step(state, batch):
    mask = batch['mask']
    examples = {key: batch[key] for key in batch if key != 'mask'}
    metrics, outcomes = task.metrics(state.params, state.model_state, examples)
    # Not a product: an example that does not count may be NaN.
    sums = {
      name: jnp.sum(jnp.where(mask, values, 0.0))
      for name, values in metrics.items()
    }
    sums = lax.psum(sums | {'count': jnp.sum(mask)}, DEVICE_AXIS)
    return sums, outcomes

  return eval_step


def _mean_over_parts(
  function: Callable[[State, jax.Array, Batch], tuple[Any, State]],
  model_state: State,
  batch: Batch,
  count: int,
) -> tuple[Any, State]:
  """Averages what a function returns of this device's parts of the batch.

  Args:
    function: of the running statistics, the place of a part among all of the
      global batch, and its examples.
    model_state: the statistics, which go from part to part.
    batch: this device's share.
    count: how many parts it has.
  """
  first = lax.axis_index(DEVICE_AXIS) * count
  if count == 1:
    return function(model_state, first, batch)
  parts = jax.tree.map(lambda a: a.reshape(count, -1, *a.shape[1:]), batch)

  def add(carry, part):
    model_state, sums = carry
    results, model_state = function(model_state, *part)
    return (model_state, jax.tree.map(jnp.add, sums, results)), None

  example = jax.tree.map(lambda a: a[0], parts)
  results, _ = jax.eval_shape(function, model_state, first, example)
  zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), results)
  (model_state, sums), _ = lax.scan(
    add, (model_state, zeros), (first + jnp.arange(count), parts)
  )
  return jax.tree.map(lambda total: total / count, sums), model_state


def _mean_over_devices(tree: Any) -> Any:
  """Averages floating-point leaves; counters are the same on every device."""
  return jax.tree.map(
    lambda leaf: (
      lax.pmean(leaf, DEVICE_AXIS)
      if jnp.issubdtype(leaf.dtype, jnp.floating)
      else leaf
    ),
    tree,
  )
