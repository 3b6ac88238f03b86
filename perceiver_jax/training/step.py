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

from perceiver_jax.arrays import DEVICE_AXIS
from perceiver_jax.tasks.base import Batch, Task, mean_metrics
from perceiver_jax.training.state import TrainState

Scalars = dict[str, jax.Array]


def make_train_step(
  task: Task,
  optimizer: optax.GradientTransformation,
  schedule: optax.Schedule,
  seed: int,
) -> Callable[[TrainState, Batch], tuple[TrainState, Scalars]]:
  """Makes the function that does one update.

  Args:
    task: whose loss is minimised.
    optimizer: turns gradients into updates.
    schedule: the learning rate, to report it.
    seed: of the dropout, which differs by step and device.

  Returns:
    A function of the state, the same on every device, and this device's share
    of the batch. It returns the new state and metrics over the whole batch.
  """

  def train_step(state, batch):
    rng = jax.random.fold_in(jax.random.key(seed), state.step)
    rng = jax.random.fold_in(rng, lax.axis_index(DEVICE_AXIS))
    gradient = jax.value_and_grad(task.loss, has_aux=True)
    (loss, (model_state, metrics)), grads = gradient(
      state.params, state.model_state, rng, batch
    )
    grads, model_state, metrics = _mean_over_devices(
      (grads, model_state, mean_metrics(metrics) | {'loss': loss})
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


def make_eval_step(task: Task) -> Callable[[TrainState, Batch], Scalars]:
  """Makes the function that evaluates one batch.

  Returns:
    A function of the state and this device's share of a batch with a 'mask'.
    It returns, over the whole batch, the sum of every metric over the examples
    that count, and under 'count' their number.
  """

  def eval_step(state, batch):
    mask = batch['mask']
    examples = {key: batch[key] for key in batch if key != 'mask'}
    metrics = task.metrics(state.params, state.model_state, examples)
    # Not a product: an example that does not count may be NaN.
    sums = {
      name: jnp.sum(jnp.where(mask, values, 0.0))
      for name, values in metrics.items()
    }
    return lax.psum(sums | {'count': jnp.sum(mask)}, DEVICE_AXIS)

  return eval_step


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
