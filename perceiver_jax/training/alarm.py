"""What people are told of a `WatchState`, and when a run must end."""

from absl import logging

from perceiver_jax.data.base import train_example_indices
from perceiver_jax.training.config import TrainConfig
from perceiver_jax.training.watch import WatchState

_MAX_SHOWN = 64


class Alarm:
  """Tells what is new in the watch of a run.

  Args:
    config: of the run.
    watch: on the host, at the start, of which nothing more is said.
  """

  def __init__(self, config: TrainConfig, watch: WatchState) -> None:
    self._config = config
    self._seen = watch

  def report(self, watch: WatchState) -> str | None:
    """Logs what is new.

    Args:
      watch: on the host, now.

    Returns:
      Why the run must end, None if it may go on.
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
    in_a_row = int(watch.num_skipped_in_a_row)
    limit = self._config.watch.max_skipped_in_a_row
    if in_a_row <= limit:
      return None
    first = int(watch.last_skipped) - in_a_row + 1
    return (
      f'loss and gradient must be finite after at most {limit} updates that '
      f'are not, got {in_a_row} in a row, from step {first} on. The state is '
      f'that before them. {self.batch_of(first)}'
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
