"""Runs of `train.py` that can be interfered with, and what is left of them.

A process that has imported all that training needs forks each run, because an
import takes longer than the whole job. From then on a run is what the same
command line does elsewhere.
"""

import atexit
import contextlib
import importlib.util
import multiprocessing
import os
import pathlib
import re
import runpy
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from perceiver_jax.training.checkpoint import CheckpointConfig
from perceiver_jax.training.config import TrainConfig
from perceiver_jax.training.metrics import METRICS_FILE, read_metrics
from perceiver_jax.training.speed import SPEED_SPLIT

ROOT = pathlib.Path(__file__).parents[1]
JOB = ROOT / 'benchmarks' / 'faults_job.py'
# Of a machine with much else to do.
_TIMEOUT_SECS = 170.0
_POLL_SECS = 0.002
_STEP_SHOWN = re.compile(r'^step (\d+)/', re.M)
_PRELOADED = (
  'perceiver_jax.data.digits',
  'perceiver_jax.tasks.classification',
  'perceiver_jax.training.dry_run',
  'perceiver_jax.training.loop',
)


class Run:
  """A run under way.

  Args:
    process: that of it.
    workdir: its directory.
    log: the file of what it prints.
  """

  def __init__(
    self,
    process: multiprocessing.process.BaseProcess,
    workdir: pathlib.Path,
    log: pathlib.Path,
  ) -> None:
    self.workdir = workdir
    self._process = process
    self._log = log

  @property
  def text(self) -> str:
    """What it has printed so far."""
    return self._log.read_text() if self._log.exists() else ''

  @property
  def is_alive(self) -> bool:
    """Whether it still runs."""
    return self._process.is_alive()

  def send(self, number: signal.Signals) -> None:
    """Sends a signal, if it still runs."""
    if self._process.is_alive():
      os.kill(self._process.pid, number)

  @contextlib.contextmanager
  def stopped(self) -> Iterator[None]:
    """Lets nothing happen in it."""
    self.send(signal.SIGSTOP)
    try:
      yield
    finally:
      self.send(signal.SIGCONT)

  def wait_for(self, condition: Callable[[], object]) -> bool:
    """Waits until something holds; returns False if the run ended before.

    Raises:
      TimeoutError: neither came about.
    """
    end = time.monotonic() + _TIMEOUT_SECS
    while time.monotonic() < end:
      if condition():
        return True
      if not self._process.is_alive():
        return bool(condition())
      time.sleep(_POLL_SECS)
    self._give_up()

  def wait(self, seconds: float | None = None) -> int | None:
    """Waits for the end, or some seconds; returns the exit status if it ended.

    Raises:
      TimeoutError: it does not end, and no `seconds` were given.
    """
    self._process.join(_TIMEOUT_SECS if seconds is None else seconds)
    if self._process.exitcode is None and seconds is None:
      self._give_up()
    return self._process.exitcode

  def _give_up(self) -> None:
    self._process.kill()
    raise TimeoutError(
      f'{self.workdir.name} must come to its end, got this:\n{self.text}'
    )


class Launcher:
  """Starts runs of the job.

  Args:
    directory: of all that they write.
    data_dir: the TFDS directory; None: in `directory`.
  """

  def __init__(
    self, directory: pathlib.Path, data_dir: str | None = None
  ) -> None:
    self.directory = directory
    self.data_dir = data_dir or str(directory / 'tfds')
    # What is forked from gets these, and its children from it.
    os.environ['JAX_COMPILATION_CACHE_DIR'] = str(directory / 'compiled')
    os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
    self._context = multiprocessing.get_context('forkserver')
    self._context.set_forkserver_preload(list(_PRELOADED))

  def start(
    self,
    workdir: pathlib.Path,
    *flags: str,
    variant: str = '',
    before: Callable[[], None] | None = None,
  ) -> Run:
    """Starts a run, or goes on with it.

    Args:
      workdir: its directory.
      *flags: of the command line, besides the directories.
      variant: of the job.
      before: what the process does first.
    """
    log = self.directory / 'logs' / f'{workdir.name}_{time.time_ns()}'
    log.parent.mkdir(exist_ok=True)
    command = [
      'train.py',
      f'--config={JOB}:{variant}',
      f'--config.data.data_dir={self.data_dir}',
      f'--workdir={workdir}',
      *flags,
    ]
    process = self._context.Process(
      target=_train, args=(command, log, before), daemon=True
    )
    process.start()
    return Run(process, workdir, log)


def _train(
  command: Sequence[str],
  log: pathlib.Path,
  before: Callable[[], None] | None,
) -> None:
  """Does what `python COMMAND` does."""
  file = os.open(log, os.O_WRONLY | os.O_CREAT)
  os.dup2(file, 1)
  os.dup2(file, 2)
  os.chdir(ROOT)
  if before is not None:
    before()
  sys.argv = list(command)
  try:
    runpy.run_path(sys.argv[0], run_name='__main__')
  finally:
    # Which forked processes leave out; JAX takes leave of the others there.
    atexit._run_exitfuncs()


def good_steps(workdir: pathlib.Path) -> list[int]:
  """Returns the steps of the checkpoints that have their final name."""
  names = [path.name for path in (workdir / 'checkpoints').glob('*')]
  return sorted(int(name) for name in names if name.isdecimal())


def first_step(run: Run) -> int | None:
  """Returns the first update that a run has shown; None: it has shown none."""
  shown = _STEP_SHOWN.search(run.text)
  return shown and int(shown[1])


def last_logged_step(workdir: pathlib.Path) -> int:
  """Returns the last update that has a line of metrics, 0 without any."""
  if not (workdir / METRICS_FILE).exists():
    return 0
  lines = metrics(workdir)
  return max((line['step'] for line in lines), default=0)


def newest_state(workdir: pathlib.Path) -> tuple[int, dict[str, np.ndarray]]:
  """Returns the step and the arrays of the newest good checkpoint, by path."""
  with CheckpointConfig(keep_best=0).make(
    workdir, '{}', read_only=True
  ) as checkpointer:
    state = checkpointer.restore_as_saved()
  leaves, _ = jax.tree_util.tree_flatten_with_path(state)
  arrays = {
    jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(leaf)
    for path, leaf in leaves
  }
  return int(state['step']), arrays


def metrics(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the lines of metrics, without those of speed."""
  lines = read_metrics(workdir / METRICS_FILE)
  return [line for line in lines if line['split'] != SPEED_SPLIT]


def differences(
  workdir: pathlib.Path, other: pathlib.Path, *, with_metrics: bool = True
) -> list[str]:
  """Returns in what two finished runs differ, bit for bit; [] if in nothing."""
  (step, arrays), (other_step, others) = map(newest_state, (workdir, other))
  found = []
  if step != other_step:
    found.append(f'the last step, {step} and {other_step}')
  if arrays.keys() != others.keys():
    found.append(f'arrays, {sorted(arrays.keys() ^ others.keys())}')
  found += [
    name
    for name in arrays.keys() & others.keys()
    if arrays[name].tobytes() != others[name].tobytes()
  ]
  if with_metrics and repr(metrics(workdir)) != repr(metrics(other)):
    found.append('lines of metrics')
  return found


def job_config(data_dir: str, variant: str = '') -> TrainConfig:
  """Returns the config of the job, as `Launcher.start` runs it."""
  spec = importlib.util.spec_from_file_location('faults_job', JOB)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config(variant)
  config.data.data_dir = data_dir
  return config
