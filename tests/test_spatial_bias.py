"""The study of spatial bias: its variants, and the table it prints."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest

from perceiver_jax.data.images import TfdsImageData

ROOT = pathlib.Path(__file__).parents[1]


def _module(path):
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_variants_differ_by_what_their_names_say():
  get_config = _module(ROOT / 'configs' / 'spatial_bias.py').get_config
  plain = get_config('conv').to_dict()
  for suffix, path in [
    ('_permuted', ('model', 'inputs', 'permutation_seed')),
    ('_io', ('model', 'decoder')),
    ('_tfds', ('data',)),
  ]:
    other = get_config(f'conv{suffix}').to_dict()
    *parents, name = path
    holder = other
    expected = plain
    for parent in parents:
      holder, expected = holder[parent], expected[parent]
    assert holder[name] != expected[name]
    holder[name] = expected[name]
    assert other == plain
  assert isinstance(get_config('learned_io_tfds').data, TfdsImageData)
  with pytest.raises(ValueError, match="got 'conv_nope'"):
    get_config('conv_nope')


def test_table_has_means_and_what_a_permutation_costs():
  cost = {'parameters': 12345, 'flops': 6.7e6, 'cpu_seconds': 10.0}
  accuracies = {'conv': (0.9, 0.8), 'conv_permuted': (0.6, 0.7)}
  runs = [
    {'variant': variant, 'seed': seed, 'top_1_accuracy': accuracy} | cost
    for variant, pair in accuracies.items()
    for seed, accuracy in enumerate(pair)
  ]
  table = _module(ROOT / 'benchmarks' / 'spatial_bias.py').table(runs)
  assert table.splitlines()[2] == (
    '| conv, mean | **85.0** (90.0 80.0) | **65.0** (60.0 70.0) | 20.0 '
    '| 12,345 | 6.7 | 10 |'
  )


@pytest.mark.slow
def test_study_runs(tmp_path, digits_dir, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', digits_dir)
  path = tmp_path / 'runs.json'
  ended = subprocess.run(
    [
      sys.executable, 'benchmarks/spatial_bias.py', '--num_steps=60',
      '--seeds', '0', '--only', 'patches', 'patches_permuted', f'--json={path}',
    ],
    cwd=ROOT, check=True, capture_output=True, text=True,
  )  # fmt: skip
  assert '| patches, mean | **' in ended.stdout
  runs = json.loads(path.read_text())
  assert [run['variant'] for run in runs] == ['patches', 'patches_permuted']
