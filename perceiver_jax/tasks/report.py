"""What an evaluation says of classes and of single examples."""

import collections
import csv
import heapq
import os
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from matplotlib.figure import Figure
from matplotlib.image import imsave

from perceiver_jax.buckets import make_directory
from perceiver_jax.tasks import drawing
from perceiver_jax.tasks.drawing import BarChart, Picture
from perceiver_jax.tasks.ranking import rank_classes

PER_CLASS_FILE = 'per_class.csv'
MISTAKES = 'mistakes'
CLASSES = 'classes'
_MAX_EXAMPLES = 24
# More classes have no matrix of confusions, and only their ends are drawn.
_MAX_DRAWN_CLASSES = 40


class ClassReport:
  """Counts by class, and the mistakes that the model was most sure of.

  Args:
    class_names: of the labels, in order; () numbers them.
  """

  def __init__(self, class_names: Sequence[str]) -> None:
    self._names = class_names
    self._counts: dict[int, np.ndarray] = {}
    self._taken_for: collections.Counter[tuple[int, int]] = (
      collections.Counter()
    )
    self._mistakes = _Examples()

  def observe(self, outcomes: Mapping[str, np.ndarray]) -> None:
    """Takes note of what `ClassificationTask` says of each example."""
    labels = outcomes['label'].tolist()
    for label, rank in zip(labels, outcomes['rank'], strict=True):
      counts = self._counts.setdefault(label, np.zeros(3, np.int64))
      counts += [1, rank < 1, rank < 5]
    predicted = outcomes['predicted'].tolist()
    self._taken_for.update(zip(labels, predicted, strict=True))

  def show(
    self, batch: Mapping[str, np.ndarray], outcomes: Mapping[str, np.ndarray]
  ) -> None:
    """Keeps the mistakes that the model is most sure of.

    Args:
      batch: 'image' [B, Y, X, C] or 'video' [B, T, Y, X, C], with colours in
        0..255, or 'points' [B, M, K], and 'audio' [B, S, C].
      outcomes: what `ClassificationTask` says of each example.
    """
    for row in np.flatnonzero(outcomes['rank'] >= 1).tolist():
      probability = float(outcomes['probability'][row])
      predicted = _name(self._names, int(outcomes['predicted'][row]))
      label = _name(self._names, int(outcomes['label'][row]))
      title = _title(predicted, probability, label)
      self._mistakes.offer(probability, title, batch, row)

  def save(self, directory: str | os.PathLike[str]) -> dict[str, Picture]:
    """Writes `per_class.csv`, `classes.png`, and `mistakes.png` if any."""
    rows = []
    for label in sorted(self._counts):
      examples, top_1, top_5 = self._counts[label]
      accuracies = (f'{top / examples:.4f}' for top in (top_1, top_5))
      rows.append([label, _name(self._names, label), examples, *accuracies])
    columns = ['examples', 'top_1', 'top_5']
    figures = {CLASSES: self._classes(), MISTAKES: self._mistakes.figure()}
    return _save(directory, columns, rows, figures)

  def _classes(self) -> Figure | None:
    """Draws a matrix of confusions, or the worst of many classes."""
    classes = sorted({c for pair in self._taken_for for c in pair})
    if not classes:
      return None
    if len(classes) <= _MAX_DRAWN_CLASSES:
      counts = np.array(
        [
          [self._taken_for[row, column] for column in classes]
          for row in classes
        ]
      )
      names = [_name(self._names, label) for label in classes]
      return drawing.confusion_matrix(counts, names)
    worst = sorted(self._counts, key=self._top_1)
    confused = [
      (pair, count)
      for pair, count in self._taken_for.most_common()
      if pair[0] != pair[1]
    ]
    return drawing.bar_charts(
      [
        BarChart(
          'classes told worst, top-1 accuracy',
          [
            (_short(_name(self._names, label), 28), self._top_1(label))
            for label in worst[:_MAX_DRAWN_CLASSES]
          ],
          limit=1.0,
        ),
        BarChart(
          'frequent confusions (label → prediction)',
          [
            (
              f'{_short(_name(self._names, label), 18)} → '
              f'{_short(_name(self._names, predicted), 18)}',
              count,
            )
            for (label, predicted), count in confused[:_MAX_DRAWN_CLASSES]
          ],
        ),
      ]
    )

  def _top_1(self, label: int) -> float:
    examples, top_1, _ = self._counts[label]
    return float(top_1 / examples)


class TagReport:
  """How well each of many tags of examples was told.

  Args:
    class_names: of the tags, in order; () numbers them.
  """

  def __init__(self, class_names: Sequence[str]) -> None:
    self._names = class_names
    self._scores: list[np.ndarray] = []
    self._labels: list[np.ndarray] = []
    self._mistakes = _Examples()

  def observe(self, outcomes: Mapping[str, np.ndarray]) -> None:
    """Takes note of what `TaggingTask` says of each example."""
    self._scores.append(outcomes['scores'])
    self._labels.append(outcomes['labels'])

  def show(
    self, batch: Mapping[str, np.ndarray], outcomes: Mapping[str, np.ndarray]
  ) -> None:
    """Keeps the examples with the highest scores of tags they do not have.

    Args:
      batch: 'video' [B, K, T, Y, X, C] and 'audio' [B, K, S, C], of which the
        first of K clips is drawn.
      outcomes: what `TaggingTask` says of each example.
    """
    scores = np.where(outcomes['labels'], -np.inf, outcomes['scores'])
    clips = {name: batch[name][:, 0] for name in drawing.views_of(batch)}
    for row, tag in enumerate(scores.argmax(axis=-1).tolist()):
      tags = np.flatnonzero(outcomes['labels'][row]).tolist()
      labels = ', '.join(_name(self._names, label) for label in tags)
      score = float(scores[row, tag])
      title = _title(_name(self._names, tag), score, labels)
      self._mistakes.offer(score, title, clips, row)

  def save(self, directory: str | os.PathLike[str]) -> dict[str, Picture]:
    """Writes `per_class.csv`, `classes.png`, and `mistakes.png` if any.

    A class that cannot be ranked is without numbers and not drawn.
    """
    rows = []
    for label, (positives, *values) in enumerate(self._ranking()):
      numbers = ('' if np.isnan(value) else f'{value:.4f}' for value in values)
      rows.append([label, _name(self._names, label), positives, *numbers])
    columns = ['positives', 'average_precision', 'auc']
    figures = {CLASSES: self._classes(), MISTAKES: self._mistakes.figure()}
    return _save(directory, columns, rows, figures)

  def _ranking(self) -> Iterable[tuple[int, float, float]]:
    ranking = rank_classes(
      np.concatenate(self._scores), np.concatenate(self._labels)
    )
    return zip(*ranking, strict=True)

  def _classes(self) -> Figure | None:
    """Draws the average precision of all classes, or the ends of many."""
    bars = [
      (
        f'{_short(_name(self._names, label), 28)} ({positives})',
        float(precision),
      )
      for label, (positives, precision, _) in enumerate(self._ranking())
      if not np.isnan(precision)
    ]
    bars.sort(key=lambda bar: bar[1], reverse=True)
    if not bars:
      return None
    title = 'average precision (positive examples)'
    charts = [BarChart(title, bars, limit=1.0)]
    if len(bars) > _MAX_DRAWN_CLASSES:
      charts = [
        BarChart(f'best {title}', bars[:_MAX_DRAWN_CLASSES], limit=1.0),
        BarChart(f'worst {title}', bars[-_MAX_DRAWN_CLASSES:], limit=1.0),
      ]
    return drawing.bar_charts(charts)


class _Examples:
  """Keeps the examples of the highest scores, to be drawn."""

  def __init__(self) -> None:
    self._kept: list[tuple[float, int, str, dict[str, np.ndarray]]] = []
    self._num_offered = 0

  def offer(
    self, score: float, title: str, batch: Mapping[str, np.ndarray], row: int
  ) -> None:
    """Keeps a row of a batch, unless others have higher scores."""
    is_full = len(self._kept) == _MAX_EXAMPLES
    names = drawing.views_of(batch)
    if not names or not score > (self._kept[0][0] if is_full else -np.inf):
      return
    self._num_offered += 1
    # Copies: a view would keep the batch. The number decides between equals.
    views = {name: np.array(batch[name][row]) for name in names}
    entry = (score, -self._num_offered, title, views)
    (heapq.heappushpop if is_full else heapq.heappush)(self._kept, entry)

  def figure(self) -> Figure | None:
    """Draws them, the highest score first; None without any."""
    examples = [entry[2:] for entry in sorted(self._kept, reverse=True)]
    return drawing.gallery(examples) if examples else None


def _name(names: Sequence[str], label: int) -> str:
  return names[label] if label < len(names) else str(label)


def _title(predicted: str, score: float, label: str) -> str:
  """Returns what an example is taken for and, in two lines at most, what it is.

  What does not fit ends in dots.
  """
  lines = [f'{_short(predicted, 22)}  {score:.0%}']
  lines += textwrap.wrap(f'is {label}', 28, max_lines=2, placeholder=' …')
  return '\n'.join(lines)


def _short(name: str, width: int) -> str:
  return name if len(name) <= width else f'{name[: width - 1]}…'


def _save(
  directory: str | os.PathLike[str],
  columns: Sequence[str],
  rows: Sequence[Sequence[Any]],
  figures: Mapping[str, Figure | None],
) -> dict[str, Picture]:
  """Writes a table with a row a class, and pictures, which it returns.

  Args:
    directory: made if it does not exist.
    columns: what is said of a class.
    rows: its number, its name, and what is said of it.
    figures: by name; the picture of one that is not there any more is removed.
  """
  directory = epath.Path(directory)
  make_directory(directory)
  with (directory / PER_CLASS_FILE).open('w') as file:
    writer = csv.writer(file, lineterminator='\n')
    writer.writerow(['class', 'name', *columns])
    writer.writerows(rows)
  pictures = {}
  for name, figure in figures.items():
    path = directory / f'{name}.png'
    if figure is not None:
      pictures[name] = drawing.drawn(figure)
      with path.open('wb') as file:
        imsave(file, pictures[name], format='png')
    elif path.exists():
      path.unlink()
  return pictures
