"""A whole job on ImageNet: killed, resumed, evaluated, on any devices."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import imagenet_job
import imagenet_tars
import numpy as np
import pytest

from perceiver_jax.training.metrics import read_metrics

pytestmark = pytest.mark.slow

SCRIPT = pathlib.Path(imagenet_job.__file__)


def run(command, data_dir, workdir, num_devices=8):
  flags = f'--xla_force_host_platform_device_count={num_devices}'
  return subprocess.run(
    [sys.executable, SCRIPT, command, data_dir, workdir],
    env=os.environ | {'XLA_FLAGS': flags, 'PYTHONPATH': str(SCRIPT.parents[1])},
    capture_output=True,
    text=True,
  )


def lines(workdir):
  """Returns the metrics of a run, but for its speed."""
  return [
    line
    for line in read_metrics(workdir / 'metrics.jsonl')
    if line['split'] != 'speed'
  ]


@pytest.fixture(scope='module')
def uninterrupted(imagenet_dir, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('uninterrupted')
  trained = run('train', imagenet_dir, workdir)
  assert trained.returncode == 0, trained.stderr
  return workdir


def test_a_killed_job_goes_on_as_if_it_had_not_been_killed(
  uninterrupted, imagenet_dir, tmp_path
):
  killed = run('train_until_killed', imagenet_dir, tmp_path)
  assert killed.returncode == -signal.SIGKILL, killed.stderr
  assert lines(tmp_path)[-1]['step'] == imagenet_job.KILL_STEP
  resumed = run('train', imagenet_dir, tmp_path)
  assert resumed.returncode == 0, resumed.stderr
  assert lines(tmp_path) == lines(uninterrupted)
  steps = [line['step'] for line in lines(tmp_path)]
  assert steps == [*range(1, 21), 20]


@pytest.mark.parametrize('num_devices', [1, 3, 8])
def test_an_evaluation_counts_every_image_on_any_devices(
  uninterrupted, imagenet_dir, num_devices
):
  evaluated = run('evaluate', imagenet_dir, uninterrupted, num_devices)
  assert evaluated.returncode == 0, evaluated.stderr
  metrics = json.loads(evaluated.stdout.splitlines()[-1])
  assert metrics['num_examples'] == imagenet_tars.NUM_VALIDATION
  expected = lines(uninterrupted)[-1]
  assert expected['num_examples'] == imagenet_tars.NUM_VALIDATION
  np.testing.assert_allclose(metrics['loss'], expected['loss'], rtol=1e-5)
