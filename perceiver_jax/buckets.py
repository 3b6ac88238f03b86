"""Paths that may lie in a bucket, such as `gs://...`."""

import os

from etils import epath


def is_in_bucket(path: str | os.PathLike[str]) -> bool:
  """Returns whether a path is no path of the file system."""
  return '://' in os.fspath(path)


def absolute(path: str | os.PathLike[str]) -> epath.Path:
  """Returns the path in a form that holds in any working directory.

  `epath.Path.resolve` does not serve: it makes of `gs://bucket` a directory
  `gs:` below the working directory.
  """
  path = os.fspath(path)
  return epath.Path(path if is_in_bucket(path) else os.path.abspath(path))
