"""The embedded default job learns; its config says how well."""

import importlib.util
import pathlib

import numpy as np
import pytest

from perceiver_jax.training import loop

PATH = pathlib.Path(__file__).parents[1] / 'configs' / 'digits.py'


@pytest.mark.slow
def test_digits_reach_97_percent_in_any_order_of_pixels(digits_dir, tmp_path):
  spec = importlib.util.spec_from_file_location('digits', PATH)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  means = []
  for variant in ('', 'permuted'):
    accuracies = []
    for seed in range(3):
      config = module.get_config(variant)
      config.data.data_dir = digits_dir
      config.seed = seed
      metrics = loop.train(config, tmp_path / f'{variant}_{seed}')
      accuracies.append(metrics['top_1_accuracy'])
    assert min(accuracies) >= 0.97
    means.append(np.mean(accuracies))
  assert abs(means[0] - means[1]) <= 0.01
