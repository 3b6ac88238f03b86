"""How far a run is, for the person who watches it."""

import io
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

_TERMINAL_INTERVAL_SECS = 0.2
_PLAIN_INTERVAL_SECS = 30.0


class Progress:
  """Shows step, metrics, examples per second and time left.

  On a terminal one line is rewritten in place; elsewhere, in a log file say,
  plain lines come at a calm interval, and at the last step. A context manager
  that ends the line.

  Args:
    num_steps: updates of the whole run.
    batch_size: examples of one update over all devices and processes.
    unit: what an example is, in plural.
    is_primary: whether to show anything; only one process of many should.
    stream: where to write; None is standard error.
    clock: a function that returns seconds since some moment.
  """

  def __init__(
    self,
    num_steps: int,
    batch_size: int,
    *,
    unit: str = 'examples',
    is_primary: bool = True,
    stream: io.TextIOBase | None = None,
    clock: Callable[[], float] = time.monotonic,
  ) -> None:
    self._num_steps = num_steps
    self._batch_size = batch_size
    self._unit = unit
    self._is_primary = is_primary
    self._stream = sys.stderr if stream is None else stream
    self._clock = clock
    self._is_terminal = self._stream.isatty()
    self._metrics: dict[str, float] = {}
    self._first: tuple[int, float] | None = None
    self._shown_at: float | None = None

  def __enter__(self) -> 'Progress':
    return self

  def __exit__(self, *_: object) -> None:
    self.end_line()

  def update(self, step: int, metrics: Mapping[str, Any] | None = None) -> None:
    """Shows where the run is, unless it was shown just before.

    The first call starts the clock. Made after the first update, it leaves the
    time of compiling out of the speed.

    Args:
      step: updates done so far.
      metrics: scalars by name, to show from now on; None keeps the last ones.
    """
    if not self._is_primary:
      return
    now = self._clock()
    if self._first is None:
      self._first = (step, now)
    if metrics is not None:
      self._metrics = {name: float(value) for name, value in metrics.items()}
    interval = (
      _TERMINAL_INTERVAL_SECS if self._is_terminal else _PLAIN_INTERVAL_SECS
    )
    if (
      self._shown_at is None
      or now - self._shown_at >= interval
      or step >= self._num_steps
    ):
      self._shown_at = now
      self._show(self._line(step, now))

  def end_line(self) -> None:
    """Leaves the line that is rewritten, so that others can write below."""
    if self._is_terminal and self._shown_at is not None:
      self._stream.write('\n')
      self._stream.flush()
      self._shown_at = None

  def _line(self, step: int, now: float) -> str:
    first_step, first_time = self._first
    parts = [f'step {step}/{self._num_steps} ({step / self._num_steps:.0%})']
    parts += [f'{name} {value:.4g}' for name, value in self._metrics.items()]
    if step > first_step and now > first_time:
      steps_per_sec = (step - first_step) / (now - first_time)
      speed = steps_per_sec * self._batch_size
      parts.append(f'{speed:.4g} {self._unit}/s')
      left = max(self._num_steps - step, 0) / steps_per_sec
      parts.append(f'{_hours_minutes_seconds(left)} left')
    return '  '.join(parts)

  def _show(self, line: str) -> None:
    if self._is_terminal:
      # A line that wraps could not be rewritten; \x1b[K clears what is right
      # of it.
      columns = shutil.get_terminal_size().columns
      self._stream.write(f'\r{line[: columns - 1]}\x1b[K')
    else:
      self._stream.write(f'{line}\n')
    self._stream.flush()


def _hours_minutes_seconds(secs: float) -> str:
  minutes, seconds = divmod(round(secs), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02}:{seconds:02}'
