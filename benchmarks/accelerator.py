"""Measures training of the ImageNet presets on one accelerator.

  python benchmarks/accelerator.py --json=accelerator.json

For each preset in bfloat16, with activations of the attends computed again in
the backward pass: the largest batch of a power of two that fits, steps and
images a second with it, and the FLOP/s they come to (three times those of a
forward pass by the algorithm as published, in which nothing is computed twice;
see `perceiver_jax.count_flops`). `--plain` runs the published algorithm, for a
ratio. A step is that of `contenders.py`: loss, gradients and AdamW.
"""

import argparse
import json
import pathlib
from typing import Any

import jax
import numpy as np
from contenders import MAKERS, random_params
from timing import median_seconds
from train_step import environment

import perceiver_jax
from perceiver_jax import presets
from perceiver_jax.model import PerceiverConfig, Precision
from perceiver_jax.nn.repeat import Remat

PRESETS = {
  'perceiver_fourier': presets.perceiver_imagenet_fourier,
  'perceiver_learned': presets.perceiver_imagenet_learned,
  'perceiver_io_fourier': presets.perceiver_io_imagenet_fourier,
  'perceiver_io_learned': presets.perceiver_io_imagenet_learned,
  'perceiver_io_conv': presets.perceiver_io_imagenet_conv,
}


def main() -> None:
  """Measures the presets that the command line names."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    '--presets', nargs='+', default=list(PRESETS), choices=PRESETS
  )
  parser.add_argument('--plain', action='store_true', help='as published')
  parser.add_argument('--batch_size', type=int, help='instead of the largest')
  parser.add_argument('--image_size', type=int, default=224)
  parser.add_argument('--num_blocks', type=int, help='instead of 8')
  parser.add_argument('--num_steps', type=int, default=20)
  parser.add_argument('--json', type=pathlib.Path, help='file of all results')
  options = parser.parse_args()
  rows = []
  print('preset                 batch  steps/s  images/s  TFLOP/s')
  for name in options.presets:
    config = PRESETS[name]()
    config.precision = Precision.BFLOAT16
    config.self_attend.remat = config.cross_attend.remat = Remat.ALL
    if options.num_blocks is not None:
      config.num_blocks = options.num_blocks
      config.num_cross_attends = min(
        config.num_cross_attends, options.num_blocks
      )
    rows.append({'preset': name} | _measure(config, options))
    row = rows[-1]
    print(
      f'{name:22} {row["batch_size"]:>5} {row["steps_per_second"]:8.2f} '
      f'{row["images_per_second"]:9.1f} {row["flops_per_second"] / 1e12:8.1f}',
      flush=True,
    )
  if options.json:
    results = {'environment': environment(), 'rows': rows}
    options.json.write_text(json.dumps(results, indent=1) + '\n')


def _measure(
  config: PerceiverConfig, options: argparse.Namespace
) -> dict[str, Any]:
  """Returns the speed of a preset at its largest batch, or at the given one."""
  maker = MAKERS['plain' if options.plain else 'ours']
  params = random_params(config)
  size = options.batch_size or 1
  seconds = _seconds_a_step(maker, config, params, size, options)
  while options.batch_size is None:
    try:
      seconds = _seconds_a_step(maker, config, params, 2 * size, options)
    except jax.errors.JaxRuntimeError as error:
      if 'RESOURCE_EXHAUSTED' not in str(error):
        raise
      break
    size *= 2
  image = jax.ShapeDtypeStruct(
    (1, options.image_size, options.image_size, 3), np.float32
  )
  images = size / seconds
  return {
    'algorithm': 'plain' if options.plain else 'ours',
    'batch_size': size,
    'steps_per_second': 1 / seconds,
    'images_per_second': images,
    'flops_per_second': 3 * images * perceiver_jax.count_flops(config, image),
  }


def _seconds_a_step(
  maker: Any,
  config: PerceiverConfig,
  params: Any,
  batch_size: int,
  options: argparse.Namespace,
) -> float:
  """Returns the median time of a step.

  Raises:
    JaxRuntimeError: the batch does not fit; it says RESOURCE_EXHAUSTED.
  """
  rng = np.random.default_rng(0)
  shape = (batch_size, options.image_size, options.image_size, 3)
  batch = {
    'image': rng.normal(size=shape).astype(np.float32),
    'label': rng.integers(0, 1000, batch_size),
  }
  contender = maker(config, params, batch)
  contender.step()
  return median_seconds({'step': contender.step}, options.num_steps)['step']


if __name__ == '__main__':
  main()
