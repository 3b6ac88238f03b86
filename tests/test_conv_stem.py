"""The convolutional stem of images at its edges, and its sizes."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from perceiver_jax.modalities.image import (
  ConvEmbedding,
  ImageInput,
  LearnedPositions,
  StemPadding,
)


def _content(images, padding):
  """Returns what the stem makes of images, all of its weights being one."""

  def embed(images):
    embedding = ConvEmbedding(channels=1, padding=padding)
    return embedding(images, is_training=False)

  transformed = hk.transform_with_state(embed)
  params, state = jax.eval_shape(transformed.init, jax.random.key(0), images)
  params, state = jax.tree.map(
    lambda leaf: np.ones(leaf.shape, leaf.dtype), (params, state)
  )
  params['stem/batch_norm']['offset'] = np.zeros((1, 1, 1, 1), np.float32)
  state['stem/batch_norm/~/mean_ema']['average'] *= 0.0
  return transformed.apply(params, state, None, jnp.asarray(images))[0]


def _windows(image, size, padding, reduce):
  """Reduces windows of some size, two pixels apart."""
  padded = np.pad(image, padding)
  starts = [range(0, n - size + 1, 2) for n in padded.shape]
  return np.array(
    [[reduce(padded[y : y + size, x : x + size]) for x in starts[1]]
     for y in starts[0]]
  )  # fmt: skip


@pytest.mark.parametrize(
  ('padding', 'around_image', 'around_pool', 'grid'),
  [
    # As little as is needed, more of it at the end.
    (StemPadding.SAME, [(2, 3), (3, 3)], [(1, 1), (1, 1)], (3, 4)),
    (StemPadding.SYMMETRIC, [(3, 3), (3, 3)], [(0, 0), (0, 0)], (2, 3)),
  ],
)
def test_stem_sums_the_pixels_that_its_padding_leaves(
  padding, around_image, around_pool, grid
):
  image = np.random.default_rng(0).uniform(size=(10, 13)).astype(np.float32)
  sums = _windows(image, 7, around_image, np.sum)
  expected = _windows(sums, 3, around_pool, np.max)
  assert expected.shape == grid
  content = _content(image[None, ..., None], padding)
  np.testing.assert_allclose(content[0, ..., 0], expected, rtol=1e-4)


@pytest.mark.parametrize(
  ('padding', 'size'), [(StemPadding.SAME, 56), (StemPadding.SYMMETRIC, 55)]
)
def test_stem_gives_the_published_number_of_tokens(padding, size):
  images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
  content = jax.eval_shape(lambda array: _content(array, padding), images)
  assert content.shape == (1, size, size, 1)


@pytest.mark.parametrize('padding', StemPadding)
@pytest.mark.parametrize('grid', [(1, 1), (2, 3), (55, 55)])
def test_example_has_the_grid_of_learned_positions(padding, grid):
  inputs = ImageInput(
    embedding=ConvEmbedding(channels=1, padding=padding),
    positions=LearnedPositions(grid=grid, num_channels=1),
  )

  def tokens(images):
    return inputs.make('inputs')(images, is_training=False)

  transformed = hk.transform_with_state(tokens)
  # Learned positions refuse any other grid.
  jax.eval_shape(transformed.init, jax.random.key(0), inputs.example())


def test_image_that_is_too_small_for_symmetric_padding_is_refused():
  images = np.ones((1, 4, 9, 1), np.float32)
  message = r'at least 5 rows and columns .* symmetric padding, got \(4, 9\)'
  with pytest.raises(ValueError, match=message):
    _content(images, StemPadding.SYMMETRIC)
