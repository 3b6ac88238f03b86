"""Saving the state of a run and going on from it.

Checkpoints lie in `WORKDIR/checkpoints/STEP`, each with the state, the config
and, where the state was evaluated, its metrics. They are written by Orbax in
the background and appear under their name only when complete, so that a run
killed during a save goes on from the checkpoint before it.
"""

import enum
import json
import logging
import math
import os
import uuid
from collections.abc import Collection, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import (
  AnyPreservationPolicy,
  BestN,
  LatestN,
)

from perceiver_jax.config import Config
from perceiver_jax.training.compatibility import check_arrays


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
    best_metric: the metric of the evaluation that decides which are best.
    best_mode: whether its largest or its smallest value is the best.
  """

  every_steps: int = 1000
  keep_last: int = 3
  keep_best: int = 1
  best_metric: str = 'top_1_accuracy'
  best_mode: BestMode = BestMode.MAX

  def validate(self) -> None:
    super().validate()
    for name, least in (('every_steps', 1), ('keep_last', 1), ('keep_best', 0)):
      if getattr(self, name) < least:
        raise ValueError(
          f'CheckpointConfig.{name} must be at least {least}, got '
          f'{getattr(self, name)}.'
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

  Args:
    config: what to keep.
    workdir: the directory of the run; made if it does not exist.
    config_json: the config of the run, saved with every checkpoint.
    read_only: write nothing, not even `workdir`; for an evaluation, which may
      look on while a run is training there.

  Raises:
    OSError: `workdir` cannot be written to, or is not a directory.
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
    self._config_json = config_json
    self._workdir = epath.Path(workdir)
    if read_only:
      if self._workdir.exists() and not self._workdir.is_dir():
        raise NotADirectoryError(
          f'workdir must be a directory, got {self._workdir}, a file.'
        )
    else:
      check_writable(self._workdir)
    _quiet_orbax()
    self._manager = ocp.CheckpointManager(
      self._workdir.resolve() / 'checkpoints',
      options=self._options(read_only),
      handler_registry=_handlers(),
    )

  def __enter__(self) -> 'Checkpointer':
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def close(self) -> None:
    """Waits for the last save and ends the writing.

    Raises:
      Exception: what went wrong in the save, as Orbax raised it.
    """
    self._manager.close()

  def latest_step(self) -> int | None:
    """Returns the step of the newest complete checkpoint, None without any."""
    self._manager.wait_until_finished()
    return self._manager.latest_step()

  def best_step(self) -> int | None:
    """Returns the step of the best evaluated checkpoint, None without any."""
    self._manager.wait_until_finished()
    return self._manager.best_step()

  def saved_config_json(self) -> str | None:
    """Returns the config of the newest checkpoint, None without any."""
    step = self.latest_step()
    if step is None:
      return None
    args = ocp.args.Composite(config=ocp.args.JsonRestore())
    return json.dumps(self._manager.restore(step, args=args).config, indent=2)

  def save(
    self, step: int, state: Any, metrics: Mapping[str, float] | None = None
  ) -> None:
    """Starts to save a state and returns once it may be changed or donated.

    Does nothing if `step` is the newest checkpoint already.

    Args:
      step: updates done so far; later than that of every saved checkpoint.
      state: a tree of arrays, in a run of many processes of global ones.
      metrics: by name, from an evaluation of this very state; None if it was
        not evaluated.

    Raises:
      ValueError: `step` is not later, or `metrics` lacks the `best_metric`.
      Exception: what went wrong in the save before, as Orbax raised it.
    """
    if step == self._manager.latest_step():
      return
    if step < (self._manager.latest_step() or 0):
      raise ValueError(
        f'step must be later than the newest checkpoint in {self._workdir}, '
        f'{self._manager.latest_step()}, got {step}.'
      )
    if metrics is not None:
      metrics = {name: float(value) for name, value in metrics.items()}
      self._config.validate_metrics(metrics)
    args = ocp.args.Composite(
      state=ocp.args.StandardSave(state),
      config=ocp.args.JsonSave(json.loads(self._config_json)),
    )
    self._manager.save(step, args=args, metrics=metrics, force=True)

  def restore(self, target: Any, step: int | None = None) -> Any | None:
    """Returns the state of a checkpoint, None if there is none at all.

    Args:
      target: a tree like the state, of arrays (their values are not used) or
        of `jax.ShapeDtypeStruct`. What is restored has its containers and its
        shardings, so that compiled functions take it as it is; where it has
        none, an array goes to the default device.
      step: which checkpoint; None takes the newest.

    Raises:
      ValueError: there is no checkpoint of `step`, or its arrays differ from
        `target` in names, shapes or dtypes; the message lists them.
    """
    self._manager.wait_until_finished()
    steps = sorted(self._manager.all_steps())
    if step is None and not steps:
      return None
    step = steps[-1] if step is None else step
    if step not in steps:
      raise ValueError(
        f'step must be one of the checkpoints {steps} in {self._workdir}, got '
        f'{step}.'
      )
    target = jax.tree.map(_abstract, target)
    # Orbax would cast a wrong dtype without a word.
    check_arrays(
      self._manager.item_metadata(step).state.tree,
      target,
      source=f'the checkpoint of step {step} in {self._workdir}',
    )
    args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
    return self._manager.restore(step, args=args).state

  def restore_as_saved(self) -> Any:
    """Returns the newest state as it lies there, whatever run it was of.

    Named tuples come back as dicts, and arrays on the default device. There
    must be a checkpoint.
    """
    step = self.latest_step()
    target = jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype),
      self._manager.item_metadata(step).state.tree,
    )
    args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
    return self._manager.restore(step, args=args).state

  def _options(self, read_only: bool) -> ocp.CheckpointManagerOptions:
    newest = LatestN(self._config.keep_last)
    best = BestN(
      get_metric_fn=self._quality,
      n=self._config.keep_best,
      # Without it, each checkpoint that was not evaluated would stay.
      keep_checkpoints_without_metrics=False,
    )
    return ocp.CheckpointManagerOptions(
      preservation_policy=AnyPreservationPolicy([newest, best]),
      best_fn=self._quality,  # Without it, Orbax does not save the metrics.
      create=not read_only,
      cleanup_tmp_directories=not read_only,
      read_only=read_only,
    )

  def _quality(self, metrics: Mapping[str, float]) -> float:
    """Returns a number that is the larger, the better the metrics."""
    value = metrics.get(self._config.best_metric, math.nan)
    if math.isnan(value):
      return -math.inf
    return value if self._config.best_mode is BestMode.MAX else -value


def check_writable(workdir: str | os.PathLike[str]) -> None:
  """Makes a directory, with its parents, and writes to it once as a trial.

  Raises:
    OSError: it is no directory or cannot be written to.
  """
  workdir = epath.Path(workdir)
  trial = workdir / f'.writable_{uuid.uuid4().hex}'
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    trial.write_text('')
    trial.unlink()
  except OSError as error:
    raise OSError(
      f'workdir must be a directory that can be written to, got {workdir}: '
      f'{error.strerror}.'
    ) from error


def _handlers() -> ocp.handlers.DefaultCheckpointHandlerRegistry:
  """Says how each part of a checkpoint is written and read."""
  registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
  state = ocp.StandardCheckpointHandler()
  registry.add('state', ocp.args.StandardSave, state)
  registry.add('state', ocp.args.StandardRestore, state)
  config = ocp.JsonCheckpointHandler()
  registry.add('config', ocp.args.JsonSave, config)
  registry.add('config', ocp.args.JsonRestore, config)
  return registry


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
  sharding = getattr(leaf, 'sharding', None)
  if sharding is None:
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _is_no_chatter(record: logging.LogRecord) -> bool:
  is_orbax = f'{os.sep}orbax{os.sep}checkpoint{os.sep}' in record.pathname
  return not is_orbax or record.levelno >= logging.ERROR


def _quiet_orbax() -> None:
  """Keeps Orbax's reports of each save and restore out of the log."""
  logging.getLogger('absl').addFilter(_is_no_chatter)
