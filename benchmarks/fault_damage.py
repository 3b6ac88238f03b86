"""Damages every file of a checkpoint, one at a time."""

import contextlib
import logging
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from fault_runs import Launcher, differences, good_steps, job_config
from fault_table import Row, Trial

from perceiver_jax.training.job import abstract_state, make_job

_NOTICED = 'noticed, the one before restored'


def damage_rows(
  launcher: Launcher,
  baseline: pathlib.Path,
  num_flips: int,
  rng: np.random.Generator,
) -> list[Row]:
  """Damages every file of the newest checkpoint, one at a time.

  Args:
    launcher: starts runs on some of what was damaged.
    baseline: the directory of a run that was never interrupted.
    num_flips: how many bits of each file are flipped, one at a time.
    rng: decides which.
  """
  workdir = launcher.directory / 'damaged'
  shutil.copytree(baseline, workdir)
  reader = _Reader(workdir, launcher.data_dir)
  newest = reader.steps[-1]
  files = sorted(
    path
    for path in (workdir / 'checkpoints' / str(newest)).rglob('*')
    if path.is_file()
  )
  damages = {
    'a bit flipped': [lambda data: _flipped(data, rng)] * num_flips,
    'cut off in the middle': [lambda data: data[: len(data) // 2]],
    'emptied': [lambda data: b''],
    'removed': [lambda data: None],
  }
  trials = {
    name: [reader.trial(path, change) for path in files for change in changes]
    for name, changes in damages.items()
  }
  needed = [
    path.relative_to(workdir)
    for path, trial in zip(files, trials['emptied'], strict=True)
    if _NOTICED in trial.seen
  ]
  chosen = rng.choice(len(needed), 2, replace=False)
  return [
    *(Row(f'a file of a checkpoint {name}', trials[name]) for name in trials),
    _whole_runs(launcher, baseline, [needed[place] for place in chosen]),
  ]


def _whole_runs(
  launcher: Launcher,
  baseline: pathlib.Path,
  files: list[pathlib.Path],
) -> Row:
  """Goes on from a checkpoint of which a file that is needed is damaged.

  Args:
    launcher: starts the runs.
    baseline: what is damaged is a copy of it.
    files: which, in its directory.
  """
  trials = []
  for number, file in enumerate(files):
    workdir = launcher.directory / f'damaged_{number}'
    shutil.copytree(baseline, workdir)
    newest = good_steps(workdir)[-1]
    (workdir / file).write_bytes(b'')
    run = launcher.start(workdir)
    status = run.wait()
    lost = differences(workdir, baseline) if status == 0 else [run.text]
    if f'checkpoints/{newest} is damaged' not in run.text:
      lost.append(f'nothing was said of the damage:\n{run.text}')
    if not (workdir / 'damaged_checkpoints' / str(newest)).exists():
      lost.append('it was not set aside')
    trials.append(
      Trial(['noticed', 'set aside', 'went on from the one before'], lost)
    )
  return Row('a run goes on from a damaged checkpoint', trials)


class _Reader:
  """Restores the newest good checkpoint of a directory, as a run would.

  Args:
    workdir: the directory.
    data_dir: of the data.

  Attributes:
    steps: of the checkpoints.
  """

  def __init__(self, workdir: pathlib.Path, data_dir: str) -> None:
    self.steps = good_steps(workdir)
    self._workdir = workdir
    self._config = job_config(data_dir)
    self._target = abstract_state(make_job(self._config.copy()))
    self._config_json = self._config.to_json()
    self._good = {step: self._restored(step) for step in self.steps}

  def trial(
    self, path: pathlib.Path, change: Callable[[bytes], bytes | None]
  ) -> Trial:
    """Damages a file, restores, and repairs it."""
    data = path.read_bytes()
    _write(path, change(data))
    records = _Records()
    logging.getLogger('absl').addHandler(records)
    try:
      with _silence():
        state = self._restored()
    except Exception as error:
      return Trial(['failed'], [f'{path}: {type(error).__name__}: {error}'])
    finally:
      logging.getLogger('absl').removeHandler(records)
      path.write_bytes(data)
    step = int(state['step'])
    lost = [] if _equal(state, self._good[step]) else [f'{path}: other numbers']
    if step == self.steps[-1]:
      return Trial(['not needed, the same bits restored'], lost)
    if not any(f'{self.steps[-1]} is damaged' in m for m in records.messages):
      lost.append(f'{path}: nothing was said')
    return Trial([_NOTICED], lost)

  def _restored(self, step: int | None = None) -> Any:
    with self._config.checkpoint.make(
      self._workdir, self._config_json, read_only=True
    ) as checkpointer:
      checkpointer.saved_config_json()
      return checkpointer.restore(self._target, step)._asdict()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
  """Drops what TensorStore says of each of the arrays that it cannot read."""
  stderr = os.dup(2)
  with open(os.devnull, 'wb') as nowhere:
    os.dup2(nowhere.fileno(), 2)
  try:
    yield
  finally:
    os.dup2(stderr, 2)
    os.close(stderr)


class _Records(logging.Handler):
  def __init__(self) -> None:
    super().__init__()
    self.messages: list[str] = []

  def emit(self, record: logging.LogRecord) -> None:
    self.messages.append(record.getMessage())


def _equal(state: Any, other: Any) -> bool:
  leaves, others = jax.tree.leaves(state), jax.tree.leaves(other)
  return len(leaves) == len(others) and all(
    np.asarray(a).tobytes() == np.asarray(b).tobytes()
    for a, b in zip(leaves, others, strict=True)
  )


def _flipped(data: bytes, rng: np.random.Generator) -> bytes:
  """Returns the bytes with one bit changed."""
  if not data:
    return b'\0'
  changed = bytearray(data)
  changed[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
  return bytes(changed)


def _write(path: pathlib.Path, data: bytes | None) -> None:
  if data is None:
    path.unlink()
  else:
    path.write_bytes(data)
