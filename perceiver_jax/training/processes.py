"""What the processes of a run agree on."""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils


def is_primary() -> bool:
  """Returns whether this is the process that writes and speaks for all."""
  return jax.process_index() == 0


def anywhere(is_true: bool) -> bool:
  """Returns whether it is true in any process; all must call this."""
  if jax.process_count() == 1:
    return is_true
  return bool(np.any(multihost_utils.process_allgather(np.array(is_true))))


def meet(where: str) -> None:
  """Waits until every process is there."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(where)


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
