"""What goes wrong in a run of days, noticed on the device.

The counters are a part of the training state: they survive a restart, and are
the same on every device and process.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from perceiver_jax.config import Config

SKIPPED_UPDATES = 'skipped_updates'  # The metric of an update.
# A mean over about as many losses; before them nothing counts as a spike.
_MEMORY_STEPS = 50
# Of the mean: a loss that hardly moves has no spikes of less.
_LEAST_DEVIATION = 0.01


class WatchConfig(Config):
  """What a run bears, and what it reports.

  An update whose loss or whose gradient's norm is not finite is skipped: the
  state stays as it is, but for its counters. What they say is logged with the
  metrics.

  Attributes:
    max_skipped_in_a_row: one more update skipped without one made between
      ends the run. A few over a week do no harm, so that these are only
      counted.
    spike_deviations: a loss this many standard deviations above its running
      mean is logged as a spike; None: none is.
  """

  max_skipped_in_a_row: int = 20
  spike_deviations: float | None = 6.0

  def validate(self) -> None:
    super().validate()
    self._validate_at_least(0, 'max_skipped_in_a_row', 'spike_deviations')


class WatchState(NamedTuple):
  """What was noticed so far; a step is the number of an update, from 1.

  Attributes:
    num_skipped: updates skipped in the whole run.
    num_skipped_in_a_row: how many of them just now, 0 after one that was made.
    last_skipped: the step of the last of them, 0 without any.
    num_spikes: spikes of the loss in the whole run.
    last_spike: the step of the last of them, 0 without any.
    loss_mean: running mean of the loss, spikes clipped.
    loss_variance: running mean of the squared distance from it.
  """

  num_skipped: Int[Array, '']
  num_skipped_in_a_row: Int[Array, '']
  last_skipped: Int[Array, '']
  num_spikes: Int[Array, '']
  last_spike: Int[Array, '']
  loss_mean: Float[Array, '']
  loss_variance: Float[Array, '']


def init_watch() -> WatchState:
  """Returns the state before anything was noticed."""
  count, mean = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32)
  return WatchState(count, count, count, count, count, mean, mean)


def watch(
  config: WatchConfig,
  state: WatchState,
  step: Int[Array, ''],
  loss: Float[Array, ''],
  is_finite: Bool[Array, ''],
) -> WatchState:
  """Takes note of an update.

  Args:
    config: what counts as a spike.
    state: what was noticed before.
    step: the number of the update, from 1.
    loss: of its batch.
    is_finite: whether it is made.
  """
  num_losses = step - 1 - state.num_skipped
  distance = loss - state.loss_mean
  is_spike = jnp.zeros((), bool)
  if config.spike_deviations is not None:
    deviation = jnp.maximum(
      jnp.sqrt(state.loss_variance), _LEAST_DEVIATION * jnp.abs(state.loss_mean)
    )
    limit = config.spike_deviations * deviation
    is_spike = is_finite & (num_losses >= _MEMORY_STEPS) & (distance > limit)
    # So that one spike does not hide the next, nor a new level spike for ever.
    distance = jnp.where(is_spike, limit, distance)
  # The plain mean at first; of a finite loss only.
  rate = 1.0 / jnp.minimum(num_losses + 1, _MEMORY_STEPS)
  mean = state.loss_mean + rate * distance
  variance = (1.0 - rate) * (state.loss_variance + rate * distance**2)
  return WatchState(
    num_skipped=state.num_skipped + ~is_finite,
    num_skipped_in_a_row=jnp.where(
      is_finite, 0, state.num_skipped_in_a_row + 1
    ),
    last_skipped=jnp.where(is_finite, state.last_skipped, step),
    num_spikes=state.num_spikes + is_spike,
    last_spike=jnp.where(is_spike, step, state.last_spike),
    loss_mean=jnp.where(is_finite, mean, state.loss_mean),
    loss_variance=jnp.where(is_finite, variance, state.loss_variance),
  )
