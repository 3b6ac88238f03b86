"""An objective that is not finite when a test wants it."""

import jax
import jax.numpy as jnp

from perceiver_jax.tasks.classification import ClassificationTask


class PoisonedTask(ClassificationTask):
  """Has a loss, or a gradient, of NaN for batches with a pixel of 255.

  Attributes:
    has_finite_loss: whether it is the gradient alone.
  """

  has_finite_loss: bool = False

  def make(self, model):
    task = super().make(model)

    def loss(params, state, rng, batch):
      value, (state, metrics) = task.loss(params, state, rng, batch)
      is_poisoned = jnp.any(batch['image'] == 255)
      if self.has_finite_loss:
        # The root has an infinite slope at 0, and 0 times that is NaN.
        value *= jnp.sqrt(jnp.where(is_poisoned, 0.0 * value, 1.0))
      else:
        value = jnp.where(is_poisoned, jnp.nan, value)
      return value, (state, metrics)

    return task._replace(loss=loss)


class LogOfNegativeTask(ClassificationTask):
  """Has the logarithm of a negative number in its third loss, on one device.

  Attributes:
    is_infinite: it is the logarithm of zero instead.
  """

  is_infinite: bool = False

  def make(self, model):
    task = super().make(model)

    def loss(params, state, rng, batch):
      value, (new_state, metrics) = task.loss(params, state, rng, batch)
      # How often the statistics of batch norm were updated.
      count = state['inputs/stem/batch_norm/~/mean_ema']['counter']
      is_last = jax.lax.axis_index('devices') == jax.device_count() - 1
      bad = 0.0 if self.is_infinite else -1.0
      x = jnp.where((count == 2) & is_last, bad, 1.0) + 0.0 * value
      return value - jnp.log(x), (new_state, metrics)

    return task._replace(loss=loss)
