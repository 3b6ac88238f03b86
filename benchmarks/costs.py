"""Computes what the rows of the papers' tables cost, from FLOPs alone.

  python benchmarks/costs.py
  python benchmarks/costs.py --utilisation=0.5 --chips=64 --dollars_per_hour=1.5

A training takes three times the FLOPs of a forward pass for each example that
it sees; what is computed again in the backward pass counts as lost utilisation,
and evaluations are left out. The utilisation of the devices' bfloat16 peak is
assumed, not measured. Prints a Markdown table: FLOPs, hours of one device of
each kind, and days (and dollars) on some of them.
"""

import argparse
import importlib.util
import os
import pathlib
from typing import Any, NamedTuple

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax
import numpy as np

from perceiver_jax import count_flops
from perceiver_jax.modalities.multimodal import MultimodalInput
from perceiver_jax.model import PerceiverConfig, Precision
from perceiver_jax.tasks.inputs import AUDIO, IMAGE, POINTS, VIDEO, input_arrays
from perceiver_jax.training.config import TrainConfig
from perceiver_jax.training.peak_flops import peak_flops

CONFIGS = pathlib.Path(__file__).parents[1] / 'configs'
# What an example is, without the batch; what the data sources make.
_SHAPES = {
  IMAGE: (224, 224, 3),
  VIDEO: (32, 224, 224, 3),
  AUDIO: (61_440, 1),
  POINTS: (2_048, 3),
}
_DEVICES = {
  'v5e': 'TPU v5e',
  'v6e': 'TPU v6e',
  'A100': 'NVIDIA A100-SXM4-80GB',
  'H100': 'NVIDIA H100 80GB HBM3',
}


class Row(NamedTuple):
  """A training of the papers.

  Attributes:
    config: the file in `configs/`, without its suffix.
    variant: of it.
    paper: what the paper reports of it.
    num_examples: of the training split. ImageNet and ModelNet40 have so many;
      of AudioSet it is how many videos arXiv 2103.03206 had.
  """

  config: str
  variant: str
  paper: str
  num_examples: int


_IMAGENET, _AUDIOSET, _MODELNET40 = 1_281_167, 1_700_000, 9_843
ROWS = (
  Row('imagenet_perceiver', '', '78.0 top-1', _IMAGENET),
  Row('imagenet_perceiver', 'learned', '70.9 top-1', _IMAGENET),
  Row('imagenet_perceiver', 'unshared', '72.9 top-1', _IMAGENET),
  Row('imagenet_perceiver_io', '', '79.0 top-1', _IMAGENET),
  Row('imagenet_perceiver_io', 'learned', '72.7 top-1', _IMAGENET),
  Row('imagenet_perceiver_io', 'conv', '82.1 top-1', _IMAGENET),
  Row('audioset_perceiver', 'raw', '38.3 mAP', _AUDIOSET),
  Row('audioset_perceiver', 'mel', '38.4 mAP', _AUDIOSET),
  Row('audioset_perceiver', 'video', '25.8 mAP', _AUDIOSET),
  Row('audioset_perceiver', 'raw_video', '43.5 mAP', _AUDIOSET),
  Row('audioset_perceiver', 'tuned', '44.2 mAP', _AUDIOSET),
  Row('audioset_perceiver_io', 'raw_video', '43.3 mAP', _AUDIOSET),
  Row('audioset_perceiver_io', 'mel_video', '44.9 mAP', _AUDIOSET),
  Row('modelnet40', '', '85.7 top-1', _MODELNET40),
)


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--utilisation', type=float, default=0.4)
  parser.add_argument('--chips', type=int, default=64, help='for the days')
  parser.add_argument('--device', default='v5e', choices=_DEVICES)
  parser.add_argument('--dollars_per_hour', type=float, help='of one chip')
  print(table(parser.parse_args()))


def table(options: argparse.Namespace) -> str:
  """Returns the costs as Markdown, a row a training."""
  device, chips = options.device, options.chips
  titles = ['config', 'paper', 'FLOPs']
  titles += [f'{name} hours' for name in _DEVICES]
  titles += [f'days on {chips} {device}']
  if options.dollars_per_hour is not None:
    titles += [f'dollars on {device}']
  lines = [
    f'| {" | ".join(titles)} |',
    f'|{"---|" * len(titles)}',
  ]
  for row in ROWS:
    flops = training_flops(row)
    hours = {
      name: flops / (options.utilisation * _peak(name)) / 3600
      for name in _DEVICES
    }
    cells = [
      f'`{row.config}:{row.variant}`'.replace(':`', '`'),
      row.paper,
      f'{flops:.1e}',
      *(f'{value:,.0f}' for value in hours.values()),
      f'{hours[device] / chips / 24:.1f}',
    ]
    if options.dollars_per_hour is not None:
      cells.append(f'{hours[device] * options.dollars_per_hour:,.0f}')
    lines.append(f'| {" | ".join(cells)} |')
  return '\n'.join(lines)


def training_flops(row: Row) -> float:
  """Returns the FLOPs of all updates of a training."""
  config = _config(row)
  seen = config.steps(row.num_examples) * config.data.batch_size
  return 3.0 * seen * count_flops(config.model, _inputs(config.model))


def _config(row: Row) -> TrainConfig:
  path = CONFIGS / f'{row.config}.py'
  spec = importlib.util.spec_from_file_location(row.config, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(row.variant)


def _inputs(model: PerceiverConfig) -> Any:
  """Returns the shapes of one example."""
  shapes = {
    name: jax.ShapeDtypeStruct((1, *_SHAPES[name]), np.float32)
    for name in input_arrays(model.inputs)
  }
  is_one = not isinstance(model.inputs, MultimodalInput)
  return next(iter(shapes.values())) if is_one else shapes


def _peak(name: str) -> float:
  peak = peak_flops(_DEVICES[name], Precision.BFLOAT16)
  assert peak is not None
  return peak


if __name__ == '__main__':
  main()
