"""Makes batches with Grain; `base` has what the user calls.

`TrainBatches` and `EvalBatches` are the batches of one process as sequences:
random access and without state, so Grain may start anywhere and spread the work
over threads or processes.
"""

import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from multiprocessing import resource_tracker
from typing import Any, NamedTuple

import grain
import numpy as np
from absl import flags

from perceiver_jax.data.unreadable import Example, Reader

# Far more than a run can use: training has no end.
_NUM_TRAIN_STEPS = 2**48


class Layout(NamedTuple):
  """How a global batch is laid out over processes and devices."""

  process_index: int
  process_count: int
  local_device_count: int
  per_device: int

  @property
  def per_process(self) -> int:
    return self.per_device * self.local_device_count

  @property
  def batch_size(self) -> int:
    return self.per_process * self.process_count

  def positions(self, step: int) -> range:
    """Returns where this process's rows are in the stream of all batches."""
    first = step * self.batch_size + self.process_index * self.per_process
    return range(first, first + self.per_process)

  def stack(self, examples: Sequence[Example]) -> Example:
    """Returns the examples with leading axes `[local_devices, per_device]`."""
    axes = (self.local_device_count, self.per_device)
    return {
      name: _stacked(name, [example[name] for example in examples], axes)
      for name in examples[0]
    }


class TrainBatches:
  """Epoch after epoch without a gap, each in an order of its own.

  Args:
    reader: of the examples.
    seed: decides order and augmentation.
    layout: of a batch.
    weights: how often examples come, relative to each other; None: each once
      an epoch.
  """

  def __init__(
    self,
    reader: Reader,
    seed: int,
    layout: Layout,
    weights: np.ndarray | None = None,
  ):
    self._reader = reader
    self._seed = seed
    self._layout = layout
    self._weights = weights
    self._drawn: tuple[int, np.ndarray, np.ndarray] | None = None

  def __len__(self) -> int:
    return _NUM_TRAIN_STEPS

  def __getitem__(self, step: int) -> Example:
    positions = self._layout.positions(step)
    return self._layout.stack([self._example(p) for p in positions])

  def indices(self, step: int) -> list[int]:
    """Returns which examples a batch is made of, if all can be read."""
    size = len(self._reader)
    places = [divmod(p, size) for p in self._layout.positions(step)]
    return [int(self._order(epoch)[0][place]) for epoch, place in places]

  def _example(self, position: int) -> Example:
    size = len(self._reader)
    epoch, place = divmod(position, size)
    order, repeats = self._order(epoch)
    stream = 1 + int(order[place]) + size * int(repeats[place])
    rng = _generator(self._seed, epoch, stream)
    example = self._reader.read(int(order[place]), rng)
    if example is None:
      # The next one of the epoch comes twice, augmented in two ways.
      others = np.roll(order, -place - 1)[:-1].tolist()
      example = self._reader.read_next(others, rng)
    return example

  def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the examples of an epoch, and how often each came before."""
    if self._weights is None:
      order = epoch_order(len(self._reader), self._seed, epoch)
      return order, np.broadcast_to(np.int64(0), order.shape)
    drawn = self._drawn  # Threads share this.
    if drawn is None or drawn[0] != epoch:
      drawn = epoch, *weighted_order(self._weights, self._seed, epoch)
      self._drawn = drawn
    return drawn[1:]


class EvalBatches:
  """Every example once, then zeros up to a whole number of batches.

  The examples that cannot be read, if some may be left out, are zeros as well.
  """

  def __init__(self, reader: Reader, layout: Layout):
    self._reader = reader
    self._layout = layout
    first = reader.read_next(range(len(reader)), None)
    if 'mask' in first:
      raise ValueError(
        "examples must not have the key 'mask', which evaluation adds, got "
        f'{sorted(first)}.'
      )
    self._padding = {name: np.zeros_like(leaf) for name, leaf in first.items()}

  def __len__(self) -> int:
    return -(-len(self._reader) // self._layout.batch_size)

  def __getitem__(self, step: int) -> Example:
    positions = self._layout.positions(step)
    return self._layout.stack([self._example(p) for p in positions])

  def _example(self, position: int) -> Example:
    example = None
    if position < len(self._reader):
      example = self._reader.read(position, None)
    if example is None:
      return self._padding | {'mask': np.False_}
    return example | {'mask': np.True_}


def run(
  batches: TrainBatches | EvalBatches,
  start_step: int,
  num_workers: int,
  num_threads: int,
) -> Iterator[Example]:
  """Yields the batches from a step on; they are made ahead.

  Args:
    batches: what to run.
    start_step: the first batch.
    num_workers: processes that make batches; 0 for threads of this one.
    num_threads: how many threads, if there are no workers.
  """
  threads = 1 if num_workers else num_threads
  # Slicing by step, not Grain's iterator state: that depends on the number of
  # workers (grain 0.2.18 restores a wrong batch when it changes).
  dataset = grain.MapDataset.source(batches)[start_step:].to_iter_dataset(
    grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
  )
  if num_workers:
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()  # Grain passes some to its workers.
    _keep_sigterm_from_processes()
    dataset = dataset.mp_prefetch(
      grain.MultiprocessingOptions(num_workers=num_workers),
      worker_init_fn=_end_with_parent,
    )
  iterator = iter(dataset)
  try:
    yield from iterator
  finally:
    iterator.close()


@functools.lru_cache(maxsize=2)
def epoch_order(size: int, seed: int, epoch: int) -> np.ndarray:
  """Returns the order of the examples in an epoch: a permutation."""
  order = _generator(seed, epoch, 0).permutation(size)
  order.flags.writeable = False
  return order


def weighted_order(
  weights: np.ndarray, seed: int, epoch: int
) -> tuple[np.ndarray, np.ndarray]:
  """Draws as many examples as there are, each in proportion to its weight.

  An example comes as often as is expected of it, rounded up or down: drawing is
  systematic, with equal steps through the weights in a random order.

  Args:
    weights: of the examples, not negative, of positive sum.
    seed: decides.
    epoch: decides.

  Returns:
    The examples in the order of the epoch, and how often each came before.
  """
  size = len(weights)
  rng = _generator(seed, epoch, 0)
  shuffled = rng.permutation(size)
  ends = np.cumsum(weights[shuffled])
  ticks = (np.arange(size) + rng.random()) / size
  order = rng.permutation(
    shuffled[np.searchsorted(ends / ends[-1], ticks, side='right')]
  )
  by_example = np.argsort(order, kind='stable')
  _, counts = np.unique(order, return_counts=True)
  repeats = np.empty(size, np.int64)
  firsts = np.repeat(np.cumsum(counts) - counts, counts)
  repeats[by_example] = np.arange(size) - firsts
  return order, repeats


def _stacked(
  name: str, leaves: Sequence[Any], axes: tuple[int, int]
) -> np.ndarray:
  try:
    stacked = np.stack(leaves)
  except ValueError as error:
    shapes = sorted({np.shape(leaf) for leaf in leaves})
    raise ValueError(
      f'{name!r} must have one shape in all examples, got {shapes}.'
    ) from error
  return stacked.reshape(axes + stacked.shape[1:])


def _generator(seed: int, epoch: int, stream: int) -> np.random.Generator:
  """Returns a generator of its own for each of its three arguments.

  The key is (seed, epoch) and the highest word of the 256-bit counter is the
  stream, so that no two generators ever come to the same numbers.
  """
  key = np.array([seed, epoch], np.uint64)
  counter = np.array([0, 0, 0, stream], np.uint64)
  return np.random.Generator(np.random.Philox(counter=counter, key=key))


def _keep_sigterm_from_processes() -> None:
  """Makes what this thread starts deaf to SIGTERM, unless it is the main one.

  It would end a worker before `_end_with_parent` has been called there.
  """
  # Which, when it starts, lets the thread hear it again.
  resource_tracker.ensure_running()
  if threading.current_thread() is not threading.main_thread():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def _end_with_parent(worker_index: int, worker_count: int) -> None:
  """Makes a worker end when its parent does, and not before.

  Grain leaves it running when the parent is killed. SIGTERM, which clusters
  send to all processes of a job, asks the parent to save its state first.
  """
  del worker_index, worker_count
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
  parent = multiprocessing.parent_process()

  def wait() -> None:
    parent.join()
    os._exit(1)

  threading.Thread(target=wait, name='end-with-parent', daemon=True).start()
