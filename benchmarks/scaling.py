"""Shows how the cost of a training step grows with the sizes of a model.

  python benchmarks/scaling.py --png=scaling.png --json=scaling.json

A small Perceiver on images with Fourier features is made larger in one size at
a time: pixels M (a thousand to a million), latents N, latent transformers,
images a batch. The contenders are those of `train_step.py`. Time is the median
of some steps in turns; memory what the compiled step allocates besides
arguments and results. A step that would need more than `--max_gib` is compiled,
for its memory, but not run. Under the table are the powers of a size that costs
grow with, by a line through the logarithms of the three largest.
"""

import argparse
import functools
import json
import pathlib
from typing import Any

import numpy as np
from contenders import MAKERS, random_params
from timing import median_seconds
from train_step import environment

from perceiver_jax.modalities.image import FourierPositions, ImageInput
from perceiver_jax.modalities.label import LabelOutput
from perceiver_jax.model import AverageDecoder, PerceiverConfig
from perceiver_jax.nn.blocks import SelfAttendConfig

# Okabe and Ito: told apart by colour-blind eyes as well.
COLORS = {'plain': '#D55E00', 'ours': '#0072B2', 'ours_remat': '#009E73'}
CONTENDERS = tuple(COLORS)
START = {
  'image_size': 128,
  'num_latents': 128,
  'num_blocks': 2,
  'batch_size': 1,
}
# The sizes that each of them goes through while the others stay.
SIZES = {
  'image_size': (32, 64, 128, 256, 512, 1024),
  'num_latents': (32, 64, 128, 256, 512),
  'num_blocks': (1, 2, 4, 8, 16),
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
  'mebibytes': 'memory of a step (MiB)',
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
  print('size         value contender   seconds       MiB  compile')
  for size in options.only:
    for value in SIZES[size]:
      if options.largest is None or value <= options.largest:
        rows += measure(size, value, options.repeats, options.max_gib)
  for size in options.only:
    for cost in ('seconds', 'mebibytes'):
      powers = (f'{c} {_power(rows, size, cost, c):.2f}' for c in CONTENDERS)
      print(f'{cost} by {size}, power: {", ".join(powers)}')
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
  sizes = START | {size: value}
  rows = []
  for contender, costs in _costs(*sizes.values(), repeats, max_gib).items():
    row = {
      'size': size,
      'value': value**2 if size == 'image_size' else value,
      'contender': contender,
    } | costs
    seconds = 'not run' if row['seconds'] is None else f'{row["seconds"]:.3f}'
    print(
      f'{size:11}{row["value"]:>9,} {contender:10} {seconds:>8} '
      f'{row["mebibytes"]:9,.1f} {row["compile_seconds"]:8.1f}',
      flush=True,
    )
    rows.append(row)
  return rows


@functools.cache  # The sizes of `START` are met once in each series.
def _costs(
  image_size: int,
  num_latents: int,
  num_blocks: int,
  batch_size: int,
  repeats: int,
  max_gib: float,
) -> dict[str, dict[str, float | None]]:
  config = PerceiverConfig(
    inputs=ImageInput(positions=FourierPositions(num_bands=64)),
    outputs=LabelOutput(num_classes=10),
    num_latents=num_latents,
    latent_channels=128,
    num_blocks=num_blocks,
    num_self_attends_per_block=2,
    self_attend=SelfAttendConfig(num_heads=4),
    decoder=AverageDecoder(),
  )
  rng = np.random.default_rng(0)
  shape = (batch_size, image_size, image_size, 3)
  batch = {
    'image': rng.normal(size=shape).astype(np.float32),
    'label': rng.integers(0, 10, batch_size),
  }
  params = random_params(config)
  runners = {name: MAKERS[name](config, params, batch) for name in CONTENDERS}
  steps = {
    name: runner.step
    for name, runner in runners.items()
    if runner.costs['program_bytes'] <= max_gib * 2**30
  }
  for step in steps.values():
    step()
  seconds = median_seconds(steps, repeats)
  return {
    name: {
      'seconds': seconds.get(name),
      'mebibytes': runner.costs['program_bytes'] / 2**20,
      'compile_seconds': runner.costs['trace_seconds']
      + runner.costs['compile_seconds'],
    }
    for name, runner in runners.items()
  }


def _points(
  rows: list[dict[str, Any]], size: str, cost: str, contender: str
) -> list[tuple[int, float]]:
  """Returns pairs of a size and what was measured with it."""
  return [
    (row['value'], row[cost])
    for row in rows
    if (row['size'], row['contender']) == (size, contender)
    and row[cost] is not None
  ]


def _power(
  rows: list[dict[str, Any]], size: str, cost: str, contender: str
) -> float:
  """Returns the power of a size that a cost grows with where it is large."""
  points = _points(rows, size, cost, contender)[-3:]
  slope, _ = np.polyfit(*np.log(points).T, 1)
  return float(slope)


def draw(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
  """Draws a row of panels for each cost, a column for each size."""
  from matplotlib.figure import Figure

  sizes = [size for size in SIZES if any(r['size'] == size for r in rows)]
  figure = Figure(figsize=(3.1 * len(sizes) + 0.4, 7.6), layout='constrained')
  panels = figure.subplots(
    len(COSTS), len(sizes), squeeze=False, sharex='col', sharey='row'
  )
  for cost, line in zip(COSTS, panels, strict=True):
    for size, panel in zip(sizes, line, strict=True):
      _draw_panel(panel, rows, size, cost)
    line[0].set_ylabel(COSTS[cost])
    if cost == 'compile_seconds':
      line[0].set_ylim(bottom=0.0)
  for size, panel in zip(sizes, panels[-1], strict=True):
    panel.set_xlabel(LABELS[size])
  figure.legend(
    *panels[0, 0].get_legend_handles_labels(),
    loc='outside upper left',
    ncols=len(CONTENDERS) + 1,
    frameon=False,
  )
  figure.savefig(path, dpi=100)


def _draw_panel(
  panel: Any, rows: list[dict[str, Any]], size: str, cost: str
) -> None:
  from matplotlib.ticker import EngFormatter, FuncFormatter, NullLocator

  panel.set_xscale('log')
  for contender, color in COLORS.items():
    points = _points(rows, size, cost, contender)
    panel.plot(
      *zip(*points, strict=True),
      'o-',
      color=color,
      linewidth=1.4,
      markersize=3.5,
      label=contender,
    )
  values, costs = zip(*_points(rows, size, cost, 'ours'), strict=True)
  if cost != 'compile_seconds':
    panel.set_yscale('log')
    # Through the last point, as far down as costs go.
    first = max(values[0], values[-1] * min(costs) / costs[-1])
    panel.plot(
      (first, values[-1]),
      (costs[-1] * first / values[-1], costs[-1]),
      ':',
      color='#777777',
      linewidth=1.2,
      zorder=1,
      label='in proportion',
    )
  if size == 'image_size':
    panel.xaxis.set_major_formatter(EngFormatter(sep=''))
  else:
    panel.set_xticks(values, [str(value) for value in values])
  panel.xaxis.set_minor_locator(NullLocator())
  panel.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f'{y:,g}'))
  panel.tick_params(length=0, which='both', labelsize=9)
  panel.grid(color='#DDDDDD', linewidth=0.6)
  panel.set_axisbelow(True)
  panel.spines[:].set_visible(False)


if __name__ == '__main__':
  main()
