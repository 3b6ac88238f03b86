"""Sights and sounds: what is seen and heard is what the label says."""

import numpy as np
import pytest

from perceiver_jax.data.sights_and_sounds import SightsAndSoundsData
from perceiver_jax.data.sights_and_sounds_builder import (
  CLASSES,
  SightsAndSounds,
  _film,
)

# Hz; a pitch is up to 15% off.
TONES = {
  'glass': (2300, 3300),
  'metal': (600, 1656, 3240),
  'wood': (420, 910),
}


@pytest.fixture(scope='module')
def examples(sights_and_sounds_dir):
  """Examples for test, by name."""
  config = SightsAndSoundsData(data_dir=sights_and_sounds_dir)
  source = config.make_source('test')
  named = {name: [] for name in CLASSES}
  for index in range(len(source)):
    named[CLASSES[source[index]['label']]].append(source[index])
  return named


def test_examples_have_the_sizes_and_classes_they_should(
  sights_and_sounds_dir, examples
):
  config = SightsAndSoundsData(data_dir=sights_and_sounds_dir)
  config.validate()
  assert (config.num_train_examples, config.num_eval_examples) == (2400, 600)
  assert config.class_names == CLASSES
  assert len(CLASSES) == 12 and 'wood cross' in CLASSES
  assert [len(those) for those in examples.values()] == [50] * 12
  spec = config.element_spec()
  assert {name: (s.shape, s.dtype) for name, s in spec.items()} == {
    'video': ((16, 20, 20, 1), np.dtype(np.uint8)),
    'audio': ((8192, 1), np.dtype(np.int16)),
    'label': ((), np.dtype(np.int32)),
  }


def test_no_two_examples_are_alike_and_they_are_always_the_same(tmp_path):
  builder = SightsAndSounds(data_dir=tmp_path)
  once, again, test = (
    [example for _, example in builder._generate_examples(seed, 2)]
    for seed in (0, 0, 1)
  )
  for name in ('video', 'audio'):
    for one, other in zip(once, again, strict=True):
      np.testing.assert_array_equal(one[name], other[name])
    arrays = {example[name].tobytes() for example in once + test}
    assert len(arrays) == 48


def test_shapes_have_the_areas_they_should():
  # By hand: two bars of 9 x 3; points of a grid in a circle of radius 4; 7 x 7.
  areas = {'cross': 45, 'disc': 49, 'square': 49}
  rng = np.random.default_rng(0)
  centre = np.full((16, 2), 9.0)
  seen = {shape: _film(shape, centre, rng)[0, ..., 0] > 100 for shape in areas}
  assert {shape: pixels.sum() for shape, pixels in seen.items()} == areas
  assert not np.array_equal(seen['disc'], seen['square'])


@pytest.mark.parametrize('material', TONES)
def test_the_loudest_tone_is_one_of_the_material(material, examples):
  for shape in ('cross', 'disc', 'square'):
    for example in examples[f'{material} {shape}']:
      power = np.abs(np.fft.rfft(example['audio'][:, 0])) ** 2
      loudest = np.argmax(power)  # In Hz, for it is a second of sound.
      assert any(
        0.84 * tone < loudest < 1.16 * tone for tone in TONES[material]
      )


def _places(video):
  """Returns where the centre of the shape is in each frame."""
  is_shape = video[..., 0] > 100
  pixels = np.arange(video.shape[1])
  counts = is_shape.sum(axis=(1, 2))
  rows = (is_shape.sum(axis=2) * pixels).sum(axis=1) / counts
  columns = (is_shape.sum(axis=1) * pixels).sum(axis=1) / counts
  return np.stack([rows, columns], axis=-1)


def test_shapes_move_within_the_walls(examples):
  for those in examples.values():
    for example in those:
      places = _places(example['video'])
      assert places.min() > 3.4 and places.max() < 15.6
      steps = np.linalg.norm(np.diff(places, axis=0), axis=-1)
      assert 0.2 < steps.max() < 2.6


def test_sounds_begin_when_the_shape_is_at_a_wall(examples):
  num_onsets = 0
  for example in examples['wood disc']:
    loud = np.abs(example['audio'][:, 0]) > 0.06 * 2**15
    # Where it was quiet for a tenth of a second.
    quiet = np.convolve(loud, np.ones(819))[: len(loud)] == loud
    places = _places(example['video'])
    for onset in np.nonzero(loud & quiet)[0] / 8192:
      if onset > 15 / 16:
        continue  # After the last frame.
      num_onsets += 1
      place = [
        np.interp(onset, np.arange(16) / 16, places[:, axis])
        for axis in range(2)
      ]
      # The centre is kept 4 pixels off the walls, between 4 and 15.
      assert min(abs(p - wall) for p in place for wall in (4, 15)) < 1.2
  assert num_onsets >= 50
