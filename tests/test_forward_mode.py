"""Which algorithms of cross-attention have which derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import perceiver_jax
from perceiver_jax import presets
from perceiver_jax.modalities.grid import FourierPositions
from perceiver_jax.modalities.image import ImageInput
from perceiver_jax.modalities.label import LabelOutput
from perceiver_jax.model import AverageDecoder, PerceiverConfig
from perceiver_jax.nn.blocks import CrossAttendConfig, SelfAttendConfig
from perceiver_jax.nn.cross_attention import Algorithm

_WITH_FORWARD_MODE = (Algorithm.PLAIN, Algorithm.ABSORBED)
_WITHOUT_FORWARD_MODE = (Algorithm.CHUNKED, Algorithm.SEPARABLE)
_IMAGES = np.random.default_rng(0).normal(size=(1, 8, 8, 3)).astype(np.float32)


@functools.cache
def _sum(algorithm):
  """Returns a function of images: the sum of a random model's logits."""
  config = PerceiverConfig(
    inputs=ImageInput(positions=FourierPositions(num_bands=3)),
    outputs=LabelOutput(num_classes=5),
    num_latents=6,
    latent_channels=8,
    num_blocks=1,
    num_self_attends_per_block=1,
    cross_attend=CrossAttendConfig(algorithm=algorithm),
    self_attend=SelfAttendConfig(num_heads=2),
    decoder=AverageDecoder(),
  )
  perceiver = perceiver_jax.build(config)
  shapes = jax.eval_shape(perceiver.init, jax.random.key(0), _IMAGES)
  rng = np.random.default_rng(1)
  params = jax.tree.map(
    lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes
  )
  return jax.jit(lambda images: jnp.sum(perceiver.apply(params, None, images)))


@functools.cache
def _steepest_ascent():
  """Returns a direction of length 1, and the slope in it."""
  gradient = jax.grad(_sum(Algorithm.CHUNKED))(_IMAGES)
  slope = np.linalg.norm(gradient)
  return np.asarray(gradient / slope), slope


@pytest.mark.parametrize('algorithm', _WITH_FORWARD_MODE)
def test_forward_mode_agrees_with_a_written_backward_pass(algorithm):
  direction, slope = _steepest_ascent()
  _, forward = jax.jvp(_sum(algorithm), (_IMAGES,), (direction,))
  _, linear = jax.linearize(_sum(algorithm), _IMAGES)
  np.testing.assert_allclose(forward, slope, rtol=1e-4)
  np.testing.assert_allclose(linear(direction), slope, rtol=1e-4)


@pytest.mark.parametrize('algorithm', _WITHOUT_FORWARD_MODE)
def test_a_written_backward_pass_has_no_forward_mode(algorithm):
  with pytest.raises(TypeError, match='forward-mode'):
    jax.jvp(_sum(algorithm), (_IMAGES,), (_IMAGES,))
  _, linear = jax.linearize(_sum(algorithm), _IMAGES)
  with pytest.raises(TypeError, match='forward-mode'):
    linear(_IMAGES)


@pytest.mark.slow
@pytest.mark.parametrize('algorithm', _WITHOUT_FORWARD_MODE)
def test_second_derivatives_equal_those_of_plain(algorithm):
  direction, slope = _steepest_ascent()

  def along(algorithm):
    return lambda step: _sum(algorithm)(_IMAGES + step * direction)

  expected = jax.hessian(along(Algorithm.PLAIN))(0.0)
  assert abs(expected) > slope / 100
  actual = jax.hessian(along(algorithm))(0.0)
  twice = jax.grad(jax.grad(along(algorithm)))(0.0)
  np.testing.assert_allclose([actual, twice], expected, rtol=1e-3)


@pytest.mark.parametrize('algorithm', Algorithm)
def test_forward_mode_of_a_published_model_needs_an_algorithm(algorithm):
  config = presets.perceiver_io_imagenet_fourier()
  config.cross_attend.algorithm = algorithm
  perceiver = perceiver_jax.build(config)
  images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
  params = jax.eval_shape(perceiver.init, jax.random.key(0), images)

  def tangent(params, images):
    apply = functools.partial(perceiver.apply, params, None)
    return jax.jvp(apply, (images,), (images,))[1]

  # What has no forward mode is met by what lowers it, not by the trace.
  traced = jax.jit(tangent).trace(params, images)
  if algorithm in _WITH_FORWARD_MODE:
    traced.lower()
  else:
    with pytest.raises(TypeError, match='forward-mode'):
      traced.lower()
