"""Changes of colour, against the operations one by one, in floats."""

import colorsys

import numpy as np
import pytest

from perceiver_jax.data.colour import ColourJitter

RNG = np.random.default_rng(0)
# Not near 0 or 255, where results are cut off.
VIDEO = RNG.integers(90, 165, size=(3, 10, 12, 3), dtype=np.uint8)
# OpenCV multiplies bytes in fixed point.
TOLERANCE = 1.01
NOTHING = {
  'prob': 1.0,
  'max_brightness': 0.0,
  'max_saturation': 0.0,
  'max_contrast': 0.0,
  'max_hue': 0.0,
}


class Fixed(np.random.Generator):
  """Draws the given shares of the largest changes, and always changes."""

  def __init__(self, brightness=0.0, saturation=0.0, contrast=0.0, hue=0.0):
    super().__init__(np.random.PCG64(0))
    self._shares = np.array([brightness, saturation, contrast, hue])

  def random(self):
    return 0.0

  def uniform(self, low, high, size):
    assert (low, high, size) == (-1.0, 1.0, 4)
    return self._shares.copy()


def _changed(jitter, **shares):
  return ColourJitter(**NOTHING | jitter)(VIDEO, Fixed(**shares))


def test_brightness_is_added_to_all_colours():
  actual = _changed({'max_brightness': 0.1}, brightness=-0.5)
  np.testing.assert_allclose(actual, VIDEO - 0.05 * 255, atol=0.51)


def test_saturation_moves_colours_from_their_grey():
  actual = _changed({'max_saturation': 0.4}, saturation=0.5)
  grey = VIDEO @ [0.299, 0.587, 0.114]
  expected = grey[..., None] + 1.2 * (VIDEO - grey[..., None])
  np.testing.assert_allclose(actual, expected, atol=TOLERANCE)
  grey = _changed({'max_saturation': 1.0}, saturation=-1.0)
  assert np.ptp(grey.astype(int), axis=-1).max() <= 1


def test_contrast_is_about_the_mean_colour_of_the_clip():
  actual = _changed({'max_contrast': 0.4}, contrast=-1.0)
  mean = VIDEO.mean(axis=(0, 1, 2))
  np.testing.assert_allclose(actual, mean + 0.6 * (VIDEO - mean), atol=0.51)


def test_a_third_of_a_turn_of_hue_swaps_the_colours_round():
  actual = _changed({'max_hue': 1 / 3}, hue=1.0)
  np.testing.assert_allclose(actual, np.roll(VIDEO, 1, axis=-1), atol=0.51)
  # As in HSV: red becomes green.
  red = colorsys.rgb_to_hsv(1.0, 0.0, 0.0)
  assert colorsys.hsv_to_rgb(red[0] + 1 / 3, *red[1:]) == (0.0, 1.0, 0.0)


def test_hue_leaves_grey_as_it_is_and_brightness_the_same():
  actual = _changed({'max_hue': 0.2}, hue=0.7).astype(float)
  np.testing.assert_allclose(
    actual.sum(axis=-1), VIDEO.sum(axis=-1, dtype=int), atol=1.6
  )
  assert np.abs(actual - VIDEO).max() > 5


def test_all_together_are_one_after_the_other():
  jitter = {
    'max_brightness': 0.1,
    'max_saturation': 0.4,
    'max_contrast': 0.4,
    'max_hue': 1 / 3,
  }
  shares = {'brightness': 0.5, 'saturation': -0.5, 'contrast': 0.5, 'hue': 1.0}
  expected = VIDEO + 0.05 * 255
  grey = (expected @ [0.299, 0.587, 0.114])[..., None]
  expected = grey + 0.8 * (expected - grey)
  mean = expected.mean(axis=(0, 1, 2))
  expected = np.roll(mean + 1.2 * (expected - mean), 1, axis=-1)
  actual = _changed(jitter, **shares)
  np.testing.assert_allclose(actual, expected, atol=TOLERANCE)


def test_results_are_cut_off_at_black_and_white():
  for share, level in ((1.0, 255), (-1.0, 0)):
    actual = _changed({'max_brightness': 1.0}, brightness=share)
    assert (actual == level).all()


def test_changes_are_drawn_anew_within_their_bounds():
  jitter = ColourJitter(**NOTHING | {'prob': 0.8, 'max_brightness': 0.1})
  rng = np.random.default_rng(0)
  changes = np.array(
    [
      np.mean(jitter(VIDEO, rng).astype(float) - VIDEO) / 255
      for _ in range(300)
    ]
  )
  assert 0.1 < np.mean(changes == 0) < 0.3
  assert -0.103 < changes.min() < -0.09 < 0.09 < changes.max() < 0.103


@pytest.mark.parametrize(
  ('field', 'value'),
  [('prob', 1.5), ('max_saturation', -0.1), ('max_contrast', 1.5),
   ('max_brightness', -0.1), ('max_hue', -0.1)],
)  # fmt: skip
def test_bounds_out_of_range_are_refused(field, value):
  with pytest.raises(ValueError, match=rf'{field} must be .* got {value}'):
    ColourJitter(**{field: value}).validate()
