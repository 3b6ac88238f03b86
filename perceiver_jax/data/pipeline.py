"""Turns examples into batches with Grain; `base` has what the user calls.

Two sequences say which example is where: `TrainRows` and `EvalRows`. They are
random access and without state, so Grain may cut them into batches, start
anywhere and spread the work over threads or processes.
"""

import functools
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import grain
import numpy as np
from absl import flags

Example = dict[str, np.ndarray]
Preprocess = Callable[[Any, np.random.Generator | None], Example]

# Far more than a run can use; the rows of training have no end.
_NUM_TRAIN_ROWS = 2**62
_MAX_THREADS = 16


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

  def position(self, row: int) -> int:
    """Returns where a row of this process is in the stream of all."""
    step, column = divmod(row, self.per_process)
    first = step * self.batch_size + self.process_index * self.per_process
    return first + column


class Rows(Protocol):
  """The examples of one process in the order in which it needs them."""

  def __len__(self) -> int: ...

  def __getitem__(self, row: int) -> Example: ...


class TrainRows:
  """Epoch after epoch, each in an order of its own."""

  def __init__(
    self,
    source: Sequence[Any],
    preprocess: Preprocess,
    seed: int,
    layout: Layout,
  ):
    self._source = source
    self._preprocess = preprocess
    self._seed = seed
    self._layout = layout

  def __len__(self) -> int:
    return _NUM_TRAIN_ROWS

  def __getitem__(self, row: int) -> Example:
    size = len(self._source)
    epoch, place = divmod(self._layout.position(row), size)
    index = int(epoch_order(size, self._seed, epoch)[place])
    rng = _generator(self._seed, epoch, 1 + index)
    return self._preprocess(self._source[index], rng)


class EvalRows:
  """Every example once, then zeros up to a whole number of batches."""

  def __init__(
    self, source: Sequence[Any], preprocess: Preprocess, layout: Layout
  ):
    self._source = source
    self._preprocess = preprocess
    self._layout = layout
    first = preprocess(source[0], None)
    if 'mask' in first:
      raise ValueError(
        "examples must not have the key 'mask', which evaluation adds, got "
        f'{sorted(first)}.'
      )
    self._padding = {name: np.zeros_like(leaf) for name, leaf in first.items()}

  def __len__(self) -> int:
    num_batches = -(-len(self._source) // self._layout.batch_size)
    return num_batches * self._layout.per_process

  def __getitem__(self, row: int) -> Example:
    position = self._layout.position(row)
    if position >= len(self._source):
      return self._padding | {'mask': np.asarray(False)}
    example = self._preprocess(self._source[position], None)
    return example | {'mask': np.asarray(True)}


def run(
  rows: Rows, layout: Layout, start_step: int, num_workers: int
) -> Iterator[Example]:
  """Yields `rows` as batches `[local_devices, per_device, ...]`, made ahead."""
  batches = (
    grain.MapDataset.source(rows)
    .batch(layout.per_device)
    .batch(layout.local_device_count)
  )
  # Slicing by step, not Grain's iterator state: that depends on the number of
  # workers (grain 0.2.18 restores a wrong batch when it changes).
  threads = 1 if num_workers else min(os.cpu_count() or 1, _MAX_THREADS)
  dataset = batches[start_step:].to_iter_dataset(
    grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
  )
  if num_workers:
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()  # Grain passes some to its workers.
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


def _generator(seed: int, epoch: int, stream: int) -> np.random.Generator:
  """Returns a generator of its own for each of its three arguments.

  The key is (seed, epoch) and the highest word of the 256-bit counter is the
  stream, so that no two generators ever come to the same numbers.
  """
  key = np.array([seed, epoch], np.uint64)
  counter = np.array([0, 0, 0, stream], np.uint64)
  return np.random.Generator(np.random.Philox(counter=counter, key=key))


def _end_with_parent(worker_index: int, worker_count: int) -> None:
  """Makes a worker end when its parent is killed; Grain leaves it running."""
  del worker_index, worker_count
  parent = multiprocessing.parent_process()

  def wait() -> None:
    parent.join()
    os._exit(1)

  threading.Thread(target=wait, name='end-with-parent', daemon=True).start()
