"""Starts the processes of one job on this machine, and waits for all of them.

A process has virtual CPU devices of its own, and meets the others through gloo.
"""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from local_processes import cpu_environment, joining_flags

ROOT = pathlib.Path(__file__).parents[1]
TRAIN = (sys.executable, str(ROOT / 'train.py'))

_POLL_SECS = 0.05


class Ended(NamedTuple):
  """How a process ended; a negative return code is that of a signal."""

  returncode: int
  stdout: str
  stderr: str


class Job:
  """The running processes of a job.

  Attributes:
    processes: in the order of their indices.
  """

  def __init__(self, processes, logs):
    self.processes: list[subprocess.Popen] = processes
    self._logs = logs

  def text(self, index: int, stream: str = 'stderr') -> str:
    """Returns what a process has written so far to `stderr` or `stdout`."""
    return self._log(index, stream).read_text(errors='replace')

  def wait(self, timeout_secs: float) -> list[Ended]:
    """Waits for all processes.

    Raises:
      TimeoutError: one is still running; its message has what all have said.
    """
    deadline = time.monotonic() + timeout_secs
    while any(process.poll() is None for process in self.processes):
      self.check(deadline)
      time.sleep(_POLL_SECS)
    return [
      Ended(process.returncode, self.text(i, 'stdout'), self.text(i))
      for i, process in enumerate(self.processes)
    ]

  def check(self, deadline: float) -> None:
    """Raises TimeoutError with what all have said, after `deadline`."""
    if time.monotonic() < deadline:
      return
    said = [
      f'process {i}, exit code {process.poll()}:\n{self.text(i)}'
      for i, process in enumerate(self.processes)
    ]
    raise TimeoutError('\n'.join(['the job took too long', *said]))

  def kill(self) -> None:
    """Ends what still runs of the job, stopped processes too."""
    for process in self.processes:
      if process.poll() is None:
        process.kill()
      process.wait()

  def _log(self, index: int, stream: str) -> pathlib.Path:
    return self._logs / f'{index}.{stream}'


@contextlib.contextmanager
def start(
  command: Sequence[str],
  *,
  num_processes: int = 1,
  num_devices: int,
  env: Mapping[str, str] | None = None,
) -> Iterator[Job]:
  """Starts a job, and kills at the end of the context what is left of it.

  Args:
    command: a program and its arguments; one of several processes is given the
      flags of `train.py` that make it join the others.
    num_processes: of the job.
    num_devices: virtual CPU devices of each process.
    env: variables of the environment besides those of this process.
  """
  env = _environment(num_devices) | dict(env or {})
  with tempfile.TemporaryDirectory() as logs:
    job = Job([], pathlib.Path(logs))
    try:
      for index, flags in enumerate(joining_flags(num_processes)):
        # Files, for a full pipe would stop one process and so all.
        with (
          job._log(index, 'stdout').open('wb') as stdout,
          job._log(index, 'stderr').open('wb') as stderr,
        ):
          job.processes.append(
            subprocess.Popen(
              [*command, *flags],
              env=env,
              cwd=ROOT,
              stdout=stdout,
              stderr=stderr,
            )
          )
      yield job
    finally:
      job.kill()


def run(
  command: Sequence[str],
  *,
  num_processes: int = 1,
  num_devices: int,
  env: Mapping[str, str] | None = None,
  timeout_secs: float = 170.0,
) -> list[Ended]:
  """Runs a job to its end; see `start`.

  Raises:
    TimeoutError: it took longer; the message has what its processes said.
  """
  with start(
    command, num_processes=num_processes, num_devices=num_devices, env=env
  ) as job:
    return job.wait(timeout_secs)


def signal_when(
  job: Job,
  index: int,
  number: signal.Signals,
  path: pathlib.Path,
  *,
  timeout_secs: float = 120.0,
) -> None:
  """Sends a signal to a process as soon as there is a file at `path`.

  Raises:
    TimeoutError: there is none, after so long or when a process has ended.
  """
  deadline = time.monotonic() + timeout_secs
  while not path.exists():
    has_ended = any(process.poll() is not None for process in job.processes)
    job.check(0.0 if has_ended else deadline)
    time.sleep(_POLL_SECS)
  job.processes[index].send_signal(number)


def _environment(num_devices: int) -> dict[str, str]:
  paths = os.pathsep.join([str(ROOT), str(ROOT / 'tests')])
  return dict(os.environ) | cpu_environment(num_devices) | {'PYTHONPATH': paths}
