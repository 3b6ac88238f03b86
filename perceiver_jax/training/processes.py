"""What the processes of a run agree on."""

import contextlib
import zlib
from collections.abc import Iterator

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from perceiver_jax.buckets import os_errors


def is_primary() -> bool:
  """Returns whether this is the process that writes and speaks for all."""
  return jax.process_index() == 0


def anywhere(is_true: bool) -> bool:
  """Returns whether it is true in any process; all must call this."""
  if jax.process_count() == 1:
    return is_true
  return bool(np.any(multihost_utils.process_allgather(np.array(is_true))))


def texts_of_all(text: str) -> list[str]:
  """Returns what each process gives, in their order; all must call this."""
  if jax.process_count() == 1:
    return [text]
  data = np.frombuffer(text.encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.int32(data.size))
  # One zero at least, for no array may be empty.
  padded = np.pad(data, (0, int(sizes.max()) + 1 - data.size))
  rows = multihost_utils.process_allgather(padded)
  return [
    row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)
  ]


def meet(where: str) -> None:
  """Waits until every process is there."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(where)


def check_same(what: str, text: str) -> None:
  """Checks that all processes have the same text; all must call this.

  Raises:
    ValueError: in all of them, if they do not.
  """
  if jax.process_count() == 1:
    return
  sums = multihost_utils.process_allgather(np.uint32(zlib.crc32(text.encode())))
  if (count := len(set(sums.tolist()))) > 1:
    raise ValueError(
      f'{what} must be the same in all processes of a job, got {count} '
      'different ones.'
    )


@os_errors()
def check_shared(directory: epath.Path) -> None:
  """Checks that all processes see one directory; all must call this.

  Raises:
    ValueError: in all of them, if they do not.
    OSError: the primary process cannot write to it.
  """
  if jax.process_count() == 1:
    return
  trial = directory / '.seen_by_all'
  if is_primary():
    trial.write_text('')
  meet('a file is where all should see it')
  is_hidden = anywhere(not trial.exists())
  if is_primary():
    trial.unlink()
  if is_hidden:
    raise ValueError(
      'workdir must be one directory for all processes of a job, on a disk '
      f'that they share, got {directory}, which is another one for some.'
    )


@contextlib.contextmanager
def primary_first(what: str) -> Iterator[None]:
  """Lets the other processes wait until the primary one has left the context.

  For what only the first has to do, such as to prepare a data set, but each
  does on a disk of its own.
  """
  if not is_primary():
    meet(f'before {what}')
  try:
    yield
  finally:
    # After an error too, so that the others come to theirs.
    if is_primary():
      meet(f'before {what}')
