"""Runs that are killed, or lose their disk, come to the same bits."""

import json
import pathlib
import subprocess
import sys

import pytest
from fault_table import Row, Trial, table, tried

ROOT = pathlib.Path(__file__).parents[1]


def _rows(path, data_dir, *options, timeout_secs):
  """Returns the rows of `faults.py` by fault, in which nothing was lost."""
  ended = subprocess.run(
    [
      sys.executable,
      'faults.py',
      f'--data_dir={data_dir}',
      f'--json={path}',
      *options,
    ],
    cwd=ROOT / 'benchmarks',
    capture_output=True,
    text=True,
    timeout=timeout_secs,
  )
  assert ended.returncode == 0, ended.stderr
  rows = {row['fault']: row for row in json.loads(path.read_text())['rows']}
  for fault, row in rows.items():
    # Not everyone may mount a small disk.
    assert row['tried'] or 'mounting a tmpfs needs root' in row['outcome']
    assert row['nothing_lost'] == row['tried'], row
    assert fault in ended.stdout
  return rows


def test_nothing_is_lost_by_kills(tmp_path, digits_dir):
  rows = _rows(
    tmp_path / 'rows.json',
    digits_dir,
    '--only=kills',
    '--kills=5',
    timeout_secs=400,
  )
  assert len(rows) == 5
  assert sum('SIGTERM' in fault for fault in rows) == 2


@pytest.mark.slow
def test_nothing_is_lost_by_damage_disks_and_numbers(tmp_path, digits_dir):
  rows = _rows(
    tmp_path / 'rows.json',
    digits_dir,
    '--only',
    'damage',
    'disks',
    'poison',
    '--flips=1',
    timeout_secs=600,
  )
  assert len(rows) == 11


@pytest.mark.slow
def test_nothing_is_lost_by_faults_of_processes(tmp_path, digits_dir):
  rows = _rows(
    tmp_path / 'rows.json',
    digits_dir,
    '--only=processes',
    timeout_secs=900,
  )
  assert [row['tried'] for row in rows.values()] == [2, 1, 1]


def test_losses_are_counted_and_a_run_that_hangs_is_one():
  def hang():
    raise TimeoutError('it must come to its end')

  trials = [Trial(['went on']), tried(hang), Trial(['went on'], ['a line'])]
  row = Row('a fault', trials)
  assert row.num_kept == 1
  assert table([row]).splitlines()[-1] == (
    '| a fault | 3 | 2 went on; 1 hung | 1 of 3 |'
  )
