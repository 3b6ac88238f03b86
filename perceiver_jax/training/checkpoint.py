"""Saving the state of a run and going on from it.

Checkpoints lie in `WORKDIR/checkpoints/STEP`. They are written in the
background, and read back before an older one is deleted. What proves damaged
goes to `WORKDIR/damaged_checkpoints`, and the one before takes its place.
"""

import enum
import json
import math
import os
from collections.abc import Collection, Mapping
from typing import Any

import jax
from absl import logging
from etils import epath

from perceiver_jax.buckets import absolute
from perceiver_jax.config import Config
from perceiver_jax.training.compatibility import check_arrays, spelled_arrays
from perceiver_jax.training.manifest import (
  DamagedCheckpointError,
  Manifest,
  checksums,
)
from perceiver_jax.training.processes import anywhere
from perceiver_jax.training.saving import Saved, Saver
from perceiver_jax.training.store import Store, check_writable

Metrics = Mapping[str, float]


class BestMode(enum.Enum):
  """Which value of a metric is the best."""

  MAX = enum.auto()
  MIN = enum.auto()


class CheckpointConfig(Config):
  """When to save and what to keep.

  Attributes:
    every_steps: updates between two checkpoints.
    keep_last: how many of the newest checkpoints stay.
    keep_best: how many of the best stay besides; only checkpoints of states
      that were evaluated count, and NaN counts as worst.
    keep_every_steps: those whose step is a multiple of it stay for good; None:
      none does.
    best_metric: the metric of the evaluation that decides which are best.
    best_mode: whether its largest or its smallest value is the best.
    max_failures: how many saves in a row may fail, for want of space say, while
      the training goes on; one more ends the run, and so does the last save.
  """

  every_steps: int = 1000
  keep_last: int = 3
  keep_best: int = 1
  keep_every_steps: int | None = None
  best_metric: str = 'top_1_accuracy'
  best_mode: BestMode = BestMode.MAX
  max_failures: int = 2

  def validate(self) -> None:
    super().validate()
    self._validate_at_least(1, 'every_steps', 'keep_last')
    self._validate_at_least(0, 'keep_best', 'max_failures')
    period = self.keep_every_steps
    if period is not None and (period < 1 or period % self.every_steps):
      raise ValueError(
        'CheckpointConfig.keep_every_steps must be a multiple of every_steps '
        f'{self.every_steps}, got {period}.'
      )

  def validate_metrics(self, names: Collection[str]) -> None:
    """Checks that the metric that decides is among those of an evaluation.

    Raises:
      ValueError: it is not.
    """
    if self.keep_best and self.best_metric not in names:
      raise ValueError(
        'CheckpointConfig.best_metric must be one of the metrics '
        f'{sorted(names)}, got {self.best_metric!r}.'
      )

  def best_first(self, checkpoints: Mapping[int, Metrics | None]) -> list[int]:
    """Returns the steps that were evaluated, by how good they are.

    Args:
      checkpoints: the metrics of each by step, None if it was not evaluated.
    """

    def quality(step: int) -> tuple[float, int]:
      value = checkpoints[step].get(self.best_metric, math.nan)
      if math.isnan(value):
        return -math.inf, step
      return value if self.best_mode is BestMode.MAX else -value, step

    evaluated = [step for step in checkpoints if checkpoints[step] is not None]
    return sorted(evaluated, key=quality, reverse=True)

  def kept(self, checkpoints: Mapping[int, Metrics | None]) -> set[int]:
    """Returns the steps that stay; see `best_first`."""
    newest = sorted(checkpoints)[-self.keep_last :]
    best = self.best_first(checkpoints)[: self.keep_best]
    period = self.keep_every_steps
    periodic = [s for s in checkpoints if period and s % period == 0]
    return {*newest, *best, *periodic}

  def make(
    self,
    workdir: str | os.PathLike[str],
    config_json: str,
    *,
    read_only: bool = False,
  ) -> 'Checkpointer':
    """Returns the checkpointer of a working directory; see `Checkpointer`."""
    self.validate()
    return Checkpointer(self, workdir, config_json, read_only=read_only)


class Checkpointer:
  """The checkpoints of one run; a context manager that ends their writing.

  Every process of a run makes one and calls it at the same steps; Orbax writes
  each array once.

  A damaged checkpoint is reported and set aside when it is found, which is at
  the start what its manifest shows, and the rest when it is restored.

  Args:
    config: what to keep.
    workdir: the directory of the run; made if it does not exist.
    config_json: the config of the run, saved with every checkpoint.
    read_only: write nothing, not even `workdir`; for an evaluation, which may
      look on while a run is training there.

  Raises:
    OSError: `workdir` cannot be written to, or is not a directory.
    ValueError: the processes of the run do not see the same checkpoints.
  """

  def __init__(
    self,
    config: CheckpointConfig,
    workdir: str | os.PathLike[str],
    config_json: str,
    *,
    read_only: bool = False,
  ) -> None:
    self._config = config
    self._run_config = json.loads(config_json)
    self._workdir = epath.Path(workdir)
    if read_only:
      if self._workdir.exists() and not self._workdir.is_dir():
        raise NotADirectoryError(
          f'workdir must be a directory, got {self._workdir}, a file.'
        )
    else:
      check_writable(self._workdir)
    self._store = Store(absolute(workdir), read_only=read_only)
    self._saver = Saver(self._store)
    self._num_failures = 0
    self._last_failure = ''

  def __enter__(self) -> 'Checkpointer':
    return self

  def __exit__(self, error_type: type | None, *_: object) -> None:
    if error_type is not None and jax.process_count() > 1:
      # The others may never come to where all agree on what was saved, nor,
      # after a collective that failed, to the end of a save.
      is_alone = issubclass(error_type, jax.errors.JaxRuntimeError)
      self._saver.close(wait=not is_alone)
      return
    try:
      self.close()
    except OSError as failure:
      if error_type is None:
        raise
      logging.error('%s', failure)

  def close(self) -> None:
    """Waits for the last save and ends the writing.

    Raises:
      OSError: the last save failed.
    """
    try:
      self._settle()
      if self._num_failures:
        raise OSError(self._last_failure)
    finally:
      self._saver.close()
      self._store.close()

  def latest_step(self) -> int | None:
    """Returns the step of the newest complete checkpoint, None without any."""
    self._settle()
    return max(self._store.manifests, default=None)

  def best_step(self) -> int | None:
    """Returns the step of the best evaluated checkpoint, None without any."""
    self._settle()
    return next(iter(self._config.best_first(self._metrics())), None)

  def is_evaluated(self, step: int) -> bool:
    """Returns whether the state of a checkpoint was evaluated."""
    self._settle()
    return self._store.manifests[step].metrics is not None

  def saved_config_json(self) -> str | None:
    """Returns the config of the newest checkpoint, None without any.

    Raises:
      ValueError: there are none but damaged ones.
    """
    step = self.latest_step()
    if step is None:
      self._store.check_not_all_damaged()
      return None
    return json.dumps(self._store.manifests[step].config, indent=2)

  def save(self, step: int, state: Any, metrics: Metrics | None = None) -> None:
    """Starts to save a state and returns once it may be changed or donated.

    Does nothing if `step` is the newest checkpoint already. A save that fails
    is reported; see `CheckpointConfig.max_failures`.

    Args:
      step: updates done so far; later than that of every saved checkpoint.
      state: a tree of arrays, in a run of many processes of global ones.
      metrics: by name, from an evaluation of this very state; None if it was
        not evaluated.

    Raises:
      ValueError: `step` is not later, or `metrics` lacks the `best_metric`.
      OSError: more saves failed in a row than may.
    """
    latest = self.latest_step()
    if step == latest:
      return
    if latest is not None and step < latest:
      raise ValueError(
        f'step must be later than the newest checkpoint in {self._workdir}, '
        f'{latest}, got {step}.'
      )
    if metrics is not None:
      metrics = self._checked(metrics)
    manifest = Manifest.of(state, self._run_config, metrics)
    self._saver.start(step, state, manifest)

  def add_metrics(self, step: int, metrics: Metrics) -> None:
    """Adds those of an evaluation of a saved state that was not evaluated."""
    self._settle()
    metrics = self._checked(metrics)
    manifest = self._store.manifests[step]._replace(metrics=metrics)
    self._store.replace_manifest(step, manifest)

  def check_fits(self, step: int, target: Any) -> None:
    """Checks, without reading it, that a state has the arrays of a target.

    Raises:
      ValueError: it has others; the message lists them.
    """
    check_arrays(
      self._store.manifests[step].arrays,
      spelled_arrays(target),
      source=f'the checkpoint of step {step} in {self._workdir}',
    )

  def restore(self, target: Any, step: int | None = None) -> Any | None:
    """Returns the state of a checkpoint, None if there is none at all.

    Args:
      target: a tree like the state, of arrays (their values are not used) or
        of `jax.ShapeDtypeStruct`. What is restored has its containers and its
        shardings, so that compiled functions take it as it is; where it has
        none, an array goes to the default device.
      step: which checkpoint; None takes the newest that is not damaged.

    Raises:
      ValueError: there is no checkpoint of `step`, or its arrays differ from
        `target` in names, shapes or dtypes; the message lists them.
      DamagedCheckpointError: that of `step` is damaged, or all are.
    """
    self._settle()
    target = jax.tree.map(_abstract, target)
    if step is None:
      return self._store.newest(lambda step: self._restored(step, target))
    steps = sorted(self._store.manifests)
    if step not in steps:
      raise ValueError(
        f'step must be one of the checkpoints {steps} in {self._workdir}, got '
        f'{step}.'
      )
    return self._restored(step, target)

  def restore_as_saved(self) -> Any | None:
    """Returns the newest state as it lies there, whatever run it was of.

    Named tuples come back as dicts, and arrays on the default device. None if
    there is no checkpoint.

    Raises:
      DamagedCheckpointError: all are damaged.
    """
    self._settle()
    return self._store.newest(self._restored_as_saved)

  def _checked(self, metrics: Metrics) -> dict[str, float]:
    metrics = {name: float(value) for name, value in metrics.items()}
    self._config.validate_metrics(metrics)
    return metrics

  def _restored(self, step: int, target: Any) -> Any:
    self.check_fits(step, target)
    damage = None
    try:
      state = self._store.read_state(step, target)
    except DamagedCheckpointError as error:
      damage = error
    if anywhere(damage is not None):
      raise damage or DamagedCheckpointError('another process found damage')
    self._store.manifests[step].check_values(checksums(state))
    return state

  def _restored_as_saved(self, step: int) -> Any:
    # With places, because those that it was saved with may not exist here.
    target = jax.tree.map(_abstract, self._store.read_tree(step))
    if spelled_arrays(target) != self._store.manifests[step].arrays:
      raise DamagedCheckpointError('it has other arrays than when it was saved')
    return self._restored(step, target)

  def _settle(self) -> None:
    """Waits for a save under way and draws the consequences.

    Raises:
      OSError: more saves failed in a row than may.
    """
    save = self._saver.finish()
    if save is None:
      return
    if save.failed:
      self._note_failure(save)
      return
    if self._num_failures:
      self._store.forget_vanished()
    self._num_failures = 0
    self._store.manifests[save.step] = save.manifest
    kept = self._config.kept(self._metrics())
    for step in self._store.manifests.keys() - kept:
      self._store.delete(step)

  def _note_failure(self, save: Saved) -> None:
    """Counts a save that failed, here or in another process."""
    self._num_failures += 1
    if save.damaged:
      self._store.set_aside(save.step, save.error)
    self._store.give_up()
    newest = max(self._store.manifests, default=None)
    self._last_failure = (
      f'the state of step {save.step} must be saved in {self._workdir}, got '
      f'{_spelled(save.error)}; the last good checkpoint is that of step '
      f'{newest}.'
    )
    if self._num_failures > self._config.max_failures:
      raise OSError(self._last_failure) from save.error
    logging.error(
      'Training goes on; %d saves in a row may fail, %d did. The last good '
      'checkpoint is that of step %s.',
      self._config.max_failures,
      self._num_failures,
      newest,
    )

  def _metrics(self) -> dict[int, Metrics | None]:
    return {
      step: found.metrics for step, found in self._store.manifests.items()
    }


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
  sharding = getattr(leaf, 'sharding', None)
  if sharding is None:
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _spelled(error: BaseException | None) -> str:
  """Returns what went wrong in a line."""
  if error is None:
    return 'an error in another process'
  lines = str(error).splitlines() or ['']
  return f'{type(error).__name__}: {lines[0][:300]}'
