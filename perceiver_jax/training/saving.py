"""Saving in the background, and reading back what was written."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from perceiver_jax.training.manifest import (
  DamagedCheckpointError,
  Manifest,
  checksums,
)
from perceiver_jax.training.processes import anywhere, is_primary
from perceiver_jax.training.store import Store


class Saved(NamedTuple):
  """How a save ended.

  Attributes:
    step: of the state.
    manifest: what describes it.
    failed: whether something went wrong, in this process or in another.
    damaged: whether what was read back is not what was saved.
    error: what went wrong in this process.
  """

  step: int
  manifest: Manifest
  failed: bool
  damaged: bool
  error: BaseException | None


class _Save(NamedTuple):
  step: int
  manifest: Manifest
  done: Future


class Saver:
  """Saves one state at a time; every process calls it at the same steps.

  Args:
    store: where to.
  """

  def __init__(self, store: Store) -> None:
    self._store = store
    self._worker = ThreadPoolExecutor(1)
    self._save: _Save | None = None

  def start(self, step: int, state: Any, manifest: Manifest) -> None:
    """Starts a save and returns once the state may be changed or donated.

    What goes wrong is reported, and known to `finish`, which must have been
    called since the last start.
    """
    target = jax.tree.map(_on_host, state)
    try:
      self._store.start(step, state, manifest)
      done = self._worker.submit(self._complete, step, manifest, target)
    except Exception as error:
      # Kept until the other processes can be told.
      done = Future()
      done.set_exception(error)
    done.add_done_callback(lambda done: _report(step, done.exception()))
    self._save = _Save(step, manifest, done)

  def finish(self) -> Saved | None:
    """Waits for the save; None if none was started since the last call."""
    save, self._save = self._save, None
    if save is None:
      return None
    error = save.done.exception()
    return Saved(
      save.step,
      save.manifest,
      failed=anywhere(error is not None),
      damaged=anywhere(isinstance(error, DamagedCheckpointError)),
      error=error,
    )

  def close(self, *, wait: bool = True) -> None:
    """Ends the thread; after a save under way, if `wait`."""
    self._worker.shutdown(wait=wait)

  def _complete(self, step: int, manifest: Manifest, target: Any) -> None:
    self._store.wait()
    if is_primary():
      manifest.check_values(checksums(self._store.read_state(step, target)))


def _report(step: int, error: BaseException | None) -> None:
  if error is not None:
    logging.error('Saving the state of step %d failed: %s', step, error)
    logging.info('The error in full, for --verbosity=0:', exc_info=error)


def _on_host(leaf: Any) -> np.ndarray:
  """Returns an array of the shape and dtype that takes no memory."""
  if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    leaf = jax.random.key_data(leaf)
  return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)
