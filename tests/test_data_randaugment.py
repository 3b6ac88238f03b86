"""Every operation of RandAugment against Pillow's, which the paper used."""

import collections

import numpy as np
import pytest
from imagenet_tars import photo
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from perceiver_jax.data import randaugment
from perceiver_jax.data.randaugment import RandAugment

IMAGES = {
  'photo': photo(0, 120, 160),
  'tall': photo(1, 201, 67),
  'dull': photo(2, 90, 90) // 4 + 60,
  'one colour': np.full((40, 50, 3), (10, 200, 90), np.uint8),
  'two levels': np.where(photo(3, 64, 64) < 128, 3, 250).astype(np.uint8),
  'noise': np.random.default_rng(0).integers(0, 256, (31, 37, 3), np.uint8),
}
FACTORS = [0.1, 0.64, 1.0, 1.9]
GREY = (128, 128, 128)
# Names in the order of the published code, whose draw they must have each.
NAMES = (
  'auto_contrast', 'equalize', 'invert', 'rotate', 'posterize', 'solarize',
  'color', 'contrast', 'brightness', 'sharpness', 'shear_x', 'shear_y',
  'translate_x', 'translate_y', 'cutout', 'solarize_add',
)  # fmt: skip


@pytest.fixture(params=IMAGES.values(), ids=IMAGES)
def image(request):
  return request.param


def assert_pixels(actual, expected, *, within=0, but_for=0.0):
  """Compares levels, allowing a share of pixels to be any other."""
  expected = np.asarray(expected).astype(int)
  assert actual.dtype == np.uint8
  assert actual.shape == expected.shape
  differs = (np.abs(actual - expected) > within).any(axis=-1)
  assert differs.mean() <= but_for


def pillow_affine(image, a, b, c, d, e, f):
  return Image.fromarray(image).transform(
    image.shape[1::-1],
    Image.Transform.AFFINE,
    (a, b, c, d, e, f),
    Image.Resampling.NEAREST,
    fillcolor=GREY,
  )


def test_auto_contrast_is_pillows(image):
  expected = ImageOps.autocontrast(Image.fromarray(image))
  assert_pixels(randaugment.auto_contrast(image), expected)


def test_equalize_is_pillows(image):
  expected = ImageOps.equalize(Image.fromarray(image))
  assert_pixels(randaugment.equalize(image), expected)


def test_invert_is_pillows(image):
  expected = ImageOps.invert(Image.fromarray(image))
  assert_pixels(randaugment.invert(image), expected)


@pytest.mark.parametrize('bits', [1, 2, 4, 8])
def test_posterize_is_pillows(image, bits):
  expected = ImageOps.posterize(Image.fromarray(image), bits)
  assert_pixels(randaugment.posterize(image, bits), expected)


@pytest.mark.parametrize('threshold', [0, 77, 128, 256])
def test_solarize_is_pillows(image, threshold):
  expected = ImageOps.solarize(Image.fromarray(image), threshold)
  assert_pixels(randaugment.solarize(image, threshold), expected)


@pytest.mark.parametrize('addition', [0, 55, 110])
def test_solarize_add_raises_the_levels_below_128(image, addition):
  expected = Image.fromarray(image).point(
    [min(v + addition, 255) if v < 128 else v for v in range(256)] * 3
  )
  assert_pixels(randaugment.solarize_add(image, addition), expected)


@pytest.mark.parametrize('factor', FACTORS)
@pytest.mark.parametrize(
  ('name', 'pillow', 'within'),
  [
    # Pillow rounds grey and the sum to another side.
    ('color', ImageEnhance.Color, 2),
    ('sharpness', ImageEnhance.Sharpness, 1),
    ('brightness', ImageEnhance.Brightness, 0),
    ('contrast', ImageEnhance.Contrast, 0),
  ],
)
def test_enhancements_are_pillows(image, factor, name, pillow, within):
  expected = pillow(Image.fromarray(image)).enhance(factor)
  actual = getattr(randaugment, name)(image, factor)
  assert_pixels(actual, expected, within=0 if factor == 1.0 else within)


@pytest.mark.parametrize('degrees', [15, -15, 29, 3])
def test_rotate_is_pillows(image, degrees):
  expected = Image.fromarray(image).rotate(degrees, fillcolor=GREY)
  actual = randaugment.rotate(image, degrees)
  # Where two pixels are nearest, either may be taken.
  assert_pixels(actual, expected, but_for=0.01)


@pytest.mark.parametrize('level', [0.15, -0.15, 0.3])
def test_shears_are_pillows(image, level):
  assert_pixels(
    randaugment.shear_x(image, level),
    pillow_affine(image, 1, level, 0, 0, 1, 0),
    but_for=0.01,
  )
  assert_pixels(
    randaugment.shear_y(image, level),
    pillow_affine(image, 1, 0, 0, level, 1, 0),
    but_for=0.01,
  )


@pytest.mark.parametrize('pixels', [0, 10, -10, 50, -50])
def test_translations_are_pillows(image, pixels):
  assert_pixels(
    randaugment.translate_x(image, pixels),
    pillow_affine(image, 1, 0, pixels, 0, 1, 0),
  )
  assert_pixels(
    randaugment.translate_y(image, pixels),
    pillow_affine(image, 1, 0, 0, 0, 1, pixels),
  )


@pytest.mark.parametrize(
  ('top', 'left'), [(5, 7), (-12, 3), (20, 30), (-20, -20), (-50, 0), (500, 0)]
)
def test_cutout_greys_the_square_that_pillow_draws(image, top, left):
  expected = Image.fromarray(image)
  corners = [left, top, left + 39, top + 39]
  ImageDraw.Draw(expected).rectangle(corners, fill=GREY)
  assert_pixels(randaugment.cutout(image, top, left, 40), expected)


class Recorder:
  """Stands for the module; notes which operations run, with which numbers."""

  def __init__(self, monkeypatch):
    self.calls = []
    for name in NAMES:
      monkeypatch.setattr(randaugment, name, self._recording(name))

  def _recording(self, name):
    def record(image, *arguments):
      self.calls.append((name, arguments))
      return image

    return record


@pytest.mark.parametrize(
  ('magnitude', 'expected'),
  [
    (
      5.0,
      {
        'auto_contrast': (), 'equalize': (), 'invert': (), 'rotate': (15.0,),
        'posterize': (2,), 'solarize': (128,), 'shear_x': (0.15,),
        'shear_y': (0.15,), 'translate_x': (50.0,), 'translate_y': (50.0,),
        'solarize_add': (55,),
      },
    ),
    (
      9.0,
      {
        'auto_contrast': (), 'equalize': (), 'invert': (), 'rotate': (27.0,),
        'posterize': (3,), 'solarize': (230,), 'color': (1.72,),
        'contrast': (1.72,), 'brightness': (1.72,), 'sharpness': (1.72,),
        'shear_x': (0.27,), 'shear_y': (0.27,), 'translate_x': (90.0,),
        'translate_y': (90.0,), 'solarize_add': (99,),
      },
    ),
  ],
)  # fmt: skip
def test_magnitudes_mean_what_the_published_code_means(
  monkeypatch, magnitude, expected
):
  recorder = Recorder(monkeypatch)
  rng = np.random.default_rng(0)
  augment = RandAugment(num_layers=4000, magnitude=magnitude)
  augment(np.zeros((300, 200, 3), np.uint8), rng)
  seen = collections.defaultdict(list)
  for name, arguments in recorder.calls:
    seen[name].append(arguments)
  # At magnitude 5 their factor is 1, so that they do nothing.
  idle = {'color', 'contrast', 'brightness', 'sharpness'} - expected.keys()
  assert len(idle) == (4 if magnitude == 5.0 else 0)
  assert set(seen) == set(NAMES) - idle
  for name, numbers in expected.items():
    magnitudes = np.abs(np.array(seen[name]))
    np.testing.assert_allclose(magnitudes, [numbers] * len(magnitudes))
    assert 190 < len(magnitudes) < 310  # Of 250 on average.
  for name in ('rotate', 'shear_x', 'shear_y', 'translate_x', 'translate_y'):
    assert 0.35 < np.mean(np.array(seen[name]) < 0) < 0.65
  tops, lefts, sizes = np.array(seen['cutout']).T
  half = {5.0: 20, 9.0: 36}[magnitude]
  assert set(sizes) == {2 * half}
  # Centres are anywhere in the image.
  assert 0 <= (tops + half).min() <= 10
  assert 290 <= (tops + half).max() < 300
  assert 0 <= (lefts + half).min() <= 10
  assert 190 <= (lefts + half).max() < 200


def test_layers_follow_each_other_and_the_image_given_does_not_change():
  original = photo(0, 120, 160)
  image = original.copy()
  rng = np.random.default_rng(3)
  results = {RandAugment()(image, rng).tobytes() for _ in range(60)}
  np.testing.assert_array_equal(image, original)
  assert len(results) > 50  # 4 of 16 operations change nothing.


def test_the_generator_alone_decides():
  first, again, other = (
    RandAugment()(photo(0, 120, 160), np.random.default_rng(seed))
    for seed in (5, 5, 6)
  )
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)


@pytest.mark.parametrize(
  ('field', 'value'),
  [('num_layers', 0), ('magnitude', -0.5), ('magnitude', 10.5)],
)
def test_validate_names_field_and_value(field, value):
  with pytest.raises(ValueError, match=f'{field} must .* got {value}'):
    RandAugment(**{field: value}).validate()
