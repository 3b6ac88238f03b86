"""An AudioSet of seven tones, each of its own pitch, for tests of preparing."""

import pathlib
from collections.abc import Sequence
from typing import Any

import audioset_clips
import numpy as np

from perceiver_jax.data.records import Records, prepared_builder

IDS = [f'clip-number{number}'[-11:] for number in range(7)]


def write(
  manual_dir: pathlib.Path, ids: Sequence[str] = IDS, split: str = 'eval'
) -> None:
  """Writes the lists of a split, and a clip of a tone for each of its ids."""
  audioset_clips.write_classes(manual_dir)
  audioset_clips.write_list(
    manual_dir, split, [(video_id, 3, 5, [0]) for video_id in ids]
  )
  for video_id in ids:
    audioset_clips.make_clip(
      manual_dir / 'clips' / f'{video_id}_3.wav',
      hz=500 + 100 * IDS.index(video_id),
      size=None,
    )


def read_examples(data_dir: pathlib.Path, split: str = 'eval') -> list[Any]:
  """Returns all examples of a split, in their order."""
  records = Records(prepared_builder('audioset', str(data_dir)), split)
  return [records[index] for index in range(len(records))]


def assert_same(actual: Sequence[Any], expected: Sequence[Any]) -> None:
  """Raises AssertionError unless the examples are equal, and in one order."""
  assert [e['video_id'] for e in actual] == [e['video_id'] for e in expected]
  for one, other in zip(actual, expected, strict=True):
    assert one.keys() == other.keys()
    for name in one:
      np.testing.assert_array_equal(one[name], other[name])
