"""What is wrong with a job is known before anything is trained."""

import json
import logging
import math

import pytest
from etils import epath
from tiny_job import tiny_config

from perceiver_jax.config import Config
from perceiver_jax.modalities.image import ConvEmbedding
from perceiver_jax.model import Precision
from perceiver_jax.training import loop
from perceiver_jax.training.checkpoint import CheckpointConfig
from perceiver_jax.training.dry_run import dry_run
from perceiver_jax.training.job import make_job
from perceiver_jax.training.manifest import read_manifest
from perceiver_jax.training.metrics import json_line


@pytest.mark.parametrize(
  ('path', 'value', 'message'),
  [
    ('model.outputs.num_classes', 5, 'at least 10, the classes of the data'),
    ('data.eval_split', 'tset', 'tset'),
    ('data.eval_split', 'test[:0]', 'eval_split must have at least one'),
    ('model.inputs.image_channels', 3, r'must have shape \[B, Y, X, 3\]'),
    ('model.precision', Precision.FLOAT16, 'got FLOAT16, whose gradients'),
    (
      'checkpoint',
      CheckpointConfig(every_steps=3, best_metric='accuracy'),
      "best_metric must be one of the metrics .* got 'accuracy'",
    ),
    (
      'checkpoint',
      CheckpointConfig(every_steps=4),
      'every_steps must be a multiple of evaluate_every_steps 3',
    ),
    ('num_epochs', 1.0, 'exactly one of num_epochs and num_steps'),
    ('log_every_steps', 0, 'log_every_steps must be positive and finite'),
  ],
)
@pytest.mark.parametrize('runs', [dry_run, make_job])
def test_mistake_is_found_before_training(
  path, value, message, runs, digits_dir
):
  config = tiny_config(digits_dir)
  *parents, name = path.split('.')
  holder = config
  for parent in parents:
    holder = getattr(holder, parent)
  setattr(holder, name, value)
  with pytest.raises(ValueError, match=message):
    runs(config)


def test_model_with_running_statistics_runs_dry(digits_dir):
  summary = dry_run(tiny_config(digits_dir, ConvEmbedding(channels=4)))
  assert 'saved activations per device' in summary


def _train_briefly(config, workdir):
  config.num_steps, config.checkpoint.every_steps = 1, 1
  return loop.train(config, workdir)


def _edit_saved_configs(workdir, edit):
  """Rewrites the config of each checkpoint, as an earlier version left it."""
  paths = list(epath.Path(workdir).glob('checkpoints/*/manifest/*.json'))
  assert paths
  for path in paths:
    manifest = read_manifest(path)
    edit(manifest.config)
    path.write_text(json.dumps(manifest.sealed()))


def test_a_run_without_an_end_is_refused():
  config = tiny_config('', num_steps=None, num_epochs=math.inf)
  with pytest.raises(ValueError, match='num_epochs must be .* finite, got inf'):
    config.validate()


def test_workdir_of_another_modality_is_refused_by_name(digits_dir, tmp_path):
  _train_briefly(tiny_config(digits_dir), tmp_path)

  def edit(saved):
    saved['model']['inputs']['class'] = 'SmellInput'

  _edit_saved_configs(tmp_path, edit)
  with pytest.raises(ValueError) as error:
    loop.evaluate(tiny_config(digits_dir), tmp_path)
  assert str(tmp_path) in str(error.value)
  assert "inputs.class: saved 'SmellInput', now 'ImageInput'" in str(
    error.value
  )


def test_run_goes_on_with_another_data_class_and_says_so(
  digits_dir, tmp_path, caplog
):
  _train_briefly(tiny_config(digits_dir), tmp_path)

  def edit(saved):
    saved['data']['class'] = 'NoLongerThereData'

  _edit_saved_configs(tmp_path, edit)
  config = tiny_config(digits_dir, seed=3)
  with caplog.at_level(logging.WARNING, logger='absl'):
    loop.evaluate(config, tmp_path)
  assert 'seed: saved 0, now 3' in caplog.text
  assert 'NoLongerThereData' in caplog.text


def test_results_are_strict_json_even_if_they_are_not_finite():
  line = json_line({'step': 3, 'loss': math.nan, 'norm': -math.inf})

  def refuse(constant):
    raise AssertionError(constant)

  assert json.loads(line, parse_constant=refuse) == {
    'step': 3,
    'loss': 'NaN',
    'norm': '-Infinity',
  }


def test_config_of_a_class_defined_twice_can_be_copied():
  def define():
    class Redefined(Config):
      value: int = 1

    return Redefined

  first, second = define(), define()
  assert type(first().copy()) is first
  assert second(value=2).copy().value == 2
