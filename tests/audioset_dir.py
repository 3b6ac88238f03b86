"""A small AudioSet of 527 classes: two pitches, two colours, and no more."""

import pathlib

import audioset_clips

from perceiver_jax.data.audioset.builder import Preparation
from perceiver_jax.data.audioset.prepare import prepare

NUM_CLASSES = 527
PITCHES_HZ = (300, 1500)
COLOURS = ('red', 'blue')
# Index of the first pitch, and of the first colour.
PITCH, COLOUR = 10, 500
SECS = 2.0

# How many clips there are; of these one is sound alone, and one pictures alone.
NUM_EXAMPLES = {'balanced_train': 8, 'unbalanced_train': 5, 'eval': 7}


def make(directory: pathlib.Path) -> str:
  """Makes lists and clips, prepares them, and returns the data directory."""
  manual_dir = directory / 'manual'
  (manual_dir / 'clips').mkdir(parents=True)
  mids = [f'/m/{index:05}' for index in range(NUM_CLASSES)]
  rows = [f'{index},{mid},"Class {index}"' for index, mid in enumerate(mids)]
  _write(
    manual_dir / 'class_labels_indices.csv', 'index,mid,display_name', rows
  )
  for split, count in NUM_EXAMPLES.items():
    rows = []
    for number in range(count):
      video_id = f'{split[:4]}-{number:06}'
      labels = _make_clip(manual_dir / 'clips', video_id, number)
      quoted = ','.join(mids[label] for label in labels)
      rows.append(f'{video_id}, 0.000, {SECS:.3f}, "{quoted}"')
    _write(manual_dir / f'{split}_segments.csv', '# YTID, start, end', rows)
  data_dir = directory / 'data'
  prepare(manual_dir, data_dir, Preparation(segments_per_shard=3))
  return str(data_dir)


def labels_of(number: int) -> list[int]:
  """Returns the labels of a clip."""
  labels = [PITCH + number % 2, COLOUR + number // 2 % 2]
  return {1: labels[:1], 2: labels[1:]}.get(number, labels)


def _make_clip(directory, video_id, number):
  """Makes a clip: number 1 without pictures, number 2 without sound."""
  path = directory / f'{video_id}_0.{"wav" if number == 1 else "mp4"}'
  audioset_clips.make_clip(
    path,
    secs=SECS,
    hz=None if number == 2 else PITCHES_HZ[number % 2],
    size=None if number == 1 else (64, 48),
    colour=COLOURS[number // 2 % 2],
  )
  return labels_of(number)


def _write(path, header, rows):
  text = '\n'.join([header, *rows])
  path.write_text(f'{text}\n')
