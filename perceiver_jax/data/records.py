"""Random access to data sets that TFDS has prepared, in either format.

`array_record` is made for it; `tfrecord`, in which most people have their
large data sets, is indexed on the fly. TensorFlow itself is never imported.
"""

import bisect
import collections
import contextlib
import itertools
import operator
import os
import re
import resource
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, SupportsIndex

import tensorflow_datasets as tfds
from array_record.python import array_record_data_source
from tensorflow_datasets.core.utils.shard_utils import FileInstruction

from perceiver_jax.data.tfrecord import TFRecordFile
from perceiver_jax.data.unreadable import UnreadableError

# How array_record spells what the operating system said.
_SYSTEM_CALL = re.compile(r'\w+\(\) failed: ')


def prepared_builder(
  name: str, data_dir: str | None, command: str | None = None
) -> tfds.core.DatasetBuilder:
  """Returns the builder of a data set that has been prepared.

  Args:
    name: as TFDS spells it, such as 'mnist' or 'imagenet2012:5.1.0'.
    data_dir: the TFDS directory, None for the default one.
    command: what prepares it, given `--data_dir`; None for that of TFDS.

  Raises:
    ValueError: there is no prepared data.
  """
  try:
    builder = tfds.builder(name, data_dir=data_dir)
  except tfds.core.DatasetNotFoundError:
    builder = None
  if builder is None or not builder.is_prepared():
    place = data_dir or tfds.core.constants.DATA_DIR
    what = 'it'
    if command is None:
      command = f'tfds build {name} --file_format=array_record'
      what = 'one that TFDS knows'
    raise ValueError(
      f'data set {name!r} must be prepared in {place}, got no such data; '
      f'`{command} --data_dir={place}` prepares {what}.'
    )
  return builder


class Records:
  """The decoded examples of a split, by index.

  Args:
    builder: of a data set that has been prepared.
    split: a TFDS split expression, such as 'train[10:200]+train[250:]'.
    decoders: replaces the decoding of some features, as in `tfds.load`:
      `{'image': tfds.decode.SkipDecoding()}` leaves images encoded.

  Raises:
    ValueError: the split does not exist, or the format has no random access.
  """

  def __init__(
    self,
    builder: tfds.core.DatasetBuilder,
    split: str,
    decoders: Mapping[str, Any] | None = None,
  ):
    instructions = _file_instructions(builder, split)
    self._split = split
    self._features = builder.info.features
    self._decoders = decoders
    self._instructions = instructions
    self._ends = list(itertools.accumulate(i.take for i in instructions))
    self._files = _Files(_opener(builder))

  def __len__(self) -> int:
    return self._ends[-1] if self._ends else 0

  def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
    """Returns an example, nested as its features are.

    Raises:
      IndexError: the index is not in 0..len-1.
      UnreadableError: the record cannot be read; the message names file and
        record.
      OSError: the file cannot be, which concerns more than this record.
    """
    index = operator.index(index)
    if not 0 <= index < len(self):
      raise IndexError(f'index must be in 0..{len(self) - 1}, got {index}.')
    number = bisect.bisect_right(self._ends, index)
    instruction = self._instructions[number]
    position = instruction.skip + instruction.take - self._ends[number] + index
    filename = os.fspath(instruction.filename)
    try:
      file = self._files.get(filename, instruction.examples_in_shard)
      return self._features.deserialize_example_np(
        file[position], decoders=self._decoders
      )
    except Exception as error:  # Readers and parsers raise all sorts.
      if isinstance(error, OSError) or _SYSTEM_CALL.match(str(error)):
        raise OSError(f'{filename} must be readable, got {error}') from error
      raise UnreadableError(
        f'record {position} of {filename} (example {index} of split '
        f'{self._split!r}) must be readable, got {type(error).__name__}: '
        f'{error}'
      ) from error


@contextlib.contextmanager
def os_errors() -> Iterator[None]:
  """Makes of the errors of array_record those that a file would have raised.

  Raises:
    OSError: the operating system refused it something, such as a full disk.
  """
  try:
    yield
  except RuntimeError as error:
    if not _SYSTEM_CALL.search(str(error)):
      raise
    raise OSError(' '.join(str(error).split())) from error


def stretches(
  builder: tfds.core.DatasetBuilder, split: str
) -> list[tuple[str, tuple[int, int]]]:
  """Returns what a split expression stands for, in order.

  Args:
    builder: of a data set that has been prepared.
    split: a TFDS split expression.

  Returns:
    Names of whole splits, and the first example in each and the one behind the
    last.

  Raises:
    ValueError: the split does not exist.
  """
  found = []
  for instruction in _file_instructions(builder, split):
    name = os.path.basename(instruction.filename)
    info = tfds.core.naming.FilenameInfo.from_str(name)
    lengths = builder.info.splits[info.split].shard_lengths
    first = sum(lengths[: info.shard_index]) + instruction.skip
    found.append((info.split, (first, first + instruction.take)))
  return found


class _Files:
  """The files of a data set by name; of a thousand, those used last.

  Args:
    open_file: `(file name, its size) -> records as bytes, by position`.
  """

  def __init__(self, open_file: Callable[[str, int], Any]):
    self._open_file = open_file
    self._files: collections.OrderedDict[str, Any] = collections.OrderedDict()

  def get(self, filename: str, num_records: int) -> Any:
    """Returns a file, which closes when nobody has it any more."""
    file = self._files.get(filename)
    if file is None:
      file = self._open_file(filename, num_records)
      file = self._files.setdefault(filename, file)
      if len(self._files) > _most_files(self._open_file):
        self._files.popitem(last=False)
    else:
      with contextlib.suppress(KeyError):  # Another thread may have let it go.
        self._files.move_to_end(filename)
    return file


def _most_files(open_file: Callable[[str, int], Any]) -> int:
  """Returns how many may be open: a quarter of what the system allows.

  The process may read another split, and much else. A TFRecord file is open for
  a moment only, and keeps its index.
  """
  limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
  if open_file is TFRecordFile or limit == resource.RLIM_INFINITY:
    return sys.maxsize
  return max(1, limit // 4)


def _file_instructions(
  builder: tfds.core.DatasetBuilder, split: str
) -> list[FileInstruction]:
  """Returns the stretches of files that hold a split, in order."""
  try:
    return builder.info.splits[split].file_instructions
  except (AssertionError, KeyError, ValueError) as error:
    raise ValueError(
      f'split must be an expression over the splits {list(builder.info.splits)}'
      f' of {builder.info.full_name}, got {split!r}: {error}'
    ) from error


def _opener(builder: tfds.core.DatasetBuilder) -> Callable[[str, int], Any]:
  """Returns `(file name, its size) -> records as bytes, by position`."""
  file_format = builder.info.file_format.value
  if file_format not in _OPENERS:
    raise ValueError(
      f'{builder.info.full_name} must be prepared as one of {FILE_FORMATS}, '
      f'got {file_format!r}.'
    )
  return _OPENERS[file_format]


def _open_array_record(filename: str, num_records: int) -> Any:
  return array_record_data_source.ArrayRecordDataSource(
    f'{filename}[0:{num_records}]'
  )


_OPENERS: dict[str, Callable[[str, int], Any]] = {
  'array_record': _open_array_record,
  'tfrecord': TFRecordFile,
}
FILE_FORMATS = tuple(_OPENERS)
"""Those of TFDS that can be read at random."""
