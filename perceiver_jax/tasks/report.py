"""What an evaluation says of classes and of single examples."""

import csv
import heapq
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from perceiver_jax.tasks.inputs import AUDIO, IMAGE, POINTS, VIDEO
from perceiver_jax.tasks.ranking import rank_classes

PER_CLASS_FILE = 'per_class.csv'
MISTAKES_FILE = 'mistakes.png'
_COLUMNS = 6
_MAX_SHOWN = 24


class _Mistake(NamedTuple):
  """An example that was taken for another class; `name` is its array's."""

  label: int
  predicted: int
  name: str
  example: np.ndarray


class ClassReport:
  """Counts by class, and the mistakes that the model was most sure of.

  Args:
    class_names: of the labels, in order; () numbers them.
  """

  def __init__(self, class_names: Sequence[str]) -> None:
    self._names = class_names
    self._counts: dict[int, np.ndarray] = {}
    self._mistakes: list[tuple[float, int, _Mistake]] = []
    self._num_examples = 0

  def observe(
    self, batch: Mapping[str, np.ndarray], outcomes: Mapping[str, np.ndarray]
  ) -> None:
    """Takes note of a batch.

    Args:
      batch: 'image' [B, Y, X, C] or 'video' [B, T, Y, X, C], with colours in
        0..255, 'points' [B, M, K] or 'audio' [B, S, C]; the first of these
        that is there is shown.
      outcomes: what `ClassificationTask` says of each example.
    """
    name = next((name for name in _DRAW if name in batch), None)
    for row, label in enumerate(outcomes['label']):
      rank, predicted = outcomes['rank'][row], outcomes['predicted'][row]
      counts = self._counts.setdefault(int(label), np.zeros(3, np.int64))
      counts += [1, rank < 1, rank < 5]
      if rank >= 1 and name is not None:
        shown = _Mistake(int(label), int(predicted), name, batch[name][row])
        # The number decides between equals, which arrays cannot.
        entry = (
          float(outcomes['probability'][row]),
          -self._num_examples,
          shown,
        )
        is_full = len(self._mistakes) == _MAX_SHOWN
        (heapq.heappushpop if is_full else heapq.heappush)(
          self._mistakes, entry
        )
      self._num_examples += 1

  def save(self, directory: str | os.PathLike[str]) -> None:
    """Writes `per_class.csv`, and `mistakes.png` if there are any."""
    rows = []
    for label in sorted(self._counts):
      examples, top_1, top_5 = self._counts[label]
      accuracies = (f'{top / examples:.4f}' for top in (top_1, top_5))
      rows.append([label, _name(self._names, label), examples, *accuracies])
    _write_table(directory, ['examples', 'top_1', 'top_5'], rows)
    if self._mistakes:
      with (epath.Path(directory) / MISTAKES_FILE).open('wb') as file:
        self._figure().savefig(file, format='png', dpi=100)

  def _figure(self) -> Figure:
    rows = -(-len(self._mistakes) // _COLUMNS)
    figure = Figure(figsize=(2.2 * _COLUMNS, 2.7 * rows), layout='constrained')
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, _COLUMNS, squeeze=False).flat
    mistakes = sorted(self._mistakes, reverse=True)
    for axes, (probability, _, mistake) in zip(grid, mistakes, strict=False):
      _DRAW[mistake.name](axes, mistake.example)
      axes.set_title(
        f'{_name(self._names, mistake.predicted)[:22]}  {probability:.0%}\n'
        f'is {_name(self._names, mistake.label)[:24]}',
        fontsize=9,
        loc='left',
      )
    for axes in figure.axes:
      axes.axis('off')
    return figure


class TagReport:
  """How well each of many tags of examples was told.

  Args:
    class_names: of the tags, in order; () numbers them.
  """

  def __init__(self, class_names: Sequence[str]) -> None:
    self._names = class_names
    self._scores: list[np.ndarray] = []
    self._labels: list[np.ndarray] = []

  def observe(
    self, batch: Mapping[str, np.ndarray], outcomes: Mapping[str, np.ndarray]
  ) -> None:
    """Takes note of what `TaggingTask` says of each example."""
    del batch
    self._scores.append(outcomes['scores'])
    self._labels.append(outcomes['labels'])

  def save(self, directory: str | os.PathLike[str]) -> None:
    """Writes `per_class.csv`, a class that cannot be ranked without numbers."""
    ranking = rank_classes(
      np.concatenate(self._scores), np.concatenate(self._labels)
    )
    rows = []
    for label, (positives, *values) in enumerate(zip(*ranking, strict=True)):
      numbers = ('' if np.isnan(value) else f'{value:.4f}' for value in values)
      rows.append([label, _name(self._names, label), positives, *numbers])
    _write_table(directory, ['positives', 'average_precision', 'auc'], rows)


def _name(names: Sequence[str], label: int) -> str:
  return names[label] if label < len(names) else str(label)


def _write_table(
  directory: str | os.PathLike[str],
  columns: Sequence[str],
  rows: Sequence[Sequence[Any]],
) -> None:
  """Writes a row a class: its number, its name, and what is said of it."""
  directory = epath.Path(directory)
  directory.mkdir(parents=True, exist_ok=True)
  with (directory / PER_CLASS_FILE).open('w') as file:
    writer = csv.writer(file, lineterminator='\n')
    writer.writerow(['class', 'name', *columns])
    writer.writerows(rows)


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
  axes.specgram(samples[:, 0], cmap='magma')


_DRAW = {
  IMAGE: _draw_image,
  VIDEO: _draw_video,
  POINTS: _draw_points,
  AUDIO: _draw_audio,
}
