"""Trains every variant of configs/spatial_bias.py and tabulates how well.

  python benchmarks/spatial_bias.py --seeds 0 1 2 --json=spatial_bias.json

Prints a Markdown table: top-1 on the test digits, raw and permuted, by decoder,
with the cost of a model. Accuracies are over all examples; seconds are CPU time
of all cores for one training with its evaluations, compilation included: wall
time would measure what else the machine does.
"""

import argparse
import importlib.util
import json
import pathlib
import sys
import tempfile
import time

import numpy as np

from perceiver_jax import xla_flags

CONFIG = pathlib.Path(__file__).parents[1] / 'configs' / 'spatial_bias.py'


def main() -> None:
  """Runs the study."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
  parser.add_argument('--num_steps', type=int, help='instead of the config')
  parser.add_argument('--only', nargs='+', help='variants; all by default')
  parser.add_argument('--json', type=pathlib.Path, help='file of all results')
  arguments = parser.parse_args()
  xla_flags.set_cpu_flags()
  configs = _configs()
  runs = []
  for variant in arguments.only or configs.STUDY:
    for seed in arguments.seeds:
      config = configs.get_config(variant)
      config.seed = seed
      if arguments.num_steps is not None:
        config.num_steps = arguments.num_steps
      runs.append({'variant': variant, 'seed': seed} | _run(config))
      print(json.dumps(runs[-1]), file=sys.stderr)
  if arguments.json:
    arguments.json.write_text(json.dumps(runs, indent=1) + '\n')
  print(table(runs))


def _configs():
  spec = importlib.util.spec_from_file_location('spatial_bias', CONFIG)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _run(config) -> dict[str, float]:
  """Trains once and returns accuracy and cost."""
  import jax

  from perceiver_jax import count_flops, count_params
  from perceiver_jax.training import loop

  start = time.process_time()
  with tempfile.TemporaryDirectory() as workdir:
    metrics = loop.train(config, workdir)
  seconds = time.process_time() - start
  spec = config.data.element_spec()['image']
  image = jax.ShapeDtypeStruct((1, *spec.shape), 'float32')
  return {
    'top_1_accuracy': metrics['top_1_accuracy'],
    'parameters': count_params(config.model),
    'flops': count_flops(config.model, image),
    'cpu_seconds': seconds,
  }


def table(runs: list[dict]) -> str:
  """Returns the results as Markdown, a row a model."""
  by_variant: dict[str, list[dict]] = {}
  for run in runs:
    by_variant.setdefault(run['variant'], []).append(run)
  lines = [
    '| model | raw | permuted | lost | parameters | MFLOPs | CPU seconds |',
    '|---|---|---|---|---|---|---|',
  ]
  for variant, raw in by_variant.items():
    kind, *options = variant.split('_')
    if 'permuted' in options:
      continue
    permuted = by_variant.get('_'.join([kind, 'permuted', *options]))
    name = f'{kind}, {"attention" if "io" in options else "mean"}'
    name += ', scattered' if 'scattered' in options else ''
    lost = _mean(raw) - _mean(permuted) if permuted else np.nan
    seconds = np.mean([run['cpu_seconds'] for run in raw + (permuted or [])])
    lines.append(
      f'| {name} | {_spelled(raw)} | {_spelled(permuted)} '
      f'| {100 * lost:.1f} | {raw[0]["parameters"]:,} '
      f'| {raw[0]["flops"] / 1e6:.1f} | {seconds:.0f} |'
    )
  return '\n'.join(lines)


def _mean(runs: list[dict]) -> float:
  return float(np.mean([run['top_1_accuracy'] for run in runs]))


def _spelled(runs: list[dict] | None) -> str:
  """Says the accuracy of each seed and their mean, in percent."""
  if not runs:
    return ''
  seeds = ' '.join(f'{100 * run["top_1_accuracy"]:.1f}' for run in runs)
  return f'**{100 * _mean(runs):.1f}** ({seeds})'


if __name__ == '__main__':
  main()
