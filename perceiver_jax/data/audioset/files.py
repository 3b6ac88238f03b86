"""Files that are on this machine or in a bucket, such as `gs://...`."""

import contextlib
import os
import tempfile
from collections.abc import Iterator

from etils import epath

from perceiver_jax import whole_files
from perceiver_jax.buckets import is_in_bucket


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[str]:
  """Yields the path of the same file on this machine, the path itself if it is.

  Raises:
    OSError: there is no such file.
  """
  if not is_in_bucket(path):
    yield path
    return
  with tempfile.TemporaryDirectory() as directory:
    copy = os.path.join(directory, epath.Path(path).name)
    epath.Path(path).copy(copy)
    yield copy


@contextlib.contextmanager
def whole_file(path: str) -> Iterator[str]:
  """Yields the path of a local file to write, which becomes `path` at the end.

  As `whole_files.whole_file`, but `path` may lie in a bucket.
  """
  if not is_in_bucket(path):
    with whole_files.whole_file(path) as unfinished:
      yield str(unfinished)
    return
  with tempfile.TemporaryDirectory() as directory:
    unfinished = os.path.join(directory, epath.Path(path).name)
    yield unfinished
    epath.Path(unfinished).copy(path, overwrite=True)


def size_of(path: str) -> int | None:
  """Returns how many bytes a file has, None if there is no such file."""
  if not epath.Path(path).exists():
    return None
  # That of epath fails for files of users without a name, as in containers.
  if not is_in_bucket(path):
    return os.path.getsize(path)
  return epath.Path(path).stat().length


def move_or_link(source: epath.Path, target: epath.Path) -> None:
  """Makes a file be in another place; where it can, it stays in the first too.

  A hard link is made, where there are such; in a bucket the file is moved.
  """
  try:
    os.link(source, target)
  except OSError:
    source.rename(target)


def link_or_copy(source: epath.Path, target: epath.Path) -> None:
  """Makes a file be in a second place: a hard link, or a copy."""
  try:
    os.link(source, target)
  except OSError:
    source.copy(target)
