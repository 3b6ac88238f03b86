"""Takes space, permission and the directory itself away from runs."""

import contextlib
import ctypes
import os
import pathlib
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator

from fault_runs import Launcher, Run, differences, good_steps, newest_state
from fault_table import Row, Trial, tried

# Some checkpoints of the job, of 100 KB each, and what lies beside them.
_DISK_BYTES = 4 * 2**20
# The step whose checkpoint is the last before the fault.
_STEP = 20
_NUM_FAILURES = 3
_FAILURE = re.compile(r'Saving the state of step (\d+) failed')
_BALLAST = 'ballast'


def disk_rows(launcher: Launcher, baseline: pathlib.Path) -> list[Row]:
  """Takes away, and mostly gives back, what runs write to.

  Args:
    launcher: starts them.
    baseline: the directory of a run that was never interrupted.
  """
  rows = []
  disk = launcher.directory / 'disk'
  with _small_disk(disk) as why_not:
    for fault, try_it in (
      ('the disk is full for a while', _full_for_a_while),
      ('the disk stays full', _full_to_the_end),
    ):
      trials = [] if why_not else [tried(try_it, launcher, baseline, disk)]
      rows.append(Row(fault, trials, why_not))
  for fault, try_it in (
    ('no permission to write for a while', _without_permission),
    ('the directory is removed', _removed),
  ):
    rows.append(Row(fault, [tried(try_it, launcher, baseline)]))
  return rows


def _full_for_a_while(
  launcher: Launcher, baseline: pathlib.Path, disk: pathlib.Path
) -> Trial:
  workdir = disk / 'for_a_while'
  run = launcher.start(workdir, '--config.checkpoint.max_failures=9')
  return _taken_for_a_while(
    run, baseline, lambda: _fill(disk), (disk / _BALLAST).unlink
  )


def _without_permission(launcher: Launcher, baseline: pathlib.Path) -> Trial:
  workdir = launcher.directory / 'forbidden'
  run = launcher.start(
    workdir,
    '--config.checkpoint.max_failures=9',
    before=obey_permissions,
  )
  checkpoints = workdir / 'checkpoints'
  return _taken_for_a_while(
    run,
    baseline,
    lambda: checkpoints.chmod(0o500),
    lambda: checkpoints.chmod(0o700),
  )


def _taken_for_a_while(
  run: Run,
  baseline: pathlib.Path,
  take: Callable[[], object],
  give_back: Callable[[], object],
) -> Trial:
  """Takes something away from a run until some saves have failed."""
  _take(run, take)
  run.wait_for(lambda: len(_FAILURE.findall(run.text)) >= _NUM_FAILURES)
  lost = []
  with run.stopped():
    step, _ = newest_state(run.workdir)
    failed = [int(step) for step in _FAILURE.findall(run.text)]
    if f'last good checkpoint is that of step {step}.' not in run.text:
      lost.append(f'that of step {step} is the newest:\n{run.text}')
    give_back()
  if (status := run.wait()) != 0:
    return Trial([f'ended with {status}'], [*lost, run.text])
  lost += differences(run.workdir, baseline)
  if len(failed) < _NUM_FAILURES:
    lost.append(f'only {len(failed)} saves failed')
  seen = [f'{len(failed)} saves failed and were reported']
  return Trial([*seen, 'trained on', 'saved again'], lost)


def _full_to_the_end(
  launcher: Launcher, baseline: pathlib.Path, disk: pathlib.Path
) -> Trial:
  workdir = disk / 'to_the_end'
  run = launcher.start(workdir)
  _take(run, lambda: _fill(disk))
  lost, ends = [], [run.wait()]
  step, _ = newest_state(workdir)
  if f'last good checkpoint is that of step {step}.' not in run.text:
    lost.append(f'that of step {step} is the newest:\n{run.text}')
  full = launcher.start(workdir)
  ends.append(full.wait())
  if 0 in ends or newest_state(workdir)[0] != step:
    lost.append(f'with {ends} it ended on a full disk:\n{full.text}')
  (disk / _BALLAST).unlink()
  again = launcher.start(workdir)
  if again.wait() != 0:
    return Trial([f'ended with {again.wait()}'], [*lost, again.text])
  lost += differences(workdir, baseline)
  return Trial(
    [
      'ended, naming the last good checkpoint',
      'again when started on the full disk',
      'went on there with space',
    ],
    lost,
  )


def _removed(launcher: Launcher, baseline: pathlib.Path) -> Trial:
  workdir = launcher.directory / 'removed'
  run = launcher.start(workdir)
  _take(run, lambda: shutil.rmtree(workdir))
  if (status := run.wait()) != 0:
    return Trial([f'ended with {status}'], [run.text])
  lost = differences(workdir, baseline, with_metrics=False)
  if 'it is gone' not in run.text:
    lost.append(f'nothing was said:\n{run.text}')
  return Trial(['reported', 'made again', 'trained and saved on'], lost)


def _take(run: Run, take: Callable[[], object]) -> None:
  """Takes something away from a run that has some checkpoints."""
  run.wait_for(lambda: _STEP in good_steps(run.workdir))
  with run.stopped():
    take()


def _fill(disk: pathlib.Path) -> None:
  """Leaves no byte on a disk."""
  with (
    contextlib.suppress(OSError),
    (disk / _BALLAST).open('wb', buffering=0) as file,
  ):
    while file.write(bytes(4096)):
      pass


@contextlib.contextmanager
def _small_disk(directory: pathlib.Path) -> Iterator[str]:
  """Makes a directory a disk of a few MB; yields why not if it cannot."""
  directory.mkdir()
  command = ['mount', '-t', 'tmpfs', '-o', f'size={_DISK_BYTES}', 'tmpfs']
  try:
    subprocess.run(
      [*command, directory], check=True, capture_output=True, text=True
    )
  except (OSError, subprocess.CalledProcessError) as error:
    reason = getattr(error, 'stderr', None) or str(error)
    yield f'mounting a tmpfs needs root ({reason.strip()})'
    return
  try:
    yield ''
  finally:
    subprocess.run(['umount', '--lazy', directory], check=True)


def obey_permissions() -> None:
  """Takes from root the right to write where nobody may."""
  if os.geteuid():
    return
  libc = ctypes.CDLL(None, use_errno=True)
  header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # Version 3; this process.
  # Effective, permitted and inheritable, of the first 32 and of the rest.
  rights = (ctypes.c_uint32 * 6)()
  override, read_search = 1, 2
  if libc.capget(header, rights):
    raise OSError(ctypes.get_errno(), 'capget failed')
  rights[0] &= ~(1 << override | 1 << read_search)
  if libc.capset(header, rights):
    raise OSError(ctypes.get_errno(), 'capset failed')
