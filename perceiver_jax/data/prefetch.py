"""Runs an iterator ahead of its consumer."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

Item = TypeVar('Item')
Moved = TypeVar('Moved')

_POLL_SECS = 0.1


def prefetch(
  iterator: Iterator[Item], transfer: Callable[[Item], Moved], size: int = 2
) -> 'Prefetcher[Moved]':
  """Transfers the items of an iterator ahead, in a background thread.

  Args:
    iterator: only the thread calls it from now on; the thread closes it.
    transfer: such as one that puts a batch on the devices; the thread calls it.
    size: how many transferred items may wait.

  Returns:
    An iterator over what `transfer` returned, in order. An exception of either
    is raised to its consumer after the items before it. Its `close`, which
    leaving it as a context calls, ends the thread and closes `iterator`.
  """
  if size < 1:
    raise ValueError(f'size must be at least 1, got {size}.')
  return Prefetcher(iterator, transfer, size)


class Prefetcher(Generic[Moved]):
  """What `prefetch` returns.

  Attributes:
    wait_secs: how long its consumer has waited for items so far.
  """

  def __init__(
    self,
    iterator: Iterator[Item],
    transfer: Callable[[Item], Moved],
    size: int,
  ):
    self.wait_secs = 0.0
    self._items: queue.Queue[Any] = queue.Queue(size)
    self._stop = threading.Event()
    # The thread must not hold `self`, or a dropped instance would never end.
    # It is not a daemon: one killed inside a transfer may abort the process.
    self._thread = threading.Thread(
      target=_run,
      args=(iterator, transfer, self._items, self._stop),
      name='prefetch',
    )
    self._thread.start()

  def __iter__(self) -> 'Prefetcher':
    return self

  def __next__(self) -> Moved:
    if self._stop.is_set():
      raise StopIteration
    start = time.monotonic()
    item, error = self._items.get()
    self.wait_secs += time.monotonic() - start
    if error is None:
      return item
    self.close()
    raise error

  def close(self) -> None:
    """Ends the thread and waits for it; the items that waited are lost."""
    self._stop.set()
    self._thread.join()

  def __enter__(self) -> 'Prefetcher':
    return self

  def __exit__(self, *exception: object) -> None:
    self.close()

  def __del__(self) -> None:
    self._stop.set()


def _run(
  iterator: Iterator[Item],
  transfer: Callable[[Item], Moved],
  items: queue.Queue[Any],
  stop: threading.Event,
) -> None:
  """Puts `(item, None)`, and at the end `(None, exception)`."""
  try:
    for item in iterator:
      if not _put(items, (transfer(item), None), stop):
        return
    _put(items, (None, StopIteration()), stop)
  except Exception as error:  # Whatever it is, the consumer gets it.
    _put(items, (None, error), stop)
  finally:
    close = getattr(iterator, 'close', None)
    if close is not None:
      close()


def _put(items: queue.Queue[Any], item: Any, stop: threading.Event) -> bool:
  """Returns whether there was a place before somebody asked to stop."""
  while not stop.is_set() and threading.main_thread().is_alive():
    try:
      items.put(item, timeout=_POLL_SECS)
    except queue.Full:
      continue
    return True
  return False
