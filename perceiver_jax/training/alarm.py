"""What people are told of a `WatchState`, and when a run must end."""

from collections.abc import Mapping
from typing import Any

from absl import logging

from perceiver_jax.data.base import train_example_indices
from perceiver_jax.training.config import TrainConfig
from perceiver_jax.training.watch import SKIPPED_UPDATES, WatchState

_MAX_SHOWN = 64


class Alarm:
  """Tells what is new in the watch of a run, and when it must end.

  Args:
    config: of the run.
    watch: on the host, at the start, of which nothing more is said.
  """

  def __init__(self, config: TrainConfig, watch: WatchState) -> None:
    self._config = config
    self._seen = watch
    self._num_skipped = int(watch.num_skipped)
    self._num_in_a_row = int(watch.num_skipped_in_a_row)

  def follow(self, step: int, metrics: Mapping[str, Any]) -> str | None:
    """Takes note of an update; to be called for each, in their order.

    Args:
      step: the number of the update.
      metrics: of it, of which one number is moved to the host.

    Returns:
      Why the run must end, None if it may go on.
    """
    num_skipped = int(metrics[SKIPPED_UPDATES])
    is_skipped = num_skipped > self._num_skipped
    self._num_skipped = num_skipped
    self._num_in_a_row = self._num_in_a_row + 1 if is_skipped else 0
    limit = self._config.watch.max_skipped_in_a_row
    if self._num_in_a_row <= limit:
      return None
    first = step - self._num_in_a_row + 1
    return (
      f'loss and gradient must be finite after at most {limit} updates that '
      f'are not, got {self._num_in_a_row} in a row, from step {first} on. The '
      f'state that is saved is without them. {self.batch_of(first)}'
    )

  def report(self, watch: WatchState) -> None:
    """Logs what is new.

    Args:
      watch: on the host, now.
    """
    seen, self._seen = self._seen, watch
    if count := watch.num_spikes - seen.num_spikes:
      logging.warning(
        'The loss spiked %d times since the last look, lastly in step %d; its '
        'running mean is %.4g now. %s',
        count,
        watch.last_spike,
        watch.loss_mean,
        self.batch_of(int(watch.last_spike)),
      )
    if count := watch.num_skipped - seen.num_skipped:
      logging.warning(
        'Skipped %d updates that were not finite since the last look, lastly '
        'step %d. %s',
        count,
        watch.last_skipped,
        self.batch_of(int(watch.last_skipped)),
      )

  def batch_of(self, step: int) -> str:
    """Says which examples an update saw, of the number `step`, from 1."""
    config = self._config
    indices = train_example_indices(
      config.data, seed=config.seed, step=step - 1
    )
    shown = ', '.join(map(str, indices[:_MAX_SHOWN]))
    if len(indices) > _MAX_SHOWN:
      shown += (
        f' and {len(indices) - _MAX_SHOWN} more, as data.base.'
        f'train_example_indices(seed={config.seed}, step={step - 1}) says'
      )
    return (
      f'Step {step} saw the examples of {config.data.train_split!r} with the '
      f'indices {shown}.'
    )
