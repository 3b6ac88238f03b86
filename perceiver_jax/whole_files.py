"""Files of this machine that are there whole, or as they were before."""

import contextlib
import os
import pathlib
import uuid
from collections.abc import Iterator


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """Yields the path of a new file beside it, which becomes `path` at the end.

  So no one ever finds a half of it there, whenever the program is killed or the
  power is cut, and several may write the same: the last that is whole stays.

  Raises:
    OSError: the file cannot be written.
  """
  path = pathlib.Path(path)
  unfinished = path.with_name(f'.{path.name}.{uuid.uuid4().hex}')
  try:
    yield unfinished
    sync(unfinished)
    unfinished.replace(path)
    sync(path.parent)
  finally:
    unfinished.unlink(missing_ok=True)


def sync(path: str | os.PathLike[str]) -> None:
  """Waits until a file, or the names in a directory, would outlast a power cut.

  Raises:
    OSError: the file cannot be written.
  """
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  except OSError:
    if not os.path.isdir(path):  # Not every file system can do it for these.
      raise
  finally:
    os.close(descriptor)
