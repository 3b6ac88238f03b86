"""Files of a run that a full disk or a lost directory does not end.

On a disk they are written to at once. In a bucket files are only written whole:
one that grows for days would soon be sent again and again, so it is sent so
rarely that this takes little of the time, and whenever it is asked for.
"""

import contextlib
import os
import time
from collections.abc import Callable
from typing import IO

import tensorboardX.record_writer
from absl import logging
from etils import epath

from perceiver_jax.buckets import is_in_bucket, make_directory, os_errors

_PREFIX = 'lasting'
# Between the end of an upload and the next.
_MIN_SECS = 10.0
_MAX_SHARE_OF_TIME = 0.02


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
    self._is_failing = False
    self._file = _BucketFile(path) if is_in_bucket(path) else _DiskFile(path)

  def add(self, line: str) -> None:
    """Writes a line, which is on disk afterwards unless that fails.

    In a bucket it is there after the next `flush` at the latest.
    """
    self._unwritten += line
    if self._file.is_due():
      self.flush()

  def flush(self) -> None:
    """Writes the lines that have not been written yet."""
    # What is reported here may be a line of this file.
    text, self._unwritten = self._unwritten, ''
    if not text:
      return
    was_failing = self._is_failing
    try:
      self._file.append(text.encode())
    except OSError as error:
      self._unwritten = text + self._unwritten
      self._is_failing = True
      if not was_failing:
        logging.error('%s cannot be written to: %s', self._path, error)
      return
    self._is_failing = False
    if was_failing:
      logging.error('%s can be written to again.', self._path)

  def close(self) -> None:
    """Ends the writing; tries once more what could not be written."""
    self.flush()
    self._file.close()
    if self._unwritten:
      num_lines = self._unwritten.count('\n')
      logging.error('%d lines of %s are lost.', num_lines, self._path)


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
    make_directory(directory)


class _EventFile:
  """A file of records of which those after a failure are left out."""

  def __init__(self, path: epath.Path) -> None:
    self._path = path
    self._file = (
      _BucketFile(path, is_kept=False)
      if is_in_bucket(path)
      else path.open('wb')
    )
    self._has_failed = False

  def write(self, record: bytes) -> None:
    self._unless_failed(lambda: self._file.write(record))

  def flush(self) -> None:
    self._unless_failed(self._file.flush)

  def close(self) -> None:
    self._unless_failed(self._file.close)
    if self._has_failed:
      _close(self._file)

  def _unless_failed(self, action: Callable[[], object]) -> None:
    if self._has_failed:
      return
    try:
      action()
    except OSError as error:
      # A record after a part of one could not be read. A bucket has no parts.
      self._has_failed = not is_in_bucket(self._path)
      misses = ', and misses what follows' if self._has_failed else ''
      logging.error('%s cannot be written to%s: %s', self._path, misses, error)


class _DiskFile:
  """A file that is added to.

  Raises:
    OSError: it cannot be written to, here or in `append`.
  """

  def __init__(self, path: epath.Path) -> None:
    self._path = path
    self._file = path.open('ab')
    self._size = path.stat().length
    self._is_whole = True

  def is_due(self) -> bool:
    return True

  def append(self, data: bytes) -> None:
    # A file that was removed could be written to all the same.
    is_gone = not self._path.exists()
    is_spoilt, self._is_whole = is_gone or not self._is_whole, False
    if is_spoilt:
      self._open_anew(is_gone)
    self._file.write(data)
    self._file.flush()
    self._size += len(data)
    self._is_whole = True
    if is_gone:
      logging.error('%s cannot be written to: it is gone.', self._path)

  def close(self) -> None:
    _close(self._file)

  def _open_anew(self, is_gone: bool) -> None:
    """Opens the file without what a failure may have left."""
    _close(self._file)
    if is_gone:
      make_directory(self._path.parent)
      self._size = 0
    else:
      os.truncate(self._path, self._size)
    self._file = self._path.open('ab')


class _BucketFile:
  """A file in a bucket; what `epath` opens there is a context, and no file.

  Args:
    path: the file.
    is_kept: whether what is there stays, and is added to.

  Raises:
    OSError: it cannot be written; but by `write`, which sends nothing.
  """

  def __init__(self, path: epath.Path, *, is_kept: bool = True) -> None:
    self._path = path
    with os_errors():
      exists = is_kept and path.exists()
      self._content = bytearray(path.read_bytes() if exists else b'')
    self._num_sent = len(self._content) if exists else None
    self._due_secs = 0.0
    self._send()

  def is_due(self) -> bool:
    """Returns whether it is time to send what is new."""
    return time.monotonic() >= self._due_secs

  def append(self, data: bytes) -> None:
    """Sends the file with more at its end, or leaves it as it was."""
    size = len(self._content)
    self._content += data
    try:
      self._send()
    except OSError:
      del self._content[size:]
      raise

  def write(self, data: bytes) -> None:
    """Adds to what the next `flush` may send, and `close` will."""
    self._content += data

  def flush(self) -> None:
    if self.is_due():
      self._send()

  def close(self) -> None:
    self._send()

  def _send(self) -> None:
    if len(self._content) == self._num_sent:
      return
    start = time.monotonic()
    try:
      with os_errors():
        self._path.write_bytes(bytes(self._content))
      self._num_sent = len(self._content)
    finally:
      end = time.monotonic()
      wait_secs = max(_MIN_SECS, (end - start) / _MAX_SHARE_OF_TIME)
      self._due_secs = end + wait_secs


def _close(file: IO[bytes] | _BucketFile) -> None:
  # What goes wrong was reported when it was written to.
  with contextlib.suppress(OSError):
    file.close()
