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
from jaxtyping import Int

from perceiver_jax.arrays import DEVICE_AXIS, AnyArray, Params, Rng, State
from perceiver_jax.tasks.base import Batch, Outcomes, Task, mean_metrics
from perceiver_jax.training.config import TrainConfig
from perceiver_jax.training.sharding import share
from perceiver_jax.training.state import TrainState
from perceiver_jax.training.watch import SKIPPED_UPDATES, watch

Scalars = dict[str, jax.Array]

# Far from the numbers of the keys that the first parameters are drawn with,
# which JAX derives from the same seed: splitting counts up from 0.
_STEPS = 2**31


def make_train_step(
  config: TrainConfig,
  task: Task,
  optimizer: optax.GradientTransformation,
  schedule: optax.Schedule,
) -> Callable[[TrainState, Batch], tuple[TrainState, Scalars]]:
  """Makes the function that does one update.

  An update that is not finite changes nothing but the counters in the state.

  Args:
    config: the rest of what decides the numbers.
    task: whose loss is minimised.
    optimizer: turns gradients into updates.
    schedule: the learning rate, to report it.

  Returns:
    A function of the state, the same on every device but for what is divided
    among them, and this device's share of the batch. It returns the new state
    and metrics over the whole batch.
  """
  gradients = make_gradients(config, task)

  def train_step(state, batch):
    grads, metrics, model_state = gradients(state, batch)
    metrics |= {
      # Of the update that the optimizer counts, which knows of no skipped one.
      'learning_rate': schedule(state.step - state.watch.num_skipped),
      'gradient_norm': optax.tree.norm(grads),
    }
    is_finite = jnp.isfinite(metrics['loss'] + metrics['gradient_norm'])
    updates, optimizer_state = optimizer.update(
      grads, state.optimizer_state, state.params
    )
    params = optax.apply_updates(state.params, updates)
    updated = state._replace(
      params=params,
      model_state=model_state,
      optimizer_state=optimizer_state,
      ema_params=_averaged(config, state, params),
    )
    state = jax.tree.map(
      lambda new, old: jnp.where(is_finite, new, old), updated, state
    )
    step = state.step + 1
    state = state._replace(
      step=step,
      watch=watch(config.watch, state.watch, step, metrics['loss'], is_finite),
    )
    metrics |= {
      SKIPPED_UPDATES: state.watch.num_skipped,
      'loss_spikes': state.watch.num_spikes,
    }
    if config.loss_scaling is not None:
      metrics['loss_scale'] = state.loss_scale.scale
      loss_scale = config.loss_scaling.adjust(state.loss_scale, is_finite)
      state = state._replace(loss_scale=loss_scale)
    if config.log_norms_by_module:
      metrics |= _norms('gradient_norm', grads) | _norms('update_norm', updates)
    return state, metrics

  return train_step


def make_gradients(
  config: TrainConfig, task: Task
) -> Callable[[TrainState, Batch], tuple[Params, Scalars, State]]:
  """Makes the function that returns the gradient over the whole batch.

  Args:
    config: with the seed of augmentation and dropout, which differ by step.
    task: whose loss it is the gradient of.

  Returns:
    A function of the state and this device's share of the batch. It returns
    the gradient, metrics with the loss, and the new running statistics.
  """

  def gradients(state, batch):
    rng = step_rng(config.seed, state.step)
    augment_rng, model_rng = jax.random.split(rng)
    scale = state.loss_scale.scale if config.loss_scaling else 1.0

    def gradient(model_state, part, batch):
      """Returns gradients, metrics and state of a part of the global batch."""
      size = len(jax.tree.leaves(batch)[0])
      positions = part * size + jnp.arange(size)
      batch = task.augment(augment_rng, positions, batch)
      rngs = jax.vmap(jax.random.fold_in, (None, 0))(model_rng, positions)

      def scaled_loss(params):
        loss, (new_state, metrics) = task.loss(params, model_state, rngs, batch)
        return loss * scale, (mean_metrics(metrics) | {'loss': loss}, new_state)

      grads, (metrics, new_state) = jax.grad(scaled_loss, has_aux=True)(
        state.params
      )
      return (grads, metrics), new_state

    (grads, metrics), model_state = _mean_over_devices(
      _mean_over_parts(
        gradient, state.model_state, batch, config.accumulation_steps
      )
    )
    return jax.tree.map(lambda g: g / scale, grads), metrics, model_state

  return gradients


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
    metrics, outcomes = task.metrics(
      state.evaluated_params, state.model_state, examples
    )
    # Not a product: an example that does not count may be NaN.
    sums = {
      name: jnp.sum(jnp.where(mask, values, 0.0))
      for name, values in metrics.items()
    }
    sums = lax.psum(sums | {'count': jnp.sum(mask)}, DEVICE_AXIS)
    return sums, outcomes

  return eval_step


def step_rng(seed: int, step: Int[AnyArray, '']) -> Rng:
  """Returns the key of an update: nothing else in a run draws with it."""
  rng = jax.random.fold_in(jax.random.key(seed), _STEPS)
  return jax.random.fold_in(rng, step)


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


def _averaged(config: TrainConfig, state: TrainState, params: Params) -> Params:
  """Returns the running mean of the parameters, {} if none is kept."""
  if config.ema_decay is None:
    return {}
  if config.shard_optimizer_state:
    params = share(params)
  # It forgets the initial parameters faster than by 1 / (1 - decay) updates.
  count = state.step - state.watch.num_skipped
  decay = jnp.minimum(config.ema_decay, (1.0 + count) / (10.0 + count))
  return optax.incremental_update(params, state.ema_params, 1.0 - decay)


def _norms(prefix: str, tree: Params) -> Scalars:
  """Returns the norm over the arrays of each module."""
  return {
    f'{prefix}/{module}': optax.tree.norm(arrays)
    for module, arrays in tree.items()
  }
