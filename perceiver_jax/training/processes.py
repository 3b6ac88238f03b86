"""What the processes of a run agree on."""

import jax
import numpy as np
from jax.experimental import multihost_utils


def anywhere(is_true: bool) -> bool:
  """Returns whether it is true in any process; all must call this."""
  if jax.process_count() == 1:
    return is_true
  return bool(np.any(multihost_utils.process_allgather(np.array(is_true))))


def meet(where: str) -> None:
  """Waits until every process is there."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(where)
