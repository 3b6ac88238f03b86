"""A run that looks for NaN names the operation that made the first."""

import pathlib
import re

import jax
import poisoned
import pytest
import tiny_job
from poisoned import LogOfNegativeTask

from perceiver_jax.data.base import train_example_indices
from perceiver_jax.modalities.image import ConvEmbedding
from perceiver_jax.nn.repeat import Remat
from perceiver_jax.training import loop
from perceiver_jax.training.loss_scaling import LossScaling
from perceiver_jax.training.metrics import read_metrics

pytestmark = pytest.mark.usefixtures('fast_compilation')


def _config(digits_dir, **fields):
  stem = ConvEmbedding(channels=4, sync_batch_norm=True)
  config = tiny_job.tiny_config(digits_dir, stem, num_steps=8, **fields)
  # Nothing is seen from a step that is logged, evaluated or saved.
  config.log_every_steps = config.evaluate_every_steps = 8
  config.checkpoint.every_steps = 8
  return config


def _lines(workdir):
  return read_metrics(workdir / 'metrics.jsonl')


def test_first_nan_ends_the_run_and_is_named(digits_dir, tmp_path):
  config = _config(digits_dir, task=LogOfNegativeTask())
  with pytest.raises(FloatingPointError) as error:
    loop.train(config, tmp_path, debug_nans=True)
  message = str(error.value)
  assert re.search(r'got loss nan and gradient_norm .* in step 3\.', message)
  assert f'The first NaN on device {jax.device_count() - 1} is of' in message
  place = re.search(r'the operation log, from (.*), line (\d+)', message)
  assert place and place[1] == poisoned.__file__
  line = (
    pathlib.Path(poisoned.__file__).read_text().splitlines()[int(place[2]) - 1]
  )
  assert 'jnp.log(x)' in line
  indices = train_example_indices(config.data, seed=0, step=2)
  assert ', '.join(map(str, indices)) in message


@pytest.mark.slow
def test_first_nan_of_accumulated_and_divided_gradients_is_named(
  digits_dir, tmp_path
):
  config = _config(digits_dir, task=LogOfNegativeTask())
  config.data.batch_size = 32
  config.accumulation_steps = 2
  # The second part of the second update is the fourth of a device.
  config.model.self_attend.remat = config.model.cross_attend.remat = Remat.ALL
  config.shard_optimizer_state, config.ema_decay = True, 0.9
  with pytest.raises(FloatingPointError, match=r'in step 2.* log, from'):
    loop.train(config, tmp_path, debug_nans=True)


@pytest.mark.slow
def test_infinity_is_told_from_nan(digits_dir, tmp_path):
  config = _config(digits_dir, task=LogOfNegativeTask(is_infinite=True))
  with pytest.raises(FloatingPointError, match=r'got loss inf .* in step 3'):
    loop.train(config, tmp_path, debug_nans=True)


@pytest.mark.slow
def test_finite_run_comes_to_the_same_and_bears_the_search_for_a_scale(
  digits_dir, tmp_path
):
  config = _config(digits_dir)
  # The first updates overflow, though in float32, and are skipped.
  config.loss_scaling = LossScaling(initial_scale=2.0**127)
  ends = [
    loop.train(config.copy(), tmp_path / str(switch), debug_nans=switch)
    for switch in (False, True)
  ]
  assert ends[0] == ends[1]
  skipped = _lines(tmp_path / 'True')[0]['skipped_updates']
  assert 0 < skipped < 8
