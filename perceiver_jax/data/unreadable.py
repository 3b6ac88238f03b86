"""Reads examples, and leaves out the few that cannot be read."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import grain
import numpy as np

Source = grain.sources.RandomAccessDataSource
"""Raw examples by index: it has `len(source)` and `source[index]`."""

Example = dict[str, np.ndarray | np.generic]
Preprocess = Callable[[Any, np.random.Generator | None], Example]

_log = logging.getLogger(__name__)


class UnreadableError(ValueError):
  """An example cannot be read or decoded; the message says which, and why."""


class Reader:
  """The preprocessed examples of a source.

  Args:
    source: raw examples by index. Reading one may raise `UnreadableError`, and
      so may preprocessing it.
    preprocess: from a raw example to what the model and the task get.
    max_unreadable: how many examples may be left out; one more raises.
  """

  def __init__(
    self, source: Source, preprocess: Preprocess, max_unreadable: int
  ):
    self._source = source
    self._preprocess = preprocess
    self._max_unreadable = max_unreadable
    self._unreadable: set[int] = set()

  def __len__(self) -> int:
    return len(self._source)

  def read(self, index: int, rng: np.random.Generator | None) -> Example | None:
    """Returns an example, or None for one of the few that are left out.

    Raises:
      UnreadableError: more than `max_unreadable` examples are unreadable.
    """
    try:
      return self._preprocess(self._source[index], rng)
    except UnreadableError as error:
      self._leave_out(index, error)
      return None

  def read_next(
    self, indices: Sequence[int], rng: np.random.Generator | None
  ) -> Example:
    """Returns the first readable of the examples at `indices`.

    Raises:
      UnreadableError: more than `max_unreadable` examples are unreadable, or
        all of these.
    """
    for index in indices:
      example = self.read(index, rng)
      if example is not None:
        return example
    raise UnreadableError('one example at least must be readable, got none.')

  def _leave_out(self, index: int, error: UnreadableError) -> None:
    # Threads share this; what `raise` depends on is right in any order.
    is_new = index not in self._unreadable  # Not so in a later epoch.
    self._unreadable.add(index)
    count = len(self._unreadable)
    if count > self._max_unreadable:
      raise UnreadableError(
        f'at most max_unreadable = {self._max_unreadable} examples may be '
        f'unreadable, got one more at index {index}: {error}'
      ) from error
    if is_new:
      _log.warning(
        'Left out unreadable example %d, %d of at most %d: %s',
        index,
        count,
        self._max_unreadable,
        error,
      )
