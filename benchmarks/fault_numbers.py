"""Poisons the data of runs."""

import numpy as np
from fault_runs import (
  Launcher,
  good_steps,
  job_config,
  metrics,
  newest_state,
)
from fault_table import Row, Trial, tried

from perceiver_jax.data.base import train_example_indices


def poison_rows(launcher: Launcher, seeds: list[int]) -> list[Row]:
  """Trains on data of which some, or all, examples are NaN.

  Args:
    launcher: starts the runs.
    seeds: of them, which decide the batches that are hit.
  """
  return [
    Row(fault, [tried(try_it, launcher, seed) for seed in seeds])
    for fault, try_it in (
      ('some examples are NaN', _some),
      ('all examples are NaN', _all),
    )
  ]


def _some(launcher: Launcher, seed: int) -> Trial:
  workdir = launcher.directory / f'poisoned_{seed}'
  run = launcher.start(workdir, f'--config.seed={seed}', variant='poisoned')
  if (status := run.wait()) != 0:
    return Trial([f'exit status {status}'], [run.text])
  config = job_config(launcher.data_dir, 'poisoned')
  hit = [
    any(index % config.data.period == 0 for index in indices)
    for indices in (
      train_example_indices(config.data, seed=seed, step=step)
      for step in range(config.num_steps)
    )
  ]
  lost = []
  counted = [
    line['skipped_updates']
    for line in metrics(workdir)
    if line['split'] == 'train'
  ]
  if counted != np.cumsum(hit).tolist():
    lost.append(f'the updates {np.flatnonzero(hit) + 1} were to skip')
  last = 1 + int(np.flatnonzero(hit)[-1])
  if f'Step {last} saw the examples' not in run.text:
    lost.append(f'nothing was said of step {last}')
  step, arrays = newest_state(workdir)
  if step != config.num_steps or not _all_finite(arrays):
    lost.append(f'the state of step {step} is not the last or not finite')
  return Trial([f'{sum(hit)} updates skipped and counted', 'went on'], lost)


def _all(launcher: Launcher, seed: int) -> Trial:
  workdir = launcher.directory / f'hopeless_{seed}'
  run = launcher.start(workdir, f'--config.seed={seed}', variant='hopeless')
  status = run.wait()
  config = job_config(launcher.data_dir, 'hopeless')
  limit = config.watch.max_skipped_in_a_row
  indices = train_example_indices(config.data, seed=seed, step=0)
  named = f'with the indices {", ".join(map(str, indices))}.'
  lost = []
  if status == 0 or f'got {limit + 1} in a row' not in run.text:
    lost.append(f'it ended with {status}:\n{run.text}')
  if 'Step 1 saw the examples of' not in run.text or named not in run.text:
    lost.append(f'the batch was not named:\n{run.text}')
  if good_steps(workdir) != [limit + 1]:
    lost.append(f'the checkpoints are {good_steps(workdir)}')
  elif not _all_finite(newest_state(workdir)[1]):
    lost.append('the saved state is not finite')
  return Trial(['ended with a finite state saved and the batch named'], lost)


def _all_finite(arrays: dict[str, np.ndarray]) -> bool:
  return all(np.isfinite(array).all() for array in arrays.values())
