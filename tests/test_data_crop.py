"""Windows and bicubic resizing against TensorFlow's and Pillow's."""

import numpy as np
import pytest
import tensorflow as tf
from imagenet_tars import photo
from PIL import Image

from perceiver_jax.data import crop
from perceiver_jax.data.resize import resize, resize_bytes

NUM_DRAWS = 1500


def ours(height, width, **kwargs):
  rng = np.random.default_rng(0)
  return np.array(
    [crop.random_window(height, width, rng, **kwargs) for _ in range(NUM_DRAWS)]
  )


def tensorflows(height, width):
  def draw(seed):
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
      [height, width, 3],
      bounding_boxes=tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
      seed=[seed, 0],
      min_object_covered=0.1,
      aspect_ratio_range=(3 / 4, 4 / 3),
      area_range=(0.08, 1.0),
      max_attempts=10,
      use_image_if_no_bounding_boxes=True,
    )
    return tf.concat([begin[:2], size[:2]], axis=0)

  draws = tf.data.Dataset.range(NUM_DRAWS).map(draw)
  return np.array(list(draws.as_numpy_iterator()))


def largest_gap(first, second):
  """Returns how far two empirical distributions are apart, in 0..1."""
  values = np.concatenate([first, second])
  return max(
    abs(np.mean(first <= value) - np.mean(second <= value)) for value in values
  )


@pytest.mark.parametrize('size', [(375, 500), (500, 333), (120, 400)])
def test_random_windows_are_distributed_as_tensorflows(size):
  first, second = ours(*size), tensorflows(*size)
  for column in range(4):
    # Two samples of one distribution are further apart once in 10,000 times.
    assert largest_gap(first[:, column], second[:, column]) < 0.082
  areas = [windows[:, 2] * windows[:, 3] for windows in (first, second)]
  assert largest_gap(*areas) < 0.082


@pytest.mark.parametrize('size', [(375, 500), (500, 333), (7, 5)])
def test_random_windows_stay_inside_image_area_and_ratio(size):
  height, width = size
  tops, lefts, heights, widths = ours(height, width).T
  assert min(tops.min(), lefts.min()) == 0
  assert (tops + heights).max() == height
  assert (lefts + widths).max() == width
  areas = heights * widths / (height * width)
  assert 0.1 <= areas.min() < areas.max() <= 1.0
  # A pixel more or less is within rounding.
  assert np.all((widths + 0.5) / heights >= 3 / 4)
  assert np.all((widths - 0.5) / heights <= 4 / 3)


def test_area_and_ratio_of_a_random_window_can_be_chosen():
  windows = ours(200, 300, area=(0.4, 0.5), ratio=(2.0, 2.0))
  areas = windows[:, 2] * windows[:, 3] / (200 * 300)
  assert 0.4 <= areas.min() < 0.41
  assert 0.49 < areas.max() <= 0.5
  np.testing.assert_allclose(windows[:, 3] / windows[:, 2], 2.0, atol=0.01)


def test_a_very_long_image_has_no_random_window():
  rng = np.random.default_rng(0)
  assert crop.random_window(20, 400, rng) is None
  assert crop.random_window(1, 1, rng) == (0, 0, 1, 1)


@pytest.mark.parametrize(
  ('height', 'width', 'expected'),
  [
    (256, 256, (16, 16, 224, 224)),
    (375, 500, (24, 86, 328, 328)),
    (500, 333, (105, 21, 291, 291)),
    (1, 9, (0, 4, 1, 1)),
  ],
)
def test_centre_windows_are_those_of_the_published_evaluation(
  height, width, expected
):
  assert crop.centre_window(height, width, 224 / 256) == expected


def test_a_window_is_a_part_of_the_image():
  image = np.arange(60).reshape(5, 4, 3)
  part = crop.Window(1, 2, 3, 1).of(image)
  np.testing.assert_array_equal(part[..., 0], [[18], [30], [42]])
  assert np.shares_memory(part, image)


@pytest.mark.parametrize('old', [(375, 500), (224, 224), (50, 31), (2, 1)])
@pytest.mark.parametrize('new', [(224, 224), (64, 96)])
def test_resize_is_tensorflows(old, new):
  image = photo(0, *old)
  expected = tf.image.resize(image, new, tf.image.ResizeMethod.BICUBIC).numpy()
  # TensorFlow looks weights up in a table of 1024.
  np.testing.assert_allclose(resize(image, *new), expected, atol=0.15)
  assert np.abs(resize(image, *new) - expected).mean() < 0.01


def test_enlarging_is_pillows_bicubic_in_floats():
  image = photo(1, 40, 50)
  expected = [
    Image.fromarray(image[..., channel].astype(np.float32)).resize(
      (120, 99), Image.Resampling.BICUBIC
    )
    for channel in range(3)
  ]
  np.testing.assert_allclose(
    resize(image, 99, 120), np.stack(expected, axis=-1), atol=1e-3
  )


def test_resize_halves_with_the_weights_of_the_kernel():
  # Half way between pixels the weights of Keys' kernel are -1, 9, 9, -1 of 16.
  image = np.zeros((8, 1, 1), np.uint8)
  image[2] = 160
  actual = resize(image, 4, 1)[:, 0, 0]
  # At the border the weight outside, -1, falls away: of 17.
  np.testing.assert_allclose(actual, [-160 / 17, 90, 0, 0], atol=1e-4)


def test_resize_of_bytes_is_close_to_the_exact_one():
  image = photo(0, 300, 400)
  exact = resize(image, 224, 224)
  rough = resize_bytes(image, 224, 224)
  assert rough.dtype == np.uint8
  assert np.abs(np.clip(exact, 0, 255) - rough).mean() < 1.5
  # A shift of half a pixel would be worse than that.
  shifted = np.roll(rough, 1, axis=1)
  assert np.abs(np.clip(exact, 0, 255) - shifted).mean() > 5
