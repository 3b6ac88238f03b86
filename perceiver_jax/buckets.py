"""Paths that may lie in a bucket, such as `gs://...`."""

import contextlib
import os
from collections.abc import Iterator

from etils import epath

# Who reads and writes there. Their errors are told by where they come from, so
# that a run on a disk imports none of them.
_CLIENTS = ('tensorflow.', 'google.api_core.', 'google.auth.', 'google.cloud.')
_OS_ERRORS = {
  'NotFoundError': FileNotFoundError,
  'NotFound': FileNotFoundError,
  'AlreadyExistsError': FileExistsError,
  'PermissionDeniedError': PermissionError,
  'UnauthenticatedError': PermissionError,
  'Forbidden': PermissionError,
  'Unauthorized': PermissionError,
  'DefaultCredentialsError': PermissionError,
  'InvalidArgumentError': OSError,
  'OutOfRangeError': OSError,
  'DataLossError': OSError,
}
_MAX_CHARACTERS = 300


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


def make_directory(path: epath.Path) -> None:
  """Makes a directory with its parents, if it does not exist.

  A bucket has none, and in one that does not exist TensorFlow would look for
  the parents for ever.

  Raises:
    OSError: it cannot be made.
  """
  if not is_in_bucket(path):
    path.mkdir(parents=True, exist_ok=True)


def replace_text(path: epath.Path, text: str) -> None:
  """Writes a file anew; a kill leaves the old text or the new.

  Raises:
    OSError: it cannot be written; the old text stays.
  """
  written = path.with_name(f'{path.name}.tmp')
  written.write_text(text)
  written.replace(path)


@contextlib.contextmanager
def os_errors() -> Iterator[None]:
  """Makes what the clients of buckets raise what a disk would have raised.

  Raises:
    OSError: one of them raised an error that is none; the message is a line.
      A `FileNotFoundError`, `FileExistsError` or `PermissionError` where it is
      known to be that, a `ConnectionError` where it may pass.
  """
  try:
    yield
  except OSError:
    raise
  except Exception as error:
    kind = type(error)
    if not kind.__module__.startswith(_CLIENTS):
      raise
    text = ' '.join(str(error).split())[:_MAX_CHARACTERS]
    as_os_error = _OS_ERRORS.get(kind.__name__, ConnectionError)
    raise as_os_error(f'{kind.__name__}: {text}') from error
