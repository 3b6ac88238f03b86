"""A whole job on AudioSet: killed, resumed, evaluated, on any devices."""

import csv
import json
import os
import pathlib
import signal
import subprocess
import sys

import audioset_dir as small_audioset
import audioset_job
import jax
import numpy as np
import pytest

from perceiver_jax.training.initial_weights import load_workdir
from perceiver_jax.training.metrics import read_metrics

pytestmark = pytest.mark.slow

SCRIPT = pathlib.Path(audioset_job.__file__)
NUM_EXAMPLES = small_audioset.NUM_EXAMPLES['eval']


def run(command, data_dir, workdir, num_devices=8):
  flags = f'--xla_force_host_platform_device_count={num_devices}'
  return subprocess.run(
    [sys.executable, SCRIPT, command, data_dir, workdir],
    env=os.environ | {'XLA_FLAGS': flags, 'PYTHONPATH': str(SCRIPT.parents[1])},
    capture_output=True,
    text=True,
    timeout=400,
  )


def lines(workdir):
  """Returns the metrics of a run, but for its speed."""
  return [
    line
    for line in read_metrics(workdir / 'metrics.jsonl')
    if line['split'] != 'speed'
  ]


@pytest.fixture(scope='module')
def uninterrupted(audioset_dir, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('uninterrupted')
  trained = run('train', audioset_dir, workdir)
  assert trained.returncode == 0, trained.stderr
  return workdir


def test_a_killed_job_goes_on_as_if_it_had_not_been_killed(
  uninterrupted, audioset_dir, tmp_path
):
  killed = run('train_until_killed', audioset_dir, tmp_path)
  assert killed.returncode == -signal.SIGKILL, killed.stderr
  assert lines(tmp_path)[-1]['step'] == audioset_job.KILL_STEP
  resumed = run('train', audioset_dir, tmp_path)
  assert resumed.returncode == 0, resumed.stderr
  assert lines(tmp_path) == lines(uninterrupted)
  # Bit by bit, as the weights are.
  saved, expected = (load_workdir(run) for run in (tmp_path, uninterrupted))
  jax.tree.map(np.testing.assert_array_equal, saved.params, expected.params)
  steps = [line['step'] for line in lines(tmp_path)]
  assert steps == [*range(1, 13), 12]


def test_the_job_learns_which_of_the_classes_there_are(uninterrupted):
  first, *_, last, evaluation = lines(uninterrupted)
  assert last['loss'] < 0.5 * first['loss']
  # Four of 527 classes ever come.
  assert evaluation['classes_without_positives'] == 523
  assert evaluation['num_examples'] == NUM_EXAMPLES


@pytest.mark.parametrize('num_devices', [1, 3])
def test_an_evaluation_ranks_every_example_on_any_devices(
  uninterrupted, audioset_dir, num_devices
):
  evaluated = run('evaluate', audioset_dir, uninterrupted, num_devices)
  assert evaluated.returncode == 0, evaluated.stderr
  metrics = json.loads(evaluated.stdout.splitlines()[-1])
  expected = lines(uninterrupted)[-1]
  del expected['split']
  assert metrics.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)
  with (uninterrupted / 'evaluation' / 'per_class.csv').open() as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == small_audioset.NUM_CLASSES
  precisions = [
    float(row['average_precision']) for row in rows if row['positives'] != '0'
  ]
  assert len(precisions) == 4
  np.testing.assert_allclose(
    np.mean(precisions), metrics['mean_average_precision'], atol=1e-4
  )
