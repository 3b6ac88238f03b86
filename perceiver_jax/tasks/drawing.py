"""What an evaluation says, drawn: examples, confusions, bars by class."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from perceiver_jax.tasks.inputs import AUDIO, IMAGE, POINTS, VIDEO

Picture = UInt8[np.ndarray, 'height width 3']


class BarChart(NamedTuple):
  """Horizontal bars.

  Attributes:
    title: what they show.
    bars: what each is called, and how long it is.
    limit: how long one could be; None: as long as the longest.
  """

  title: str
  bars: Sequence[tuple[str, float]]
  limit: float | None = None


_DPI = 100
_COLUMNS = 6
_COLOR = '#0072B2'
# A spectrogram is dark that far below its loudest place.
_DECIBELS = 80.0
_MAX_COUNTED_CLASSES = 20


def drawn(figure: Figure) -> Picture:
  """Returns the pixels of a figure."""
  canvas = FigureCanvasAgg(figure)
  figure.set_dpi(_DPI)
  canvas.draw()
  return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def views_of(names: Collection[str]) -> list[str]:
  """Returns which arrays of a batch are drawn: what is seen, then the sound.

  Args:
    names: of the arrays there are.
  """
  seen = [name for name in (IMAGE, VIDEO, POINTS) if name in names]
  return seen[:1] + [AUDIO] * (AUDIO in names)


def gallery(
  examples: Sequence[tuple[str, Mapping[str, np.ndarray]]],
) -> Figure:
  """Draws examples row by row, each with its title.

  Args:
    examples: titles of three lines at most, and the arrays that `views_of`
      named; if one is seen and heard, its sound is drawn below.
  """
  rows = -(-len(examples) // _COLUMNS)
  views_per_example = max(len(views) for _, views in examples)
  heights = [1.0, 0.32][:views_per_example] * rows
  figure = Figure(
    figsize=(2.2 * _COLUMNS, 0.5 * rows + 2.2 * sum(heights)),
    layout='constrained',
  )
  grid = figure.subplots(
    len(heights), _COLUMNS, squeeze=False, height_ratios=heights
  )
  for axes in figure.axes:
    axes.axis('off')
  for index, (title, views) in enumerate(examples):
    row, column = divmod(index, _COLUMNS)
    for below, (name, view) in enumerate(views.items()):
      _DRAW[name](grid[views_per_example * row + below, column], view)
    grid[views_per_example * row, column].set_title(
      title, fontsize=9, loc='left'
    )
  return figure


def confusion_matrix(
  counts: Integer[np.ndarray, 'labels predictions'], names: Sequence[str]
) -> Figure:
  """Draws how often the examples of each class were taken for each.

  Args:
    counts: of examples by label and prediction, in the order of `names`.
    names: of the classes.
  """
  size = 2.2 + 0.36 * len(names)
  figure = Figure(figsize=(size + 0.6, size), layout='constrained')
  axes = figure.subplots()
  totals = counts.sum(axis=1, keepdims=True)
  shares = counts / np.maximum(totals, 1)
  # The root shows rare mistakes beside what is common.
  axes.imshow(np.sqrt(shares), cmap='Blues', vmin=0.0, vmax=1.0)
  if len(names) <= _MAX_COUNTED_CLASSES:
    for (row, column), count in np.ndenumerate(counts):
      if count:
        axes.text(
          column,
          row,
          str(count),
          ha='center',
          va='center',
          fontsize=7,
          color='white' if shares[row, column] > 0.3 else 'black',
        )
  accuracies = [
    f'{name[:18]}  {share:.0%}' if total else name[:18]
    for name, share, total in zip(
      names, np.diag(shares), totals[:, 0], strict=True
    )
  ]
  axes.set_yticks(range(len(names)), accuracies, fontsize=8)
  axes.set_xticks(
    range(len(names)), [name[:18] for name in names], fontsize=8, rotation=90
  )
  axes.set_ylabel('label, and how often it was told', fontsize=9)
  axes.set_xlabel('prediction', fontsize=9)
  axes.tick_params(length=0)
  axes.spines[:].set_visible(False)
  return figure


def bar_charts(charts: Sequence[BarChart]) -> Figure:
  """Draws bar charts, one beside the other."""
  longest = max(len(chart.bars) for chart in charts)
  figure = Figure(
    figsize=(5.4 * len(charts), 1.0 + 0.21 * longest), layout='constrained'
  )
  grid = figure.subplots(1, len(charts), squeeze=False).flat
  for axes, chart in zip(grid, charts, strict=True):
    names = [name for name, _ in chart.bars]
    values = [value for _, value in chart.bars]
    axes.barh(range(len(names)), values, color=_COLOR, height=0.7)
    for row, value in enumerate(values):
      axes.text(value, row, f' {value:.3g}', va='center', fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(longest - 0.5, -0.5)
    # So that the numbers have a place beside the longest bars.
    axes.set_xlim(0.0, 1.1 * (chart.limit or max(values, default=1.0)))
    axes.set_title(chart.title, loc='left', fontsize=10)
    axes.tick_params(axis='y', length=0)
    axes.tick_params(axis='x', labelsize=8)
    axes.spines[['top', 'right']].set_visible(False)
  return figure


def _draw_image(axes: Axes, image: np.ndarray) -> None:
  pixels = np.clip(np.round(image), 0, 255).astype(np.uint8)
  is_grey = pixels.shape[-1] == 1
  axes.imshow(pixels[..., 0] if is_grey else pixels, cmap='gray')


def _draw_video(axes: Axes, video: np.ndarray) -> None:
  """Draws the frame in the middle."""
  _draw_image(axes, video[len(video) // 2])


def _draw_points(axes: Axes, points: np.ndarray) -> None:
  """Draws what is seen from above, in the colours of heights."""
  x, y, z = points[:, :3].T
  axes.scatter(x, y, c=z, s=1)
  axes.set_aspect('equal')


def _draw_audio(axes: Axes, samples: np.ndarray) -> None:
  """Draws the spectrogram of the first channel."""
  window = min(256, len(samples))
  with np.errstate(divide='ignore'):  # Silence.
    *_, image = axes.specgram(
      samples[:, 0], NFFT=window, noverlap=window // 2, cmap='magma'
    )
  decibels = np.asarray(image.get_array())
  loudest = max(float(decibels.max()), -_DECIBELS)
  image.set_data(np.maximum(decibels, loudest - _DECIBELS))
  image.set_clim(loudest - _DECIBELS, loudest)


_DRAW: Mapping[str, Callable[[Axes, np.ndarray], None]] = {
  IMAGE: _draw_image,
  VIDEO: _draw_video,
  POINTS: _draw_points,
  AUDIO: _draw_audio,
}
