"""Runs that are killed, or lose their disk, come to the same bits."""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.slow
def test_nothing_is_lost_by_faults(tmp_path, digits_dir):
  path = tmp_path / 'rows.json'
  ended = subprocess.run(
    [
      sys.executable,
      'faults.py',
      '--kills=4',
      '--flips=1',
      f'--data_dir={digits_dir}',
      f'--json={path}',
    ],
    cwd=ROOT / 'benchmarks',
    capture_output=True,
    text=True,
  )
  assert ended.returncode == 0, ended.stderr
  rows = {row['fault']: row for row in json.loads(path.read_text())['rows']}
  for fault, row in rows.items():
    # Not everyone may mount a small disk.
    assert row['tried'] or 'mounting a tmpfs needs root' in row['outcome']
    assert row['nothing_lost'] == row['tried'], row
    assert fault in ended.stdout
  assert sum('SIGKILL' in fault for fault in rows) == 3
