import gc
import subprocess
import sys
import threading
import time

import pytest

from perceiver_jax.data import base


def prefetch_threads():
  return [t for t in threading.enumerate() if t.name == 'prefetch']


def eventually(condition, timeout_secs=5):
  deadline = time.monotonic() + timeout_secs
  while not condition() and time.monotonic() < deadline:
    time.sleep(0.01)
  return condition()


def count(closed):
  """Counts for ever and notes in which thread it was closed."""
  try:
    yield from range(1_000_000)
  finally:
    closed.append(threading.current_thread().name)


def test_prefetch_gives_what_transfer_returns_in_order_and_ends():
  items = base.prefetch(iter(range(20)), lambda item: item * 10, size=3)
  assert list(items) == list(range(0, 200, 10))
  with pytest.raises(StopIteration):
    next(items)
  assert eventually(lambda: not prefetch_threads())


def test_prefetch_runs_ahead_in_a_thread_by_its_size_and_no_further():
  seen = []

  def transfer(item):
    seen.append(threading.current_thread().name)
    return item

  with base.prefetch(iter(range(100)), transfer, size=2):
    assert eventually(lambda: len(seen) == 3)  # Two wait, one is in hand.
    time.sleep(0.3)
    assert seen == ['prefetch'] * 3


@pytest.mark.parametrize('fails', ['iterator', 'transfer'])
def test_prefetch_raises_an_error_after_the_items_before_it(fails):
  def numbers():
    yield 0
    yield 1
    if fails == 'iterator':
      raise KeyError('broken record')
    yield 2

  def transfer(item):
    if item == 2:
      raise KeyError('broken record')
    return item

  items = base.prefetch(numbers(), transfer)
  assert [next(items), next(items)] == [0, 1]
  with pytest.raises(KeyError, match='broken record'):
    next(items)
  assert not prefetch_threads()
  with pytest.raises(StopIteration):
    next(items)


def test_closing_prefetch_ends_the_thread_and_closes_the_iterator():
  closed = []
  numbers = count(closed)  # Held, or it would close by itself.
  items = base.prefetch(numbers, lambda item: item)
  assert next(items) == 0
  items.close()
  assert not prefetch_threads()
  assert closed == ['prefetch']
  with pytest.raises(StopIteration):
    next(items)
  items.close()


def test_dropping_prefetch_ends_the_thread():
  closed = []
  items = base.prefetch(count(closed), lambda item: item)
  next(items)
  del items
  gc.collect()
  assert eventually(lambda: not prefetch_threads())
  assert closed == ['prefetch']


def test_a_program_that_forgets_its_prefetch_still_exits():
  script = (
    'import itertools\n'
    'from perceiver_jax.data.prefetch import prefetch\n'
    'items = prefetch(itertools.count(), str)\n'
    'print(next(items))\n'
  )
  run = subprocess.run(
    [sys.executable, '-c', script], capture_output=True, text=True, timeout=30
  )
  assert (run.returncode, run.stdout, run.stderr) == (0, '0\n', '')


def test_prefetch_refuses_a_size_below_one():
  with pytest.raises(ValueError, match='size must be at least 1, got 0'):
    base.prefetch(iter([]), str, size=0)
