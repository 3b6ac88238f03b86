"""Clouds of points: Fourier features of data, and clouds of different sizes."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import perceiver_jax
from perceiver_jax.modalities.label import LabelOutput
from perceiver_jax.modalities.points import PointsInput
from perceiver_jax.model import AverageDecoder, PerceiverConfig, Precision
from perceiver_jax.nn.positions import fourier_features_of_data


def _points(num_points=6, num_features=0, seed=0):
  rng = np.random.default_rng(seed)
  points = rng.uniform(-1, 1, (2, num_points, 3 + num_features))
  return points.astype(np.float32)


def _tokens(config, points):
  transformed = hk.transform(
    lambda points: config.make('inputs')(points, is_training=False)
  )
  return transformed.apply({}, None, points)


@pytest.mark.parametrize('max_frequency', [16.0, 1120.0, 4096.0])
def test_features_are_right_at_any_frequency(max_frequency):
  points = _points(500)
  frequencies = np.linspace(1.0, max_frequency, 64)
  angles = np.pi * points.astype(np.float64)[..., None] * frequencies
  angles = angles.reshape(2, 500, -1)
  expected = np.concatenate([points, np.sin(angles), np.cos(angles)], -1)
  for function in (
    fourier_features_of_data,
    jax.jit(fourier_features_of_data, static_argnums=(1, 2)),
  ):
    features = function(points, 64, max_frequency)
    assert features.dtype == jnp.float32
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-6)


def test_features_have_the_gradient_of_sine_and_cosine():
  x = np.float32(0.3)
  frequencies = np.linspace(1.0, 50.0, 4)
  angles = np.pi * frequencies * np.float64(x)
  expected = np.pi * frequencies * np.stack([np.cos(angles), -np.sin(angles)])
  jacobian = jax.jacobian(lambda x: fourier_features_of_data(x, 4, 50.0))
  actual = jacobian(x[None])[:, 0]
  np.testing.assert_allclose(actual[0], 1.0)
  np.testing.assert_allclose(actual[1:], expected.reshape(-1), atol=1e-4)


def test_features_of_a_point_come_before_its_coordinates():
  config = PointsInput(num_features=2, num_bands=4)
  points = _points(num_features=2)
  tokens = _tokens(config, points)
  assert tokens.num_channels == config.num_channels == 2 + 27
  dense = tokens.dense()
  np.testing.assert_array_equal(dense[..., :2], points[..., 3:])
  np.testing.assert_array_equal(dense[..., 2:5], points[..., :3])


@functools.cache
def _built(precision=Precision.FLOAT32):
  config = PerceiverConfig(
    inputs=PointsInput(num_bands=8),
    outputs=LabelOutput(num_classes=5),
    num_latents=4,
    latent_channels=8,
    num_blocks=2,
    num_cross_attends=2,
    num_self_attends_per_block=1,
    decoder=AverageDecoder(),
    precision=precision,
  )
  perceiver = perceiver_jax.build(config)
  params = perceiver.init(jax.random.key(0), _points())
  functions = (jax.jit(function) for function in perceiver[1:])
  return type(perceiver)(perceiver.init, *functions), params


def test_masked_points_pad_a_cloud_without_changing_it():
  perceiver, params = _built()
  apply = perceiver.apply
  small, padded = _points(4), _points(6, seed=1)
  padded[:, :4] = small
  mask = np.tile([True] * 4 + [False] * 2, (2, 1))
  expected = apply(params, None, small)
  actual = apply(params, None, padded, input_mask=mask)
  np.testing.assert_allclose(actual, expected, atol=1e-5)
  assert np.abs(apply(params, None, padded) - expected).max() > 1e-4


def test_order_of_points_does_not_matter():
  perceiver, params = _built()
  points = _points()
  outputs = perceiver.apply(params, None, points)
  reversed_outputs = perceiver.apply(params, None, points[:, ::-1])
  np.testing.assert_allclose(outputs, reversed_outputs, atol=1e-5)


def test_bfloat16_rounds_features_and_not_coordinates():
  perceiver, params = _built(Precision.BFLOAT16)
  encoded = perceiver.encode(params, None, _points())
  expected = fourier_features_of_data(_points(), 8, 1120.0)
  assert encoded.tokens.content.dtype == jnp.bfloat16
  np.testing.assert_array_equal(
    encoded.tokens.content, expected.astype(jnp.bfloat16)
  )


@pytest.mark.parametrize(
  ('shape', 'message'),
  [
    ((2, 5, 4), r'shape \[B, M, 3\] with M at least 1, got \[2, 5, 4\]'),
    ((2, 0, 3), r'shape \[B, M, 3\] with M at least 1, got \[2, 0, 3\]'),
    ((5, 3), r'shape \[B, M, 3\] with M at least 1, got \[5, 3\]'),
  ],
)
def test_points_of_a_wrong_shape_are_refused(shape, message):
  with pytest.raises(ValueError, match=message):
    _tokens(PointsInput(), np.zeros(shape, np.float32))


def test_points_of_integers_are_refused():
  with pytest.raises(TypeError, match='points must be floating point.*int32'):
    _tokens(PointsInput(), np.zeros((1, 2, 3), np.int32))


def test_mask_of_a_wrong_shape_is_refused():
  perceiver, params = _built()
  with pytest.raises(ValueError, match=r'input_mask must .*\[2, 6\], got'):
    perceiver.encode(params, None, _points(), input_mask=np.ones((2, 5), bool))


@pytest.mark.parametrize(
  ('config', 'message'),
  [
    (PointsInput(num_coordinates=0), 'num_coordinates must be at least 1'),
    (PointsInput(num_bands=0), 'num_bands must be at least 1'),
    (PointsInput(num_features=-1), 'num_features must be at least 0'),
    (PointsInput(max_frequency=0.5), 'max_frequency must be at least 1'),
  ],
)
def test_config_that_fits_no_points_is_refused(config, message):
  with pytest.raises(ValueError, match=message):
    config.validate()
