"""A TFDS builder of shapes that bounce off walls, with the sounds of it."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float, Int16, UInt8

NUM_FRAMES = 16
SIZE = 20
SAMPLE_RATE_HZ = 8192
NUM_SAMPLES = 8192  # A second, as long as the frames.
_NUM_EXAMPLES = {'train': 200, 'test': 50}  # Of each class.
_RADIUS = 4.0
# Which pixels are in a shape, by the distances from its centre along the axes.
_SHAPES = {
  'cross': lambda y, x: (
    (np.maximum(y, x) <= _RADIUS) & (np.minimum(y, x) <= _RADIUS / 4)
  ),
  'disc': lambda y, x: np.hypot(y, x) <= _RADIUS,
  'square': lambda y, x: np.maximum(y, x) <= 0.8 * _RADIUS,
}
_LAST_BOUNCE = 0.7  # The first bounce is at this part of a second or before.
# Of each material: frequencies in Hz, how far they rise while they last, and
# the time in seconds in which they fall to a third.
_MATERIALS = {
  'glass': ((2300.0, 3300.0), 0.0, 0.08),
  'metal': ((600.0, 1656.0, 3240.0), 0.0, 0.3),
  'rubber': ((150.0, 300.0), 1.0, 0.12),
  'wood': ((420.0, 910.0), 0.0, 0.03),
}
CLASSES = tuple(f'{m} {s}' for m, s in itertools.product(_MATERIALS, _SHAPES))

_DESCRIPTION = """
A second of video, 16 frames of 20 x 20 grey pixels, of a shape that moves and
bounces off the walls, and the 8,192 samples of the sounds that it makes there.
What is seen is its shape, one of three; what is heard is its material, one of
four; the label is both. So 25% is the most that can be told by eye alone, 33%
by ear alone. 2,400 examples for training and 600 for test.
"""


class SightsAndSounds(tfds.core.GeneratorBasedBuilder):
  """The bouncing shapes; named `sights_and_sounds` in TFDS."""

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'Initial release.'}  # noqa: RUF012

  def _info(self) -> tfds.core.DatasetInfo:
    encoding = tfds.features.Encoding.BYTES
    return tfds.core.DatasetInfo(
      builder=self,
      description=_DESCRIPTION,
      features=tfds.features.FeaturesDict(
        {
          'video': tfds.features.Tensor(
            shape=(NUM_FRAMES, SIZE, SIZE, 1), dtype=np.uint8, encoding=encoding
          ),
          'audio': tfds.features.Tensor(
            shape=(NUM_SAMPLES, 1), dtype=np.int16, encoding=encoding
          ),
          'label': tfds.features.ClassLabel(names=CLASSES),
        }
      ),
    )

  def _split_generators(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
    del dl_manager  # Nothing is downloaded.
    return {
      split: self._generate_examples(seed, count)
      for seed, (split, count) in enumerate(_NUM_EXAMPLES.items())
    }

  def _generate_examples(
    self, seed: int, count: int
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    for key in range(count * len(CLASSES)):
      label = CLASSES[key % len(CLASSES)]
      material, shape = label.split()
      rng = np.random.default_rng([seed, key])
      places, bounces = _path(rng)
      example = {
        'video': _film(shape, places, rng),
        'audio': _record(material, bounces, rng),
        'label': label,
      }
      yield key, example


def _path(
  rng: np.random.Generator,
) -> tuple[Float[np.ndarray, 'T 2'], Float[np.ndarray, ' bounces']]:
  """Draws a straight path that is mirrored at walls.

  Returns:
    The place in pixels at the time of each frame, and the times of bounces in
    seconds, the first of them early enough to be heard.
  """
  room = SIZE - 1 - 2 * _RADIUS  # Within which the centre moves.
  times = np.arange(NUM_FRAMES) / NUM_FRAMES
  while True:
    start = rng.uniform(0.0, room, size=2)
    speed = rng.uniform(0.5, 1.5, size=2) * room * rng.choice([-1, 1], size=2)
    # Unfolded, the path is straight and meets a wall at each multiple.
    ends = start + speed
    bounces = [
      (wall * room - start[axis]) / speed[axis]
      for axis in range(2)
      for wall in range(-2, 4)
      if min(start[axis], ends[axis]) < wall * room
      and wall * room < max(start[axis], ends[axis])
    ]
    if bounces and min(bounces) <= _LAST_BOUNCE:
      break
  unfolded = (start + speed * times[:, np.newaxis]) % (2 * room)
  return np.minimum(unfolded, 2 * room - unfolded) + _RADIUS, np.sort(bounces)


def _film(
  shape: str, places: Float[np.ndarray, 'T 2'], rng: np.random.Generator
) -> UInt8[np.ndarray, 'T Y X 1']:
  """Draws the shape, brighter than the noise behind it."""
  pixels = np.arange(SIZE)
  y = np.abs(pixels[:, np.newaxis] - places[:, 0, np.newaxis, np.newaxis])
  x = np.abs(pixels - places[:, 1, np.newaxis, np.newaxis])
  light = rng.uniform(120.0, 200.0) * _SHAPES[shape](y, x)
  frames = light + rng.uniform(0.0, 55.0, size=light.shape)
  return frames.astype(np.uint8)[..., np.newaxis]


def _record(
  material: str,
  bounces: Float[np.ndarray, ' bounces'],
  rng: np.random.Generator,
) -> Int16[np.ndarray, 'S 1']:
  """Sums the sounds of all bounces, and some noise."""
  frequencies, rise, decay = _MATERIALS[material]
  pitch = rng.uniform(0.85, 1.15)
  times = np.arange(NUM_SAMPLES) / SAMPLE_RATE_HZ
  samples = rng.normal(scale=0.01, size=NUM_SAMPLES)
  for bounce in bounces:
    since = np.maximum(times - bounce, 0.0)
    fall = np.exp(-since / decay) * (times >= bounce)
    cycles = since + 0.5 * rise * since**2 / decay
    for frequency in frequencies:
      tone = np.sin(2 * np.pi * pitch * frequency * cycles)
      samples += rng.uniform(0.05, 0.15) * fall * tone
  rounded = np.round(np.clip(samples, -1.0, 1.0) * (2**15 - 1))
  return rounded.astype(np.int16)[:, np.newaxis]
