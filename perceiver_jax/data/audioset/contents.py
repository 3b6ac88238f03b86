"""What is in every example of a split, known without reading them."""

import logging
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from jaxtyping import Bool, Float, Int

from perceiver_jax.data import records

_log = logging.getLogger(__name__)


class ExampleContents(NamedTuple):
  """What is in one example.

  Attributes:
    has_audio: whether there is sound.
    has_video: whether there are pictures.
    labels: indices of its classes.
  """

  has_audio: bool
  has_video: bool
  labels: Sequence[int]


class Contents(NamedTuple):
  """What is in examples, in their order.

  Attributes:
    has_audio: whether there is sound.
    has_video: whether there are pictures.
    num_labels: how many labels an example has.
    labels: those of the first example, then those of the second, ...
  """

  has_audio: Bool[np.ndarray, ' N']
  has_video: Bool[np.ndarray, ' N']
  num_labels: Int[np.ndarray, ' N']
  labels: Int[np.ndarray, ' L']

  @classmethod
  def joined(cls, examples: Iterable[ExampleContents]) -> 'Contents':
    """Returns the contents of examples, in their order."""
    examples = list(examples)
    return cls(
      np.array([example.has_audio for example in examples], bool),
      np.array([example.has_video for example in examples], bool),
      np.array([len(example.labels) for example in examples], np.int64),
      np.array([i for example in examples for i in example.labels], np.int32),
    )

  @classmethod
  def concatenated(cls, parts: Iterable['Contents']) -> 'Contents':
    """Returns the contents of one part after the other."""
    return cls(*map(np.concatenate, zip(cls.joined(()), *parts, strict=True)))

  def of(self, indices: Int[np.ndarray, ' M']) -> 'Contents':
    """Returns the contents of some of the examples."""
    counts = self.num_labels[indices]
    firsts = (np.cumsum(self.num_labels) - self.num_labels)[indices]
    within = np.arange(counts.sum()) - np.repeat(
      np.cumsum(counts) - counts, counts
    )
    return Contents(
      self.has_audio[indices],
      self.has_video[indices],
      counts,
      self.labels[np.repeat(firsts, counts) + within],
    )

  def class_balance(self) -> Float[np.ndarray, ' N']:
    """Returns how likely examples are, if first a class is drawn.

    The class is uniform among those that any of the examples has, and the
    example uniform among those that have the class.
    """
    counts = np.bincount(self.labels)
    owners = np.repeat(np.arange(len(self.num_labels)), self.num_labels)
    shares = np.bincount(
      owners,
      weights=1.0 / counts[self.labels],
      minlength=len(self.num_labels),
    )
    return shares / np.count_nonzero(counts)


def contents_of(builder: tfds.core.DatasetBuilder, split: str) -> Contents:
  """Returns what is in the examples of a split.

  Args:
    builder: of prepared data with features as those of `audioset`.
    split: a TFDS split expression.

  Raises:
    ValueError: there is no such split.
  """
  return Contents.concatenated(
    _contents_of_whole(builder, name).of(np.arange(*stretch))
    for name, stretch in records.stretches(builder, split)
  )


def save(
  contents: Contents, directory: str | os.PathLike[str], split: str
) -> None:
  """Writes the contents of a whole split beside its data.

  Args:
    contents: of all examples of the split.
    directory: of the prepared data.
    split: such as 'eval'.

  Raises:
    OSError: the directory cannot be written to.
  """
  path = _path(directory, split)
  # Renamed, for others may be reading or writing the same.
  unfinished = path.with_name(f'{path.name}.{uuid.uuid4().hex}')
  with unfinished.open('wb') as file:
    np.savez_compressed(file, **contents._asdict())
  unfinished.rename(path)


_cache: dict[tuple[str, str], Contents] = {}


def _contents_of_whole(
  builder: tfds.core.DatasetBuilder, split: str
) -> Contents:
  """Returns the contents of a split; reads it all if nobody wrote them down."""
  directory = os.fspath(builder.data_path)
  if (directory, split) not in _cache:
    path = _path(directory, split)
    if path.exists():
      with path.open('rb') as file:
        contents = Contents(**np.load(file))
    else:
      contents = _found(builder, split)
      try:
        save(contents, directory, split)
      except OSError as error:
        _log.warning('%s is not kept: %s', path, error)
    _cache[directory, split] = contents
  return _cache[directory, split]


def _found(builder: tfds.core.DatasetBuilder, split: str) -> Contents:
  """Reads the examples of a split to see what is in them."""
  source = records.Records(builder, split)
  _log.warning(
    'Reading all %d examples of %s of %s, once, to see what is in them.',
    len(source),
    split,
    builder.data_path,
  )

  def examples() -> Iterator[ExampleContents]:
    for index in range(len(source)):
      example = source[index]
      yield ExampleContents(
        len(example['audio']) > 0,
        len(example['video']) > 0,
        [int(label) for label in example['labels']],
      )

  return Contents.joined(examples())


def _path(directory: str | os.PathLike[str], split: str) -> epath.Path:
  return epath.Path(directory) / f'{split}_contents.npz'
