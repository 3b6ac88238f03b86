"""The metrics of a run as one picture."""

import math
import os
from typing import Any

from etils import epath
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from perceiver_jax.training.metrics import METRICS_FILE, read_metrics
from perceiver_jax.training.speed import SPEED_SPLIT

CURVES_FILE = 'curves.png'
# Okabe and Ito: told apart by colour-blind eyes as well.
_COLORS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')
_MAX_COLUMNS = 3
# Proportional to examples_per_sec.
_NOT_DRAWN = (
  'steps_per_sec',
  'examples_per_sec_per_device',
  'flops_per_sec_per_device',
)
_MAX_MARKED_POINTS = 40

# By split, then the points (step, value) in the order of the steps.
_Curves = dict[str, list[tuple[int, float]]]


def save_curves(workdir: str | os.PathLike[str]) -> epath.Path:
  """Draws `WORKDIR/metrics.jsonl` into `WORKDIR/curves.png`.

  Each metric has its own axes, with one line for each split, but those of the
  speed that go with another.

  Args:
    workdir: the directory of the run.

  Returns:
    The path of the picture.

  Raises:
    FileNotFoundError: the run has no metrics.
    ValueError: they are empty or damaged.
  """
  workdir = epath.Path(workdir)
  lines = read_metrics(workdir / METRICS_FILE)
  if not lines:
    raise ValueError(
      f'{workdir / METRICS_FILE} must have a line to be drawn, got none.'
    )
  splits = dict.fromkeys(line['split'] for line in lines)
  # Last, so that the others have the same colours without it.
  splits = sorted(splits, key=lambda split: split == SPEED_SPLIT)
  colors = {
    split: _COLORS[index % len(_COLORS)] for index, split in enumerate(splits)
  }
  path = workdir / CURVES_FILE
  # Written beside it and renamed, for someone may be looking at it.
  drawn = path.with_name(f'{CURVES_FILE}.tmp')
  with drawn.open('wb') as file:
    _figure(_by_metric(lines), colors).savefig(file, format='png', dpi=120)
  drawn.replace(path)
  return path


def _by_metric(lines: list[dict[str, Any]]) -> dict[str, _Curves]:
  """Returns curves by metric: losses first, then accuracies, last the speed."""
  metrics: dict[str, _Curves] = {}
  for line in sorted(lines, key=lambda line: line['step']):
    for name, value in line.items():
      if name not in ('step', 'split', *_NOT_DRAWN):
        curves = metrics.setdefault(name, {})
        curves.setdefault(line['split'], []).append((line['step'], value))

  def rank(name: str) -> tuple[bool, int, str]:
    words = ('loss', 'accuracy', 'learning_rate')
    ranks = [index for index, word in enumerate(words) if word in name]
    return SPEED_SPLIT in metrics[name], (*ranks, len(words))[0], name

  return {name: metrics[name] for name in sorted(metrics, key=rank)}


def _figure(metrics: dict[str, _Curves], colors: dict[str, str]) -> Figure:
  columns = min(len(metrics), _MAX_COLUMNS)
  rows = math.ceil(len(metrics) / columns)
  figure = Figure(figsize=(4.4 * columns, 3.1 * rows), layout='constrained')
  FigureCanvasAgg(figure)
  grid = list(figure.subplots(rows, columns, squeeze=False).flat)
  last_step = max(
    points[-1][0] for curves in metrics.values() for points in curves.values()
  )
  for axes, (name, curves) in zip(grid, metrics.items(), strict=False):
    _draw(axes, name, curves, colors)
    axes.set_xlim(-0.02 * last_step, 1.02 * last_step or 1.0)
  for axes in grid[len(metrics) :]:
    axes.remove()
  return figure


def _draw(
  axes: Axes, name: str, curves: _Curves, colors: dict[str, str]
) -> None:
  for split, points in curves.items():
    steps, values = zip(*points, strict=True)
    axes.plot(
      steps,
      values,
      color=colors[split],
      linewidth=1.4,
      marker='o' if len(points) <= _MAX_MARKED_POINTS else '',
      markersize=3.5,
      label=f'{split}  {values[-1]:.4g}',
    )
  axes.set_title(name.replace('_', ' '), loc='left', fontsize=11, pad=22)
  axes.legend(  # Above the axes, where it hides no curve.
    loc='lower left',
    bbox_to_anchor=(0.0, 1.0),
    borderaxespad=0.2,
    borderpad=0.0,
    ncols=len(curves),
    handlelength=1.2,
    fontsize=8,
    frameon=False,
  )
  axes.set_xlabel('step', fontsize=9)
  axes.xaxis.set_major_locator(
    MaxNLocator(6, integer=True, steps=[1, 2, 2.5, 5, 10])
  )
  axes.xaxis.set_major_formatter(EngFormatter(sep=''))
  axes.tick_params(labelsize=8, length=0)
  axes.grid(color='#DDDDDD', linewidth=0.6)
  axes.set_axisbelow(True)
  axes.spines[:].set_visible(False)
  axes.margins(y=0.08)
