"""The official lists: which ten seconds of which video have which labels.

Source: research.google.com/audioset/download.html.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from etils import epath

SPLITS = ('balanced_train', 'unbalanced_train', 'eval')
CLASSES_FILE = 'class_labels_indices.csv'

_VIDEO_ID = re.compile(r'[\w-]{11}', re.ASCII)


def list_file(split: str) -> str:
  """Returns the official name of the list of a split."""
  return f'{split}_segments.csv'


class Segment(NamedTuple):
  """A stretch of a video and what is heard in it.

  Attributes:
    video_id: of YouTube, eleven characters.
    start: in seconds.
    end: in seconds.
    labels: indices of classes.
  """

  video_id: str
  start: float
  end: float
  labels: tuple[int, ...]

  @property
  def secs(self) -> float:
    """How long it is."""
    return self.end - self.start


def read_classes(path: epath.Path) -> dict[str, str]:
  """Reads `class_labels_indices.csv`.

  Returns:
    The name of each class by its identifier, such as '/m/09x0r': 'Speech', in
    the order of their indices.

  Raises:
    OSError: there is no such file.
    ValueError: a line is wrong, or there is none; the message names it.
  """
  classes: dict[str, str] = {}
  for place, row in _rows(path):
    if row == ['index', 'mid', 'display_name']:
      continue
    if len(row) != 3 or row[0] != str(len(classes)):
      raise ValueError(
        f'{place} must be {len(classes)},mid,display_name, got {row}.'
      )
    _, mid, name = row
    if mid in classes or name in classes.values():
      raise ValueError(f'{place} must have a mid and a name of its own: {row}.')
    classes[mid] = name
  if not classes:
    raise ValueError(f'{path} must have one class at least, got none.')
  return classes


def read_segments(path: epath.Path, mids: list[str]) -> list[Segment]:
  """Reads a list such as `eval_segments.csv`.

  Args:
    path: of the list.
    mids: identifiers of the classes, in the order of their indices.

  Raises:
    OSError: there is no such file.
    ValueError: a line is wrong, or there is none; the message names it.
  """
  indices = {mid: index for index, mid in enumerate(mids)}
  segments = [_segment(place, row, indices) for place, row in _rows(path)]
  if not segments:
    raise ValueError(f'{path} must have one segment at least, got none.')
  return segments


def check_disjoint(listed: Mapping[str, Sequence[Segment]]) -> None:
  """Checks that no segment is listed twice, in one list or in two.

  Args:
    listed: the segments of each split.

  Raises:
    ValueError: one is; the message names it and its lists.
  """
  owners: dict[tuple[str, float], str] = {}
  for split, segments in listed.items():
    for segment in segments:
      key = segment.video_id, segment.start
      if key in owners:
        raise ValueError(
          f'{list_file(split)} must have segments that are listed but once, '
          f'got {segment.video_id} at {segment.start} s, which is in '
          f'{list_file(owners[key])} already.'
        )
      owners[key] = split


def _rows(path: epath.Path) -> Iterator[tuple[str, list[str]]]:
  """Yields the lines but for comments, each with its place for messages.

  Raises:
    ValueError: it is no text, or a quote is left open.
  """
  try:
    text = path.read_text(encoding='utf-8')
  except UnicodeDecodeError as error:
    raise ValueError(f'{path} must be text in UTF-8, got: {error}.') from error
  # Some editors begin a file with a byte order mark.
  lines = text.removeprefix('\ufeff').splitlines()
  for number, line in enumerate(lines, start=1):
    place = f'{path}, line {number},'
    try:
      # Each line by itself, for an open quote takes what follows in.
      rows = list(csv.reader([line], skipinitialspace=True, strict=True))
    except csv.Error as error:
      raise ValueError(
        f'{place} must have quotes in pairs, got {line!r}: {error}.'
      ) from error
    for row in rows:
      if row and not row[0].startswith('#'):
        yield place, row


def _segment(place: str, row: list[str], indices: dict[str, int]) -> Segment:
  """Returns the segment of a line."""
  try:
    video_id, start, end, labels = row
    segment = Segment(video_id, float(start), float(end), ())
  except ValueError:
    segment = None
  if not (
    segment
    and _VIDEO_ID.fullmatch(segment.video_id)
    and 0 <= segment.start < segment.end < float('inf')
  ):
    raise ValueError(
      f'{place} must be the id of a video, its start and end in seconds, and '
      f'labels in quotes, got {row}.'
    )
  unknown = [mid for mid in labels.split(',') if mid not in indices]
  if unknown:
    raise ValueError(
      f'{place} must have labels of {CLASSES_FILE}, got {unknown}.'
    )
  found = tuple(indices[mid] for mid in labels.split(','))
  return segment._replace(labels=found)
