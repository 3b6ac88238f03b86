"""Files of a run that a full disk or a lost directory does not end."""

import contextlib
import os
from collections.abc import Callable
from typing import IO, Any

import tensorboardX.record_writer
from absl import logging
from etils import epath

from perceiver_jax.buckets import is_in_bucket

_PREFIX = 'lasting'


class LineFile:
  """A text file that lines are added to; a context manager.

  Lines that cannot be written are reported and kept, and written with the next
  that can, so that the file never holds a part of a line but at its end.

  Args:
    path: the file; made if it does not exist.
  """

  def __init__(self, path: epath.Path) -> None:
    self._path = path
    self._unwritten = ''
    self._file = _opened(path, 'a')
    self._size = 0 if is_in_bucket(path) else path.stat().length

  def add(self, line: str) -> None:
    """Writes a line, which is on disk afterwards unless that fails."""
    was_failing = bool(self._unwritten)
    self._unwritten += line
    try:
      # A file that was removed could be written to all the same.
      if was_failing or not self._path.exists():
        self._repair()
      self._file.write(self._unwritten)
      self._file.flush()
    except OSError as error:
      if not was_failing:
        logging.error('%s cannot be written to: %s', self._path, error)
      return
    self._size += len(self._unwritten.encode())
    self._unwritten = ''
    if was_failing:
      logging.error('%s can be written to again.', self._path)

  def close(self) -> None:
    """Ends the writing; tries once more what could not be written."""
    if self._unwritten:
      self.add('')
    _close(self._file)
    if self._unwritten:
      num_lines = self._unwritten.count('\n')
      logging.error('%d lines of %s are lost.', num_lines, self._path)

  def _repair(self) -> None:
    """Opens the file anew, without what a failure may have left."""
    _close(self._file)
    if self._path.exists():
      if not is_in_bucket(self._path):  # There, files are written whole.
        os.truncate(self._path, self._size)
    else:
      logging.error('%s cannot be written to: it is gone.', self._path)
      self._path.parent.mkdir(parents=True, exist_ok=True)
      self._size = 0
    self._file = _opened(self._path, 'a')


def lasting(directory: str | os.PathLike[str]) -> str:
  """Returns what tensorboardX must be given for files that outlast failures.

  Its own would stop the run, once they cannot be written to: the thread that
  writes them ends, and who gives it more waits forever.
  """
  tensorboardX.record_writer.register_writer_factory(_PREFIX, _Factory)
  return f'{_PREFIX}:{os.fspath(directory)}'


class _Factory:
  """Opens files for tensorboardX."""

  @staticmethod
  def open(path: str) -> '_EventFile':
    return _EventFile(epath.Path(path.removeprefix(f'{_PREFIX}:')))

  @staticmethod
  def directory_check(path: str) -> None:
    directory = epath.Path(path.removeprefix(f'{_PREFIX}:'))
    directory.mkdir(parents=True, exist_ok=True)


class _EventFile:
  """A file of records of which those after a failure are left out."""

  def __init__(self, path: epath.Path) -> None:
    self._path = path
    self._file = _opened(path, 'wb')
    self._has_failed = False

  def write(self, record: bytes) -> None:
    self._unless_failed(lambda: self._file.write(record))

  def flush(self) -> None:
    self._unless_failed(self._file.flush)

  def close(self) -> None:
    self._unless_failed(self._file.flush)
    _close(self._file)

  def _unless_failed(self, action: Callable[[], object]) -> None:
    # A record after a part of one could not be read.
    if self._has_failed:
      return
    try:
      action()
    except OSError as error:
      self._has_failed = True
      logging.error(
        '%s cannot be written to, and misses what follows: %s',
        self._path,
        error,
      )


class _BucketFile:
  """A file in a bucket, where files are only written whole.

  What `epath` opens there is no file but a context, whose end writes it.

  Args:
    path: the file.
    content: what it begins with.

  Raises:
    OSError: it cannot be written, here or in `flush`.
  """

  def __init__(self, path: epath.Path, content: bytes) -> None:
    self._path, self._content = path, bytearray(content)
    self.flush()

  def write(self, data: str | bytes) -> None:
    self._content += data.encode() if isinstance(data, str) else data

  def flush(self) -> None:
    try:
      self._path.write_bytes(bytes(self._content))
    except Exception as error:  # TensorFlow's errors are no OSError.
      raise OSError(str(error)) from error

  def close(self) -> None:
    """Does nothing: what matters was flushed."""


def _opened(path: epath.Path, mode: str) -> IO[Any] | _BucketFile:
  if not is_in_bucket(path):
    return path.open(mode)
  is_kept = mode == 'a' and path.exists()
  return _BucketFile(path, path.read_bytes() if is_kept else b'')


def _close(file: IO[Any] | _BucketFile) -> None:
  # What goes wrong was reported when it was written to.
  with contextlib.suppress(OSError):
    file.close()
