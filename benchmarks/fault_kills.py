"""Kills runs, starts them again, and compares their ends."""

import concurrent.futures
import functools
import os
import pathlib
import re
import signal
import time
from collections.abc import Callable

import numpy as np
from fault_runs import Launcher, Run, differences, good_steps, job_config
from fault_table import Row, Trial

from perceiver_jax.training.config import TrainConfig
from perceiver_jax.training.metrics import METRICS_FILE

_Kill = Callable[[Run, TrainConfig, np.random.Generator], None]

_PARTIAL = 'checkpoints/*.orbax-checkpoint-tmp'
_FIRST_STEP = re.compile(r'^step (\d+)/', re.M)
# About as long as from the workdir to the second update.
_START_SECS = 2.0
# About as long as an update with its line, or as a save.
_DELAY_SECS = 0.03


def kill_rows(
  launcher: Launcher,
  baseline: pathlib.Path,
  count: int,
  rng: np.random.Generator,
) -> list[Row]:
  """Kills `count` runs, each once, shared among the kinds of moments.

  Args:
    launcher: starts them.
    baseline: the directory of a run that was never interrupted.
    count: how many are killed.
    rng: decides the moments.
  """
  kinds = list(_MOMENTS)
  trials: dict[str, list[concurrent.futures.Future]] = {k: [] for k in kinds}
  # What a run waits for leaves time to another.
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as executor:
    for number, child in enumerate(rng.spawn(count)):
      kind = kinds[number % len(kinds)]
      workdir = launcher.directory / f'kill_{number}'
      trials[kind].append(
        executor.submit(
          _trial, launcher, baseline, workdir, *_MOMENTS[kind], child
        )
      )
  return [
    Row(kind, [trial.result() for trial in futures])
    for kind, futures in trials.items()
    if futures
  ]


def _trial(
  launcher: Launcher,
  baseline: pathlib.Path,
  workdir: pathlib.Path,
  kill: _Kill,
  status: int,
  rng: np.random.Generator,
) -> Trial:
  config = job_config(launcher.data_dir)
  run = launcher.start(workdir)
  kill(run, config, rng)
  if (actual := run.wait()) not in (status, 0):
    return Trial([f'ended with {actual}'], [run.text])
  before = max(good_steps(workdir), default=0)
  has_ended = before == config.num_steps
  is_partial = any(workdir.glob(_PARTIAL))
  seen = ['had ended' if has_ended else 'went on' if before else 'began anew']
  if before % config.checkpoint.every_steps:
    seen.append('saved at once')
  if is_partial:
    seen.append('left a part of a checkpoint')
  again = launcher.start(workdir)
  if again.wait() != 0:
    return Trial(seen, [f'the second start ended with:\n{again.text}'])
  lost = differences(workdir, baseline)
  first = _FIRST_STEP.search(again.text)
  if not has_ended and (first is None or int(first[1]) != before + 1):
    lost.append(f'went on with {first and first[0]} after step {before}')
  return Trial(seen, lost)


def _at_the_start(run: Run, _: TrainConfig, rng: np.random.Generator) -> None:
  run.wait_for(run.workdir.exists)
  run.wait(rng.uniform(0, _START_SECS))
  run.send(signal.SIGKILL)


def _at_a_step(
  number: signal.Signals,
  run: Run,
  config: TrainConfig,
  rng: np.random.Generator,
) -> None:
  path = run.workdir / METRICS_FILE
  line = f'"step": {rng.integers(1, config.num_steps, endpoint=True)}, '
  run.wait_for(lambda: path.exists() and line in path.read_text())
  time.sleep(rng.uniform(0, _DELAY_SECS))
  run.send(number)


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
  run.send(signal.SIGKILL)


# What is done, and the exit status unless the run ends before.
_MOMENTS: dict[str, tuple[_Kill, int]] = {
  'SIGKILL while it starts': (_at_the_start, -signal.SIGKILL),
  'SIGKILL at a random step': (
    functools.partial(_at_a_step, signal.SIGKILL),
    -signal.SIGKILL,
  ),
  'SIGKILL in a save': (_in_a_save, -signal.SIGKILL),
}
