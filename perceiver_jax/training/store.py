"""The checkpoints of a directory: Orbax writes them, this names and checks.

A checkpoint lies in `checkpoints/STEP`: `state` with the arrays and `manifest`
with what `perceiver_jax.training.manifest` says of them. It has its name only
when it is complete, so that what a kill leaves is not taken for one. What
proves damaged goes to `damaged_checkpoints/STEP`.
"""

import contextlib
import errno
import json
import logging as python_logging
import os
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from perceiver_jax.buckets import (
  is_in_bucket,
  make_directory,
  os_errors,
  replace_text,
)
from perceiver_jax.training.manifest import (
  DamagedCheckpointError,
  Manifest,
  read_manifest,
)
from perceiver_jax.training.processes import check_same, is_primary, meet

_MANIFEST = 'manifest.json'
_TEMPORARY = '.orbax-checkpoint-tmp'
_COMPLETE = 'commit_success.txt'
# Of a file that may be as good as it was, if only it could be read.
_MAY_PASS = (
  MemoryError,
  PermissionError,
  TimeoutError,
  ConnectionError,
  jax.errors.JaxRuntimeError,
)
_MAY_PASS_NUMBERS = (errno.ESTALE, errno.EMFILE, errno.ENFILE)
_UNREADABLE = (
  'PERMISSION_DENIED',
  'RESOURCE_EXHAUSTED',
  'UNAUTHENTICATED',
  'UNAVAILABLE',
  'DEADLINE_EXCEEDED',
)


class _Manager(ocp.CheckpointManager):
  """Orbax's manager, which leaves JAX's preemption sync point alone.

  Orbax asks whether it is reached at every save, with the step of the run;
  `Pulse` does with the number of its beat. JAX takes either for the same count:
  a notice that comes in between would stop the run at a beat that lies far
  ahead, or has passed.
  """

  def reached_preemption(self, step: int) -> bool:
    """Returns False: a run that is told to stop saves by itself."""
    del step
    return False


class Store:
  """The checkpoints of a directory.

  Every process of a run makes one, and calls all but the reading functions
  together with the others.

  Args:
    root: the directory, an absolute path; made if it does not exist.
    read_only: write nothing.

  Raises:
    ValueError: in all processes, if they do not see the same checkpoints.

  Attributes:
    manifests: those of all good checkpoints, by step.
  """

  def __init__(self, root: epath.Path, *, read_only: bool) -> None:
    self._directory = root / 'checkpoints'
    self._aside = root / 'damaged_checkpoints'
    self._read_only = read_only
    self._found_damage = False
    _quiet_orbax()
    self._warn_of_partial()
    self._manager = self._open()
    self.manifests: dict[int, Manifest] = {}
    damaged = {}
    for step in self.steps():
      try:
        self.manifests[step] = self._read_manifest(step)
      except DamagedCheckpointError as error:
        damaged[step] = error
    # A disk that is shared may show a host what another no longer sees.
    check_same(
      f'what is seen of the checkpoints in {self._directory}',
      f'{sorted(self.manifests)}, damaged {sorted(damaged)}',
    )
    for step, error in damaged.items():
      self.set_aside(step, error)

  def steps(self) -> list[int]:
    """Returns the steps of all complete checkpoints, in order."""
    return sorted(self._manager.all_steps())

  def start(self, step: int, state: Any, manifest: Manifest) -> None:
    """Starts to write; returns once the state may be changed or donated."""
    if self._manager is None:
      self._manager = self._open()
    args = ocp.args.Composite(
      state=ocp.args.StandardSave(state),
      manifest=ocp.args.JsonSave(manifest.sealed()),
    )
    self._manager.save(step, args=args, force=True)

  def wait(self) -> None:
    """Waits for the end of what was started.

    Raises:
      Exception: what went wrong, as Orbax raised it.
    """
    self._manager.wait_until_finished()

  def give_up(self) -> None:
    """Forgets what was started and went wrong, and all that Orbax knows."""
    self.close()
    self._manager = None

  def close(self) -> None:
    """Ends the writing; what went wrong in it is known from `wait`."""
    if self._manager is None:
      return
    for end in (self._manager.wait_until_finished, self._manager.close):
      with contextlib.suppress(Exception):
        end()

  def _read_manifest(self, step: int) -> Manifest:
    """Returns the manifest of a checkpoint; see the function of this name."""
    return read_manifest(self._directory / str(step) / 'manifest' / _MANIFEST)

  def read_state(self, step: int, target: Any) -> Any:
    """Returns the state of a checkpoint, each array as the target has it.

    Raises:
      DamagedCheckpointError: it cannot be read, and never will be.
      Exception: it cannot be read now, as Orbax raised it.
    """
    path = self._directory / str(step) / 'state'
    args = ocp.args.StandardRestore(target)
    with _damage_of(path):
      # The manager would wait for the other processes, even for one that found
      # damage and has gone on.
      return ocp.StandardCheckpointHandler().restore(path, args=args)

  def read_tree(self, step: int) -> Any:
    """Returns the state of a checkpoint in shapes and dtypes, as dicts.

    Raises:
      DamagedCheckpointError: as in `read_state`.
    """
    path = self._directory / str(step) / 'state'
    with _damage_of(path):
      tree = ocp.StandardCheckpointHandler().metadata(path).tree
      return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree
      )

  def newest(self, read: Callable[[int], Any]) -> Any | None:
    """Returns what is read from the newest good checkpoint, None without any.

    Args:
      read: reads that of a step.

    Raises:
      DamagedCheckpointError: there were some, but none is good.
    """
    while self.manifests:
      step = max(self.manifests)
      try:
        return read(step)
      except DamagedCheckpointError as error:
        self.set_aside(step, error)
    self.check_not_all_damaged()
    return None

  def set_aside(self, step: int, error: BaseException | None) -> None:
    """Reports a damaged checkpoint and moves it out of the way.

    Args:
      step: of the checkpoint.
      error: what is wrong, if this process found it.
    """
    self.manifests.pop(step, None)
    self._found_damage = True
    path = self._directory / str(step)
    logging.error(
      'The checkpoint %s is damaged: %s',
      path,
      error or 'another process says why',
    )
    if self._read_only:
      return
    place = _unused(self._aside / str(step))
    meet('before a checkpoint is set aside')
    if is_primary():
      try:
        with os_errors():
          make_directory(self._aside)
          path.rename(place)
        logging.error('It is now %s.', place)
      except OSError as failure:
        logging.error('It could not be set aside: %s', failure)
    meet('after a checkpoint was set aside')
    if self._manager is not None:
      self._manager.reload()

  def check_not_all_damaged(self) -> None:
    """Refuses to take a run whose checkpoints are all damaged for a new one."""
    is_damaged = self._found_damage or (
      self._aside.exists() and any(self._aside.iterdir())
    )
    if is_damaged and not self.manifests:
      raise DamagedCheckpointError(
        f'{self._directory} must hold a good checkpoint, got damaged ones '
        f'alone; to start anew, move {self._aside} away.'
      )

  def replace_manifest(self, step: int, manifest: Manifest) -> None:
    """Describes a checkpoint anew; a kill leaves the old words or the new."""
    self.manifests[step] = manifest
    if not is_primary():
      return
    path = self._directory / str(step) / 'manifest' / _MANIFEST
    try:
      with os_errors():
        replace_text(path, json.dumps(manifest.sealed()))
    except OSError as error:
      logging.warning('%s could not be written: %s', path, error)

  def delete(self, step: int) -> None:
    """Deletes a checkpoint, so that a kill never leaves a part of it."""
    del self.manifests[step]
    if not is_primary():
      return
    path = self._directory / str(step)
    try:
      with os_errors():
        if is_in_bucket(path):
          # Where a rename copies all, it is this file that makes it complete.
          (path / _COMPLETE).unlink(missing_ok=True)
        else:
          # What has this name is removed at the next start.
          path = path.rename(path.with_name(f'{step}{_TEMPORARY}'))
        path.rmtree()
    except OSError as error:
      logging.warning('%s could not be deleted: %s', path, error)

  def forget_vanished(self) -> None:
    """Forgets the checkpoints that someone else has removed."""
    steps = self.steps()
    self.manifests = {s: m for s, m in self.manifests.items() if s in steps}

  def _open(self) -> _Manager:
    options = ocp.CheckpointManagerOptions(
      create=not self._read_only,
      cleanup_tmp_directories=not self._read_only,
      read_only=self._read_only,
      # The metadata that it would read may be damaged.
      lightweight_initialize=True,
      # Otherwise a directory that cannot be made leaves threads that wait for
      # it for minutes, and with them the end of the run.
      async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
    )
    with os_errors():
      return _Manager(
        self._directory, options=options, handler_registry=_handlers()
      )

  def _warn_of_partial(self) -> None:
    if self._read_only or not is_primary() or not self._directory.exists():
      return
    for path in sorted(self._directory.iterdir()):
      if _is_partial(path):
        logging.warning(
          '%s is only a part of a checkpoint and is removed.', path
        )


def check_writable(workdir: str | os.PathLike[str]) -> None:
  """Makes a directory, with its parents, and writes to it once as a trial.

  Raises:
    OSError: it is no directory or cannot be written to.
  """
  workdir = epath.Path(workdir)
  trial = workdir / f'.writable_{uuid.uuid4().hex}'
  try:
    with os_errors():
      make_directory(workdir)
      trial.write_text('')
      trial.unlink()
  except OSError as error:
    reason = error.strerror or ' '.join(str(error).split())
    raise OSError(
      f'workdir must be a directory that can be written to, got {workdir}: '
      f'{reason}.'
    ) from error


def _is_partial(path: epath.Path) -> bool:
  """Returns whether a directory is what a kill in a save has left."""
  if is_in_bucket(path):
    return not (path / _COMPLETE).exists()
  return path.name.endswith(_TEMPORARY)


@contextlib.contextmanager
def _damage_of(path: epath.Path) -> Iterator[None]:
  """Takes what goes wrong in reading for damage, unless it may pass."""
  try:
    with os_errors():
      yield
  except _MAY_PASS:
    raise
  except Exception as error:
    if getattr(error, 'errno', None) in _MAY_PASS_NUMBERS:
      raise
    if any(code in str(error) for code in _UNREADABLE):
      raise
    reason = (str(error).splitlines() or [''])[0][:200]
    raise DamagedCheckpointError(
      f'{path} cannot be read: {type(error).__name__}: {reason}'
    ) from error


def _unused(place: epath.Path) -> epath.Path:
  """Returns a path where nothing is."""
  number, unused = 1, place
  while unused.exists():
    number += 1
    unused = place.with_name(f'{place.name}_{number}')
  return unused


def _handlers() -> ocp.handlers.DefaultCheckpointHandlerRegistry:
  """Says how each part of a checkpoint is written and read."""
  registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
  registry.add('state', ocp.args.StandardSave, ocp.StandardCheckpointHandler())
  registry.add(
    'manifest', ocp.args.JsonSave, ocp.JsonCheckpointHandler(_MANIFEST)
  )
  return registry


def _is_not_of_orbax(record: python_logging.LogRecord) -> bool:
  return f'{os.sep}orbax{os.sep}checkpoint{os.sep}' not in record.pathname


def _quiet_orbax() -> None:
  """Keeps Orbax's reports of each save and restore out of the log.

  What goes wrong it raises besides, and it is reported in a line.
  """
  python_logging.getLogger('absl').addFilter(_is_not_of_orbax)
