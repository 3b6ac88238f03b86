"""The embedded default job learns; its config says how well."""

import importlib.util
import pathlib

import pytest

from perceiver_jax.training import loop

PATH = pathlib.Path(__file__).parents[1] / 'configs' / 'digits.py'


# The default variant is trained by the first command of the README.
@pytest.mark.slow
def test_permuted_digits_reach_97_percent(digits_dir, tmp_path):
  spec = importlib.util.spec_from_file_location('digits', PATH)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config('permuted')
  config.data.data_dir = digits_dir
  assert loop.train(config, tmp_path)['top_1_accuracy'] >= 0.97
