"""Kills runs, starts them again, and compares their ends."""

import concurrent.futures
import os
import pathlib
import signal
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from fault_runs import (
  Launcher,
  Run,
  differences,
  first_step,
  good_steps,
  job_config,
  last_logged_step,
  metrics,
)
from fault_table import Row, Trial, tried

from perceiver_jax.training.config import TrainConfig
from perceiver_jax.training.metrics import METRICS_FILE

_PARTIAL = 'checkpoints/*.orbax-checkpoint-tmp'
# About as long as from the workdir to the second update.
_START_SECS = 2.0
# About as long as an update with its line, or as a save.
_DELAY_SECS = 0.03
# Between hearing of SIGTERM and obeying: the update that just had its beat, and
# the next.
_MAX_UPDATES = 2


def kill_rows(
  launcher: Launcher,
  baseline: pathlib.Path,
  count: int,
  rng: np.random.Generator,
) -> list[Row]:
  """Kills `count` runs, each once, shared among the kinds.

  Args:
    launcher: starts them.
    baseline: the directory of a run that was never interrupted.
    count: how many are killed.
    rng: decides the moments.
  """
  trials: dict[_Kind, list[concurrent.futures.Future]] = {k: [] for k in _KINDS}
  # What a run waits for leaves time to another.
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as executor:
    for number, child in enumerate(rng.spawn(count)):
      kind = _KINDS[number % len(_KINDS)]
      workdir = launcher.directory / f'kill_{number}'
      trials[kind].append(
        executor.submit(tried, _trial, launcher, baseline, workdir, kind, child)
      )
  return [
    Row(kind.fault, [trial.result() for trial in futures])
    for kind, futures in trials.items()
    if futures
  ]


def _while_it_starts(
  run: Run, _: TrainConfig, rng: np.random.Generator
) -> None:
  run.wait_for(run.workdir.exists)
  run.wait(rng.uniform(0, _START_SECS))


def _at_a_step(run: Run, config: TrainConfig, rng: np.random.Generator) -> None:
  path = run.workdir / METRICS_FILE
  line = f'"step": {rng.integers(1, config.num_steps, endpoint=True)}, '
  run.wait_for(lambda: path.exists() and line in path.read_text())
  time.sleep(rng.uniform(0, _DELAY_SECS))


def _in_a_save(run: Run, config: TrainConfig, rng: np.random.Generator) -> None:
  every_steps = config.checkpoint.every_steps
  before = every_steps * rng.integers(config.num_steps // every_steps)
  run.wait_for(
    lambda: (
      max(good_steps(run.workdir), default=0) >= before
      and any(run.workdir.glob(_PARTIAL))
    )
  )
  time.sleep(rng.uniform(0, _DELAY_SECS))


class _Kind(NamedTuple):
  """How runs are killed.

  Attributes:
    fault: in words.
    number: the signal.
    wait: for the moment.
  """

  fault: str
  number: signal.Signals
  wait: Callable[[Run, TrainConfig, np.random.Generator], None]


# Not SIGTERM while it starts, which ends a run that has nothing to save yet.
_KINDS = (
  _Kind('SIGKILL while it starts', signal.SIGKILL, _while_it_starts),
  _Kind('SIGKILL at a random step', signal.SIGKILL, _at_a_step),
  _Kind('SIGKILL in a save', signal.SIGKILL, _in_a_save),
  _Kind('SIGTERM at a random step', signal.SIGTERM, _at_a_step),
  _Kind('SIGTERM in a save', signal.SIGTERM, _in_a_save),
)


def _kept(config: TrainConfig, baseline: pathlib.Path, saved: int) -> set[int]:
  """Returns the steps whose checkpoints stay in a run that saved one more."""
  periodic = range(0, config.num_steps + 1, config.checkpoint.every_steps)[1:]
  checkpoints = dict.fromkeys([*periodic, saved]) | {
    line['step']: line
    for line in metrics(baseline)
    if line['split'] == config.data.eval_split
  }
  return config.checkpoint.kept(checkpoints)


def _trial(
  launcher: Launcher,
  baseline: pathlib.Path,
  workdir: pathlib.Path,
  kind: _Kind,
  rng: np.random.Generator,
) -> Trial:
  config = job_config(launcher.data_dir)
  run = launcher.start(workdir)
  kind.wait(run, config, rng)
  with run.stopped():
    logged = last_logged_step(workdir)
    run.send(kind.number)
  status = run.wait()
  saved = max(good_steps(workdir), default=0)
  has_ended = saved == config.num_steps
  seen = ['had ended' if has_ended else 'went on' if saved else 'began anew']
  if any(workdir.glob(_PARTIAL)):
    seen.append('left a part of a checkpoint')
  lost = []
  is_request = kind.number == signal.SIGTERM
  expected = 0 if is_request else -kind.number
  # The last update may be saved before the signal comes, or Python take leave.
  if status not in ((0, -kind.number) if has_ended else (expected,)):
    lost.append(f'ended with {status} after step {saved}:\n{run.text}')
  if is_request:
    seen.append('saved the last update')
    if saved != (last := last_logged_step(workdir)):
      lost.append(f'saved step {saved} although step {last} was done')
    if saved > logged + _MAX_UPDATES:
      lost.append(f'told to stop after step {logged}, saved step {saved}')
  again = launcher.start(workdir)
  if again.wait() != 0:
    return Trial(seen, [*lost, f'started again, it ended with:\n{again.text}'])
  lost += differences(workdir, baseline)
  kept, expected = set(good_steps(workdir)), _kept(config, baseline, saved)
  if kept != expected:
    lost.append(f'the checkpoints {kept} are kept, not {expected}')
  if not has_ended and (first := first_step(again)) != saved + 1:
    lost.append(f'went on with step {first} after step {saved}')
  return Trial(seen, lost)
