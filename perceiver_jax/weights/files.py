"""Files of arrays: read as a whole or refused, written as a whole or not."""

import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from perceiver_jax.whole_files import whole_file

Path = str | os.PathLike[str]


def read_safetensors(
  path: Path,
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """Returns the arrays of a safetensors file by name, and its metadata.

  Raises:
    OSError: there is no such file, or it cannot be read.
    ValueError: it is damaged, or of another format.
  """
  with open(path, 'rb'):  # Says what is wrong, and with which file.
    pass
  try:
    with safe_open(path, framework='numpy') as file:
      arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
      return arrays, file.metadata() or {}
  # NumPy lacks some of the dtypes of the format, such as bfloat16.
  except (SafetensorError, TypeError, AttributeError) as error:
    raise ValueError(
      f'{path} must be a complete safetensors file of dtypes that NumPy has, '
      f'got: {error}.'
    ) from error


def write_safetensors(
  path: Path, arrays: Mapping[str, Any], metadata: dict[str, str]
) -> None:
  """Writes arrays by name, and metadata; see `write_whole`."""
  # What is not contiguous would be written in the wrong order.
  contiguous = {
    name: np.asarray(array, order='C') for name, array in arrays.items()
  }

  def write(part):
    try:
      save_file(contiguous, part, metadata)
    except SafetensorError as error:
      raise OSError(f'{path} could not be written: {error}.') from error

  write_whole(path, write)


def write_whole(path: Path, write: Callable[[pathlib.Path], None]) -> None:
  """Writes a file so that it is there whole, or as it was before.

  Args:
    path: of the file; what was there is replaced.
    write: is given the path of a new file beside it, and fills that.

  Raises:
    OSError: the file cannot be written.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    raise IsADirectoryError(f'{path} must not be a directory.')
  if not path.parent.is_dir():
    raise FileNotFoundError(f'the directory of {path} must exist.')
  with whole_file(path) as part:
    part.touch()
    mode = part.stat().st_mode
    write(part)
    part.chmod(mode)  # Safetensors makes files that their owner alone reads.
