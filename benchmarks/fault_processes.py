"""Kills one process of two, and goes on with another number of them."""

import functools
import os
import pathlib
import re
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fault_runs import (
  Launcher,
  Run,
  differences,
  first_step,
  good_steps,
  metrics,
)
from fault_table import Row, Trial, tried
from local_processes import cpu_environment, joining_flags

# The step whose checkpoint is the last before the fault.
_STEP = 10
_NUM_STEPS = 30
# JAX hears of a process that is gone from its connection, or gives it 100 s.
_MAX_SECS = 150.0
# Ours, or that of JAX if it hears of it first, or that of Gloo, the collectives
# of CPUs, which ends the process itself if it is left amid several sums.
MESSAGE = re.compile(
  'Another process of the job may have ended|another task died|'
  'gloo::EnforceNotMet'
)
# Relative, of losses: sums in another order, over some updates of Adam.
_TOLERANCE = 1e-4


class _Layout(NamedTuple):
  """On how many processes of how many devices a job runs."""

  num_processes: int
  num_devices: int

  def __str__(self) -> str:
    return f'{self.num_processes} x {self.num_devices}'

  @property
  def name(self) -> str:
    """A name for files."""
    return f'{self.num_processes}x{self.num_devices}'


_ONE, _TWO = _Layout(1, 8), _Layout(2, 4)


def process_rows(launcher: Launcher) -> list[Row]:
  """Runs the job with two processes, and with one, on eight devices.

  Args:
    launcher: starts the processes.
  """
  whole = {}
  for layout in (_ONE, _TWO):
    whole[layout] = launcher.directory / layout.name
    if failure := _finish(_start(launcher, whole[layout], layout)):
      raise RuntimeError(f'the run without faults must succeed, got {failure}')
  killed = [
    tried(_one_killed, launcher, whole[_TWO], index)
    for index in range(_TWO.num_processes)
  ]
  return [
    Row('SIGKILL to one of two processes', killed),
    *(
      Row(
        f'begun on {before} devices, ended on {after}',
        [tried(_moved, launcher, whole[before], before, after)],
      )
      for before, after in ((_ONE, _TWO), (_TWO, _ONE))
    ),
  ]


def _one_killed(launcher: Launcher, whole: pathlib.Path, index: int) -> Trial:
  """Kills a process of a job, and starts the job again."""
  workdir = launcher.directory / f'process_{index}_killed'
  runs = _start(launcher, workdir, _TWO)
  other = runs[1 - index]
  other.wait_for(lambda: max(good_steps(workdir), default=0) >= _STEP)
  start = time.monotonic()
  runs[index].send(signal.SIGKILL)
  status = other.wait(_MAX_SECS)
  seconds = time.monotonic() - start
  lost = []
  if runs[index].wait() != -signal.SIGKILL:
    lost.append(f'it had ended before it was killed:\n{runs[index].text}')
  if status in (None, 0) or not MESSAGE.search(other.text):
    lost.append(f'the other ended with {status}:\n{other.text}')
    other.send(signal.SIGKILL)
  seen = [
    'the other ended with a message',
    f'ended after {seconds:.0f} s',
    'started again, both went on',
  ]
  if failure := _finish(_start(launcher, workdir, _TWO)):
    return Trial(seen, [*lost, failure])
  return Trial(seen, lost + differences(workdir, whole))


def _moved(
  launcher: Launcher, whole: pathlib.Path, before: _Layout, after: _Layout
) -> Trial:
  """Goes on from the middle of a run with another layout."""
  workdir = launcher.directory / f'{before.name}_{after.name}'
  shutil.copytree(whole, workdir)
  for step in good_steps(workdir):
    if step > _STEP:
      shutil.rmtree(workdir / 'checkpoints' / str(step))
  runs = _start(launcher, workdir, after)
  if failure := _finish(runs):
    return Trial(['failed'], [failure])
  lost = []
  if (first := first_step(runs[0])) != _STEP + 1:
    lost.append(f'went on with step {first} after step {_STEP}')
  losses, expected = map(_losses, (workdir, whole))
  if losses.keys() != expected.keys():
    return Trial(['went on'], [*lost, 'the lines of metrics are others'])
  error = max(abs(losses[key] / expected[key] - 1) for key in losses)
  if not error <= _TOLERANCE:
    lost.append(f'losses differ by {error:.1e}')
  return Trial(
    ['went on', f'relative differences of losses up to {error:.0e}'], lost
  )


def _losses(workdir: pathlib.Path) -> Mapping[tuple[int, str], float]:
  """Returns the losses of a run by step and split."""
  return {(m['step'], m['split']): m['loss'] for m in metrics(workdir)}


def _start(
  launcher: Launcher, workdir: pathlib.Path, layout: _Layout
) -> list[Run]:
  """Starts the processes of a job."""
  environment = cpu_environment(layout.num_devices)
  return [
    launcher.start(
      workdir,
      f'--config.num_steps={_NUM_STEPS}',
      f'--config.checkpoint.keep_last={_NUM_STEPS}',
      *flags,
      before=functools.partial(_set_environment, environment),
    )
    for flags in joining_flags(layout.num_processes)
  ]


def _set_environment(variables: Mapping[str, str]) -> None:
  os.environ.update(variables)


def _finish(runs: Sequence[Run]) -> str:
  """Waits for all processes; returns what was printed if one failed."""
  if any([run.wait() for run in runs]):
    return '\n'.join(run.text for run in runs)
  return ''
