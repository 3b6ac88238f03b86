"""What every data source shares: the batches of a run, for any machine.

A global batch is a function of (seed, step) alone. The order of the examples
is a permutation keyed by (seed, epoch), or a draw of so many by their weights,
and the epochs follow each other in one stream that is cut into batches; the
augmentation of an example is keyed by (seed, epoch, example, how often it came
before). So no state of an iterator is ever saved, and a run sees
the same batches on any number of processes, devices and workers.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from perceiver_jax.config import Config
from perceiver_jax.data import pipeline
from perceiver_jax.data.prefetch import prefetch
from perceiver_jax.data.unreadable import Reader, Source, UnreadableError

__all__ = [
  'ArraySpec',
  'DataConfig',
  'Shard',
  'UnreadableError',
  'eval_batches',
  'prefetch',
  'train_batches',
  'train_example_indices',
]

Batch = dict[str, np.ndarray]


class Shard(NamedTuple):
  """Which part of each global batch this process makes, and its layout.

  Attributes:
    process_index: from 0.
    process_count: how many processes run the job.
    local_device_count: devices of this process, the same on each.
  """

  process_index: int = 0
  process_count: int = 1
  local_device_count: int = 1


@dataclasses.dataclass(frozen=True)
class ArraySpec:
  """The shape and type of an array, as `jax.eval_shape` takes them.

  Attributes:
    shape: its shape.
    dtype: its type.
    num_values: for integers that are in [0, num_values), such as labels.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  num_values: int | None = None


class DataConfig(Config):
  """A data source; subclasses say where examples are and what is made of them.

  Attributes:
    batch_size: examples of a training batch, over all processes.
    eval_batch_size: examples of an evaluation batch, over all processes;
      rounded up to a multiple of the devices, which changes no result.
    train_split: TFDS split expression, such as 'train[:90%]'.
    eval_split: TFDS split expression.
    data_dir: TFDS directory, None for the default one.
    num_workers: processes that make batches; 0 for threads of this one.
    num_threads: how many threads, if there are no workers; each makes a batch
      of its own. More than one pays only where reading and decoding take long
      and release Python's lock.
    max_unreadable: how many examples of a split each process (and each of its
      workers) may leave out because they cannot be read or decoded; each is
      logged by its name. Another takes its place in training; evaluation does
      not count it. One more, or 0, is an error.
  """

  batch_size: int
  eval_batch_size: int
  train_split: str
  eval_split: str
  data_dir: str | None = None
  num_workers: int = 0
  num_threads: int = 4
  max_unreadable: int = 0

  def validate(self) -> None:
    super().validate()
    self._validate_at_least(1, 'batch_size', 'eval_batch_size', 'num_threads')
    self._validate_at_least(0, 'num_workers', 'max_unreadable')
    for name in ('train_split', 'eval_split'):
      if not getattr(self, name):
        raise ValueError(f"{name} must name a split, got ''.")

  def make_source(self, split: str) -> Source:
    """Returns the raw examples of a split, by index, in a fixed order.

    Indexing it raises `UnreadableError` for an example that cannot be read.
    """
    raise TypeError(f'{type(self).__name__} must define make_source.')

  def preprocess(
    self, example: Any, rng: np.random.Generator | None
  ) -> dict[str, np.ndarray]:
    """Returns what the model and the task get of one raw example.

    Names, shapes and types must be the same for every example of a split. In
    evaluation types may be others than in training, for bytes are compact and
    floats are exact, and there may be more clips of an example, if the task
    takes so many.

    Args:
      example: as `make_source` gives it; must not be changed.
      rng: decides the augmentation; None for none, as in evaluation.

    Raises:
      UnreadableError: the example cannot be decoded.
    """
    raise TypeError(f'{type(self).__name__} must define preprocess.')

  def train_weights(self) -> np.ndarray | None:
    """Returns how often training examples come, relative to each other.

    None: each comes once an epoch. Otherwise an epoch has as many examples as
    the split, and one comes as often as its share of the weights says, rounded
    up or down.
    """
    return None

  @property
  def num_train_examples(self) -> int:
    """Size of the training split, counted in the prepared data."""
    return len(self.make_source(self.train_split))

  @property
  def class_names(self) -> tuple[str, ...]:
    """The name of each label, in order; () if there are none."""
    return ()

  @property
  def num_eval_examples(self) -> int:
    """Size of the evaluation split, counted in the prepared data."""
    return len(self.make_source(self.eval_split))

  def element_spec(self, *, is_training: bool = True) -> dict[str, ArraySpec]:
    """Returns the arrays of an example, found by reading one.

    Args:
      is_training: whether it is one to train on or one to evaluate.
    """
    reader = _reader(self, 'train_split' if is_training else 'eval_split')
    rng = np.random.default_rng(0) if is_training else None
    example = reader.read_next(range(len(reader)), rng)
    return {
      name: ArraySpec(np.shape(value), np.asarray(value).dtype)
      for name, value in example.items()
    }


def train_batches(
  config: DataConfig, *, seed: int, start_step: int, shard: Shard
) -> Iterator[Batch]:
  """Returns this process's part of every training batch from a step on.

  Args:
    config: the source.
    seed: in 0..2**63-1, decides order and augmentation.
    start_step: the step whose batch comes first.
    shard: this process's part.

  Returns:
    An endless iterator over batches with leaves `[local_devices, per_device,
    ...]`. Laid out by process, device and row they are the global batch. Its
    `close` ends the threads or processes behind it.

  Raises:
    ValueError: the batch cannot be split evenly, or the data set is missing or
      empty, or an argument is out of range.
  """
  if not 0 <= seed < 2**63:
    raise ValueError(f'seed must be in 0..2**63-1, got {seed}.')
  if start_step < 0:
    raise ValueError(f'start_step must be at least 0, got {start_step}.')
  num_devices = _num_devices(shard)
  if config.batch_size % num_devices:
    raise ValueError(
      'batch_size must be a multiple of process_count * local_device_count = '
      f'{shard.process_count} * {shard.local_device_count} = {num_devices}, '
      f'got {config.batch_size}.'
    )
  layout = pipeline.Layout(*shard, config.batch_size // num_devices)
  return pipeline.run(
    _train_batches(config, seed, layout),
    start_step,
    config.num_workers,
    config.num_threads,
  )


def train_example_indices(
  config: DataConfig, *, seed: int, step: int
) -> list[int]:
  """Returns which examples of the training split a global batch is made of.

  Unreadable ones among them were replaced.

  Args:
    config: the source.
    seed: of `train_batches`.
    step: the batch, from 0.
  """
  layout = pipeline.Layout(*Shard(), config.batch_size)
  return _train_batches(config, seed, layout).indices(step)


def eval_batches(config: DataConfig, *, shard: Shard) -> Iterator[Batch]:
  """Returns this process's part of the batches of one evaluation.

  Every example comes once over all processes and devices, in order, without
  augmentation, but for the few that `max_unreadable` lets be left out. All
  processes get the same number of batches.

  Args:
    config: the source.
    shard: this process's part.

  Returns:
    An iterator over batches with leaves `[local_devices, per_device, ...]` and
    a boolean leaf 'mask' `[local_devices, per_device]`, False where zeros stand
    for no example. Its `close` ends what runs behind it.

  Raises:
    ValueError: the data set is missing or empty, or an argument out of range.
  """
  per_device = -(-config.eval_batch_size // _num_devices(shard))
  layout = pipeline.Layout(*shard, per_device)
  batches = pipeline.EvalBatches(_reader(config, 'eval_split'), layout)
  return pipeline.run(batches, 0, config.num_workers, config.num_threads)


def _train_batches(
  config: DataConfig, seed: int, layout: pipeline.Layout
) -> pipeline.TrainBatches:
  reader = _reader(config, 'train_split')
  return pipeline.TrainBatches(reader, seed, layout, config.train_weights())


def _num_devices(shard: Shard) -> int:
  """Returns the number of devices of all processes, having checked `shard`."""
  if shard.process_count < 1 or shard.local_device_count < 1:
    raise ValueError(f'counts must be at least 1, got {shard}.')
  if not 0 <= shard.process_index < shard.process_count:
    raise ValueError(f'process_index must be in 0..count-1, got {shard}.')
  return shard.process_count * shard.local_device_count


def _reader(config: DataConfig, field: str) -> Reader:
  """Returns the examples of the split that `field` names; there are some."""
  split = getattr(config, field)
  source = config.make_source(split)
  if not len(source):
    raise ValueError(
      f'{field} must have at least one example, got none in {split!r}.'
    )
  return Reader(source, config.preprocess, config.max_unreadable)
