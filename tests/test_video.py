"""Videos: patches and positions of tokens, queries and pixels of outputs."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import perceiver_jax
from perceiver_jax.modalities.grid import (
  Combine,
  FourierPositions,
  LearnedPositions,
)
from perceiver_jax.modalities.video import VideoInput, VideoOutput
from perceiver_jax.model import AttentionDecoder, PerceiverConfig
from perceiver_jax.nn.positions import GridSpan
from perceiver_jax.nn.tokens import AxisFeatures

_POSITIONS = FourierPositions(num_bands=2, max_resolution=(4, 6, 8))


def _tokens(config, videos):
  transformed = hk.transform(
    lambda videos: config.make('inputs')(videos, is_training=False)
  )
  params = transformed.init(jax.random.key(0), videos)
  return transformed.apply(params, None, videos)


def _videos(shape=(2, 4, 8, 8, 3), seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _features(coordinates):
  """Returns features of one element, in the published order."""
  frequencies = [(1.0, 2.0), (1.0, 3.0), (1.0, 4.0)]
  angles = [
    np.pi * frequency * x
    for x, own in zip(coordinates, frequencies, strict=True)
    for frequency in own
  ]
  return np.concatenate([coordinates, np.sin(angles), np.cos(angles)])


def test_token_holds_one_patch_of_space_and_time():
  videos = np.arange(2 * 4 * 4, dtype=np.float32).reshape(1, 2, 4, 4, 1)
  config = VideoInput(video_channels=1, patch_size=(2, 2, 2), positions=None)
  tokens = _tokens(config, videos)
  assert tokens.axes == (1, 2, 2)
  np.testing.assert_array_equal(
    tokens.dense()[0, 1], [2, 3, 6, 7, 18, 19, 22, 23]
  )


def test_token_knows_its_place_in_time_and_space():
  tokens = _tokens(VideoInput(positions=_POSITIONS), _videos((1, 6, 16, 24, 3)))
  assert tokens.axes == (3, 2, 3)
  assert all(isinstance(entry, AxisFeatures) for entry in tokens.positions)
  dense = tokens.dense()[0].reshape(3, 2, 3, -1)
  assert dense.shape[-1] == 2 * 8 * 8 * 3 + 3 * 5
  expected = _features([0.0, 1.0, -1.0])
  np.testing.assert_allclose(dense[1, 1, 0, -15:], expected, atol=1e-6)


def test_patches_may_be_projected_and_positions_added():
  config = VideoInput(
    embedding_channels=5, position_projection=5, combine=Combine.ADD
  )
  config.validate()
  tokens = _tokens(config, _videos())
  assert (tokens.num_tokens, tokens.num_channels) == (2, 5)
  assert config.num_channels == 5


def test_query_of_an_index_leaves_out_the_end_of_the_grid():
  # Index 5 of a grid of 1 x 2 x 4 is row 1, column 1.
  features = _POSITIONS.at(np.array([5]), (1, 2, 4), GridSpan.EXCLUSIVE)
  expected = _features([-1.0, 0.0, -0.5])
  np.testing.assert_allclose(features[0], expected, atol=1e-6)
  features = _POSITIONS.at(np.array([5]), (1, 2, 4), GridSpan.INCLUSIVE)
  expected = _features([-1.0, 1.0, -1 / 3])
  np.testing.assert_allclose(features[0], expected, atol=1e-6)


def _autoencoder(**changes):
  config = PerceiverConfig(
    inputs=VideoInput(positions=_POSITIONS),
    outputs=VideoOutput(size=(2, 3, 4), positions=_POSITIONS),
    num_latents=4,
    latent_channels=8,
    num_blocks=1,
    num_self_attends_per_block=1,
    decoder=AttentionDecoder(query_channels=15),
  )
  for name, value in changes.items():
    setattr(config, name, value)
  return config


def test_pixels_of_indices_are_those_of_the_whole_video():
  perceiver = perceiver_jax.build(_autoencoder())
  params = perceiver.init(jax.random.key(0), _videos())
  latents = np.random.default_rng(0).normal(size=(2, 4, 8)).astype(np.float32)
  decode = jax.jit(perceiver.decode)
  videos = decode(params, None, latents)
  assert videos.shape == (2, 2, 3, 4, 3)
  indices = np.array([[23, 0, 7], [1, 1, 20]])
  pixels = decode(params, None, latents, indices)
  flat = np.asarray(videos).reshape(2, -1, 3)
  expected = np.stack([flat[i, indices[i]] for i in range(2)])
  np.testing.assert_allclose(pixels, expected, atol=1e-5)
  shared = decode(params, None, latents, indices[0])
  np.testing.assert_allclose(shared, flat[:, indices[0]], atol=1e-5)
  # An index out of the grid is refused where it is known, and never an answer.
  with pytest.raises(ValueError, match='queries must be indices from 0 to 23'):
    perceiver.decode(params, None, latents, np.array([24]))
  pixels = decode(params, None, latents, np.array([24, 3]))
  assert np.all(np.isnan(pixels[:, 0])) and np.all(np.isfinite(pixels[:, 1]))


@pytest.mark.parametrize(
  ('shape', 'message'),
  [
    ((2, 1, 8, 8, 3), r'multiples of the patch_size \(2, 8, 8\), got \(1, 8'),
    ((2, 0, 8, 8, 3), r'positive multiples .* got \(0, 8, 8\)'),
    ((2, 2, 8, 12, 3), r'multiples of .* got \(2, 8, 12\)'),
    ((2, 2, 8, 8, 4), r'shape \[B, T, Y, X, 3\], got \[2, 2, 8, 8, 4\]'),
    ((2, 8, 8, 3), r'shape \[B, T, Y, X, 3\], got \[2, 8, 8, 3\]'),
  ],
)
def test_videos_of_a_wrong_shape_are_refused(shape, message):
  with pytest.raises(ValueError, match=message):
    _tokens(VideoInput(), _videos(shape))


def test_videos_of_integers_are_refused():
  with pytest.raises(TypeError, match='videos must be floating point.*uint8'):
    _tokens(VideoInput(), np.zeros((1, 2, 8, 8, 3), np.uint8))


@pytest.mark.parametrize(
  ('config', 'message'),
  [
    (VideoInput(patch_size=(0, 8, 8)), 'patch_size must be at least 1'),
    (
      VideoInput(positions=FourierPositions(max_resolution=(8, 8))),
      'max_resolution must have 3 numbers',
    ),
    (VideoInput(positions=FourierPositions(num_bands=0)), 'num_bands must be'),
    (
      VideoInput(positions=LearnedPositions(grid=(8, 8))),
      'grid of learned positions must have 3 axes',
    ),
    (_autoencoder(decoder=AttentionDecoder()), 'query_channels must be 15'),
    (
      _autoencoder(outputs=VideoOutput(size=(2, 0, 4))),
      'query_channels must be 387|grid of outputs must be positive',
    ),
  ],
)
def test_config_that_fits_no_video_is_refused(config, message):
  with pytest.raises(ValueError, match=message):
    config.validate()


@pytest.mark.parametrize(
  ('queries', 'error', 'message'),
  [
    (np.zeros((3, 1), int), ValueError, r'\[O\] or \[2, O\], got \[3, 1\]'),
    (np.zeros(0, int), ValueError, r'\[O\] or \[2, O\], got \[0\]'),
    (np.zeros(4), TypeError, 'queries must be integer output indices'),
  ],
)
def test_queries_that_are_no_indices_are_refused(queries, error, message):
  perceiver = perceiver_jax.build(_autoencoder())
  params = jax.eval_shape(perceiver.init, jax.random.key(0), _videos())
  with pytest.raises(error, match=message):
    jax.eval_shape(
      lambda params: perceiver.decode(
        params, None, jnp.zeros((2, 4, 8)), queries
      ),
      params,
    )
