"""Shows how the cost of a training step grows with the sizes of a model.

  python benchmarks/scaling.py --png=scaling.png --json=scaling.json

A small Perceiver on images with Fourier features is made larger in one size at
a time: pixels M (a thousand to a million), latents N, latent transformers,
images a batch. `ours` and `plain` are those of `train_step.py`. Time is the
median of some steps in turns; memory what the compiled step allocates besides
arguments and results. A step that would need more than `--max_gib` is compiled,
for its memory, but not run.
"""

import argparse
import json
import pathlib
import statistics
import time
from typing import Any

from contenders import MAKERS, random_params
from train_step import environment

from perceiver_jax.modalities.image import FourierPositions, ImageInput
from perceiver_jax.modalities.label import LabelOutput
from perceiver_jax.model import AverageDecoder, PerceiverConfig
from perceiver_jax.nn.blocks import SelfAttendConfig

CONTENDERS = ('plain', 'ours')
START = {'image_size': 64, 'num_latents': 64, 'num_blocks': 2, 'batch_size': 1}
# The sizes that each of them goes through while the others stay.
SIZES = {
  'image_size': (32, 64, 128, 256, 512, 1024),
  'num_latents': (64, 128, 256, 512, 1024),
  'num_blocks': (1, 2, 4, 8),
  'batch_size': (1, 2, 4, 8),
}
LABELS = {
  'image_size': 'inputs M',
  'num_latents': 'latents N',
  'num_blocks': 'latent transformers',
  'batch_size': 'images a batch',
}
COSTS = {
  'seconds': 'a step (s)',
  'bytes': 'memory of a step (bytes)',
  'compile_seconds': 'trace and compile (s)',
}


def main() -> None:
  """Measures, prints a table and draws the curves."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--only', nargs='+', default=list(SIZES), choices=SIZES)
  parser.add_argument('--largest', type=int, help='leave larger sizes out')
  parser.add_argument('--repeats', type=int, default=3)
  parser.add_argument('--max_gib', type=float, default=6.0)
  parser.add_argument('--json', type=pathlib.Path, help='file of all results')
  parser.add_argument('--png', type=pathlib.Path, help='file of the curves')
  options = parser.parse_args()
  rows = []
  print('size         value contender  seconds       MiB  compile')
  for size in options.only:
    for value in SIZES[size]:
      if options.largest is None or value <= options.largest:
        rows += measure(size, value, options.repeats, options.max_gib)
  if options.json:
    results = {'environment': environment(), 'rows': rows}
    options.json.write_text(json.dumps(results, indent=1) + '\n')
  if options.png:
    draw(rows, options.png)


def measure(
  size: str, value: int, repeats: int, max_gib: float
) -> list[dict[str, Any]]:
  """Returns what a step costs each contender with one size of `START` changed.

  Args:
    size: which, of the keys of `SIZES`.
    value: what it is now.
    repeats: of the steps.
    max_gib: largest step that is run.
  """
  import numpy as np

  sizes = START | {size: value}
  config = PerceiverConfig(
    inputs=ImageInput(positions=FourierPositions(num_bands=64)),
    outputs=LabelOutput(num_classes=10),
    num_latents=sizes['num_latents'],
    latent_channels=128,
    num_blocks=sizes['num_blocks'],
    num_self_attends_per_block=2,
    self_attend=SelfAttendConfig(num_heads=4),
    decoder=AverageDecoder(),
  )
  rng = np.random.default_rng(0)
  shape = (sizes['batch_size'], sizes['image_size'], sizes['image_size'], 3)
  batch = {
    'image': rng.normal(size=shape).astype(np.float32),
    'label': rng.integers(0, 10, sizes['batch_size']),
  }
  params = random_params(config)
  runners = {name: MAKERS[name](config, params, batch) for name in CONTENDERS}
  times = {name: [] for name in runners}
  for repeat in range(1 + repeats):
    for name, runner in runners.items():
      if runner.costs['program_bytes'] > max_gib * 2**30:
        continue
      start = time.perf_counter()
      runner.step()
      if repeat:  # The first warms up.
        times[name].append(time.perf_counter() - start)
  rows = []
  for name, runner in runners.items():
    costs = runner.costs
    row = {
      'size': size,
      'value': value**2 if size == 'image_size' else value,
      'contender': name,
      'seconds': statistics.median(times[name]) if times[name] else None,
      'bytes': costs['program_bytes'],
      'compile_seconds': costs['trace_seconds'] + costs['compile_seconds'],
    }
    seconds = 'not run' if row['seconds'] is None else f'{row["seconds"]:.3f}'
    print(
      f'{size:12} {row["value"]:>7,} {name:9} {seconds:>8} '
      f'{row["bytes"] / 2**20:9,.1f} {row["compile_seconds"]:8.1f}',
      flush=True,
    )
    rows.append(row)
  return rows


def draw(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
  """Draws a row of panels for each cost, a column for each size."""
  import matplotlib.figure

  sizes = [size for size in SIZES if any(r['size'] == size for r in rows)]
  figure = matplotlib.figure.Figure(
    figsize=(3.2 * len(sizes), 8), layout='constrained'
  )
  panels = figure.subplots(len(COSTS), len(sizes), squeeze=False)
  for cost, line in zip(COSTS, panels, strict=True):
    for size, panel in zip(sizes, line, strict=True):
      for contender in CONTENDERS:
        points = [
          (row['value'], row[cost])
          for row in rows
          if (row['size'], row['contender']) == (size, contender)
          and row[cost] is not None
        ]
        panel.loglog(*zip(*points, strict=True), 'o-', label=contender)
      first, last = points[0], points[-1]
      # What a cost would be that grows as the size does.
      panel.loglog(
        (first[0], last[0]),
        (first[1], first[1] * last[0] / first[0]),
        ':',
        color='gray',
        label='linear',
      )
      panel.set_xlabel(LABELS[size])
      panel.set_ylabel(COSTS[cost])
      panel.grid(which='both', alpha=0.2)
  panels[0, 0].legend()
  figure.savefig(path, dpi=110)


if __name__ == '__main__':
  main()
