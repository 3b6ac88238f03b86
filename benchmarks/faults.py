"""Does to training runs what goes wrong in practice, and counts what is lost.

  python benchmarks/faults.py --json=faults.json

The job of `faults_job.py`, started by `train.py`, is killed, its checkpoints
are damaged, its disk is filled, its data poisoned. Each time it must come to
the very bits of a run that nothing happened to. One of its two processes is
killed, and it is moved to other numbers of processes, where its losses may
differ by the order of sums. Prints a Markdown table: the fault, how often it
was tried, what happened, and how often nothing was lost. Minutes on two cores.
Ends with status 1 if anything was lost.
"""

import argparse
import datetime
import json
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import numpy as np
from fault_damage import damage_rows
from fault_disks import disk_rows
from fault_kills import kill_rows
from fault_numbers import poison_rows
from fault_processes import process_rows
from fault_runs import Launcher
from fault_table import Row, table
from train_step import environment

from perceiver_jax import xla_flags


def main() -> None:
  """Runs the experiments that the command line names."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    '--only', nargs='+', default=list(EXPERIMENTS), choices=EXPERIMENTS
  )
  parser.add_argument('--kills', type=int, default=20, help='how many runs')
  parser.add_argument(
    '--flips', type=int, default=3, help='bits a file, one at a time'
  )
  parser.add_argument('--seed', type=int, help='of the moments; else random')
  parser.add_argument('--data_dir', help='TFDS directory; else a new one')
  parser.add_argument('--json', type=pathlib.Path, help='file of all results')
  options = parser.parse_args()
  if options.seed is None:
    options.seed = time.time_ns() % 2**32
  xla_flags.set_cpu_flags()
  start = time.monotonic()
  rows = []
  with tempfile.TemporaryDirectory(prefix='faults_') as directory:
    launcher = Launcher(pathlib.Path(directory), options.data_dir)
    baseline = launcher.directory / 'baseline'
    run = launcher.start(baseline)
    if run.wait() != 0:
      sys.exit(f'the run without faults must succeed, got:\n{run.text}')
    for name in options.only:
      found = EXPERIMENTS[name](launcher, baseline, options)
      print(table(found), file=sys.stderr, flush=True)
      rows += found
  print(table(rows))
  if options.json:
    results = {
      'environment': environment(),
      'date': datetime.date.today().isoformat(),
      'seconds': time.monotonic() - start,
      'seed': options.seed,
      'rows': [row.as_json() for row in rows],
    }
    options.json.write_text(json.dumps(results, indent=1) + '\n')
  for row in rows:
    for trial in row.trials:
      for loss in trial.lost:
        print(f'{row.fault}: {loss}', file=sys.stderr)
  sys.exit(any(trial.lost for row in rows for trial in row.trials))


def _kills(
  launcher: Launcher, baseline: pathlib.Path, options: argparse.Namespace
) -> list[Row]:
  rng = np.random.default_rng([options.seed, 0])
  return kill_rows(launcher, baseline, options.kills, rng)


def _damage(
  launcher: Launcher, baseline: pathlib.Path, options: argparse.Namespace
) -> list[Row]:
  rng = np.random.default_rng([options.seed, 1])
  return damage_rows(launcher, baseline, options.flips, rng)


def _disks(
  launcher: Launcher, baseline: pathlib.Path, _: argparse.Namespace
) -> list[Row]:
  return disk_rows(launcher, baseline)


def _poison(
  launcher: Launcher, _: pathlib.Path, options: argparse.Namespace
) -> list[Row]:
  return poison_rows(launcher, [options.seed])


def _processes(
  launcher: Launcher, _: pathlib.Path, __: argparse.Namespace
) -> list[Row]:
  return process_rows(launcher)


Experiment = Callable[[Launcher, pathlib.Path, argparse.Namespace], list[Row]]
EXPERIMENTS: dict[str, Experiment] = {
  'kills': _kills,
  'damage': _damage,
  'disks': _disks,
  'poison': _poison,
  'processes': _processes,
}

if __name__ == '__main__':
  main()
