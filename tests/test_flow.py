"""Optical flow: neighbourhoods as tokens, tokens as queries, the presets."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import perceiver_jax
from perceiver_jax import presets
from perceiver_jax.modalities.flow import (
  FlowInput,
  FlowOutput,
  _neighbourhoods,
)
from perceiver_jax.modalities.grid import FourierPositions
from perceiver_jax.modalities.image import ImageInput
from perceiver_jax.model import (
  AttentionDecoder,
  AverageDecoder,
  PerceiverConfig,
  Precision,
)
from perceiver_jax.nn.blocks import CrossAttendConfig, SelfAttendConfig
from perceiver_jax.weights.deepmind import from_deepmind, to_deepmind

_SHAPE = (2, 2, 5, 6, 3)


def _config(**fields):
  positions = FourierPositions(num_bands=2, max_resolution=(5, 6))
  fields = {
    'inputs': FlowInput(embedding_channels=4, positions=positions),
    'outputs': FlowOutput(use_zero_init=False),
    'decoder': AttentionDecoder(
      query_channels=None,
      cross_attend=CrossAttendConfig(use_query_residual=False),
    ),
  } | fields
  return PerceiverConfig(
    num_latents=4,
    latent_channels=8,
    num_blocks=2,
    num_self_attends_per_block=2,
    self_attend=SelfAttendConfig(num_heads=2),
    **fields,
  )


def _frames(seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=_SHAPE).astype(np.float32)


def _jitted(config):
  """Returns the functions of a model, compiled."""
  init, *functions = perceiver_jax.build(config)
  return perceiver_jax.Perceiver(init, *map(jax.jit, functions))


@functools.cache
def _model():
  perceiver = _jitted(_config())
  params = perceiver.init(jax.random.key(0), _frames())
  rng = np.random.default_rng(0)
  return perceiver, jax.tree.map(
    lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape).astype(np.float32),
    params,
  )


def _assert_close(actual, expected, tolerance=1e-5):
  scale = np.std(expected)
  np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


def test_token_sees_the_pixels_around_it_in_both_frames():
  frames = np.arange(2 * 3 * 4, dtype=np.float32).reshape(1, 2, 3, 4, 1) + 1
  around = np.asarray(_neighbourhoods(jnp.asarray(frames), 3))
  assert around.shape == (1, 3, 4, 18)
  first = np.array([1, 2, 3, 5, 6, 7, 9, 10, 11])
  np.testing.assert_array_equal(around[0, 1, 1], [*first, *first + 12])
  np.testing.assert_array_equal(
    around[0, 0, 3, :9], [0, 0, 0, 3, 4, 0, 7, 8, 0]
  )


def test_colours_run_fastest_in_a_neighbourhood():
  frames = _frames()
  around = _neighbourhoods(jnp.asarray(frames), 3)
  np.testing.assert_array_equal(around[0, 2, 3, 12:15], frames[0, 0, 2, 3])
  np.testing.assert_array_equal(around[0, 2, 3, 27:30], frames[0, 1, 1, 2])


def test_verbs_make_a_flow_for_each_pixel():
  perceiver, params = _model()
  encoded = perceiver.encode(params, None, _frames())
  assert encoded.mask is None
  latents = perceiver.process(params, None, encoded)
  flow = perceiver.decode(params, None, latents, encoded.tokens)
  assert flow.shape == (2, 5, 6, 2)
  _assert_close(flow, perceiver.apply(params, None, _frames()))


def test_flow_of_some_pixels_is_that_among_all():
  perceiver, params = _model()
  encoded = perceiver.encode(params, None, _frames())
  latents = perceiver.process(params, None, encoded)
  flow = perceiver.decode(params, None, latents, encoded.tokens)
  features = encoded.tokens.dense()
  chunks = [
    perceiver.decode(params, None, latents, features[:, i : i + 13])
    for i in range(0, 30, 13)
  ]
  assert [chunk.shape[1] for chunk in chunks] == [13, 13, 4]
  _assert_close(np.concatenate(chunks, 1), flow.reshape(2, 30, 2))


def test_tokens_are_kept_when_inputs_are_read_again_as_well():
  config = _config()
  config.num_cross_attends = 2
  again = _jitted(config)
  params = again.init(jax.random.key(0), _frames())
  mask = np.ones((2, 30), bool)
  encoded = again.encode(params, None, _frames(), input_mask=mask)
  assert encoded.tokens is not None
  assert encoded.mask is not None
  flow = again.apply(params, None, _frames(), input_mask=mask)
  _assert_close(flow, again.apply(params, None, _frames()))


def test_flow_is_scaled_and_divided():
  perceiver, params = _model()
  other = _jitted(_config(outputs=FlowOutput(divisor=10.0, flow_scale=3.0)))
  expected = perceiver.apply(params, None, _frames()) * (3 / 10) / (20 / 100)
  _assert_close(other.apply(params, None, _frames()), expected)


def test_new_model_predicts_no_motion():
  perceiver = _jitted(_config(outputs=FlowOutput()))
  params = perceiver.init(jax.random.key(0), _frames())
  assert not np.any(perceiver.apply(params, None, _frames()))


def test_both_frames_and_their_order_matter():
  perceiver, params = _model()
  flow = perceiver.apply(params, None, _frames())
  for frame in (0, 1):
    other = _frames()
    other[:, frame] = _frames(seed=1)[:, frame]
    assert np.std(perceiver.apply(params, None, other) - flow) > 1e-4
  swapped = perceiver.apply(params, None, _frames()[:, ::-1])
  assert np.std(swapped - flow) > 1e-4


def test_jit_equals_eager_and_items_are_independent():
  perceiver, params = _model()
  frames = _frames()
  flow = perceiver.apply(params, None, frames)
  with jax.disable_jit():
    eager = perceiver.apply(params, None, frames)
  _assert_close(eager, flow)
  alone = [perceiver.apply(params, None, frames[i : i + 1]) for i in range(2)]
  _assert_close(np.concatenate(alone), flow)


def test_masked_pixels_change_no_flow_but_their_own():
  perceiver, params = _model()
  frames = _frames()
  # A pixel is seen by its neighbours, too: two rows see the first.
  mask = np.broadcast_to(np.arange(30) >= 12, (2, 30))
  other = frames.copy()
  other[:, :, 0] = 50.0
  before, after = (
    perceiver.apply(params, None, x, input_mask=mask) for x in (frames, other)
  )
  np.testing.assert_array_equal(before[:, 2:], after[:, 2:])
  assert np.any(before[:, :2] != after[:, :2])


def test_without_any_pixel_flow_is_finite_and_of_its_own_pixel_alone():
  perceiver, params = _model()
  frames, other = _frames(), _frames()
  other[:, :, 0] = 50.0
  mask = np.zeros((2, 30), bool)
  before, after = (
    perceiver.apply(params, None, x, input_mask=mask) for x in (frames, other)
  )
  assert np.all(np.isfinite(after))
  np.testing.assert_array_equal(before[:, 2:], after[:, 2:])


def test_every_parameter_has_a_finite_gradient():
  perceiver, params = _model()

  @jax.jit
  @jax.grad
  def gradient(params):
    return jnp.mean(perceiver.apply(params, None, _frames()) ** 2)

  for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(params)):
    assert np.all(np.isfinite(leaf)), path
    is_key_bias = path[0].key.endswith('/key') and path[-1].key == 'b'
    assert is_key_bias or np.any(leaf != 0), path


def test_bfloat16_stays_near_float32():
  perceiver, params = _model()
  half = _jitted(_config(precision=Precision.BFLOAT16))
  flow = half.apply(params, None, _frames())
  assert flow.dtype == jnp.float32
  _assert_close(flow, perceiver.apply(params, None, _frames()), tolerance=0.2)


@pytest.mark.parametrize(
  ('frames', 'error', 'message'),
  [
    (np.zeros((1, 3, 4, 4, 3)), ValueError, r'\[B, 2, Y, X, 3\] .* got \[1, 3'),
    (np.zeros((1, 2, 4, 4, 1)), ValueError, r'\[B, 2, Y, X, 3\] .* got \[1, 2'),
    (np.zeros((1, 2, 0, 4, 3)), ValueError, r'a pixel or more.*\[1, 2, 0, 4'),
    (np.zeros((2, 4, 4, 3)), ValueError, r'got \[2, 4, 4, 3\]'),
    (np.zeros((1, 2, 4, 4, 3), np.uint8), TypeError, 'floating.*got uint8'),
  ],
)
def test_frames_that_do_not_fit_are_refused(frames, error, message):
  perceiver, params = _model()
  with pytest.raises(error, match=message):
    perceiver.apply(params, None, frames)


@pytest.mark.parametrize(
  ('queries', 'message'),
  [
    (None, 'queries must be the input tokens, encoded.tokens.*got None'),
    (np.zeros((2, 3, 4), np.float32), r'shape \[2, O, 14\], got \[2, 3, 4\]'),
    (np.zeros((1, 3, 14), np.float32), r'shape \[2, O, 14\], got \[1, 3, 14\]'),
  ],
)
def test_queries_that_do_not_fit_are_refused(queries, message):
  perceiver, params = _model()
  latents = np.zeros((2, 4, 8), np.float32)
  with pytest.raises(ValueError, match=message):
    perceiver.decode(params, None, latents, queries)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'inputs': ImageInput()}, 'must be a FlowInput, got ImageInput'),
    ({'inputs': FlowInput(neighbourhood=2)}, 'must be odd and positive, got 2'),
    ({'decoder': AttentionDecoder()}, 'must be None for FlowOutput, got 1024'),
    ({'decoder': AverageDecoder()}, 'FlowOutput must be an AttentionDecoder'),
    ({'outputs': FlowOutput(divisor=0.0)}, 'divisor must be positive, got 0'),
  ],
)
def test_config_that_does_not_fit_is_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    perceiver_jax.build(_config(**fields))


@pytest.mark.parametrize(
  ('is_light', 'num_params', 'flops'),
  [
    (False, 41_057_134, 1_886_745_225_216),
    # Near arXiv 2107.14795, section 4.2: 27.9 million, 987 billion.
    (True, 27_908_974, 985_517_221_888),
  ],
)
def test_preset_has_its_parameters_and_flops(is_light, num_params, flops):
  config = presets.perceiver_io_optical_flow(is_light=is_light)
  assert config.inputs.num_channels == 322
  assert perceiver_jax.count_params(config) == num_params
  frames = jax.ShapeDtypeStruct((1, 2, 368, 496, 3), jnp.float32)
  assert perceiver_jax.count_flops(config, frames) == flops


def test_full_size_model_has_the_published_names_both_ways():
  config = presets.perceiver_io_optical_flow()
  init = perceiver_jax.build(config).init
  params = jax.eval_shape(init, jax.random.key(0), config.inputs.example())
  theirs, _ = jax.eval_shape(lambda p: to_deepmind(p, {}, config), params)
  assert sum(len(leaves) for leaves in theirs.values()) == 425
  patches = theirs['image_preprocessor/patches_linear']
  assert patches['w'].shape == (54, 64)
  output = theirs['flow_decoder/~/basic_decoder/output']
  assert output['w'].shape == (322, 2)
  back, _ = jax.eval_shape(lambda p: from_deepmind(p, {}, config), theirs)
  assert jax.tree.map(jnp.shape, back) == jax.tree.map(jnp.shape, dict(params))
