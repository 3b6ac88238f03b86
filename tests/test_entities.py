"""Sets of entities as inputs and outputs."""

import functools

import jax
import numpy as np
import pytest

import perceiver_jax
from perceiver_jax import presets
from perceiver_jax.modalities.entities import EntitiesInput, EntitiesOutput
from perceiver_jax.model import AttentionDecoder, PerceiverConfig
from perceiver_jax.nn.blocks import CrossAttendConfig, SelfAttendConfig


def _config(**changes):
  fields = {
    'inputs': EntitiesInput(num_features=6, embedding_channels=4),
    'outputs': EntitiesOutput(num_channels=3),
    'num_latents': 3,
    'latent_channels': 8,
    'num_blocks': 1,
    'num_self_attends_per_block': 1,
    'self_attend': SelfAttendConfig(num_heads=2),
    'decoder': AttentionDecoder(
      query_channels=None,
      cross_attend=CrossAttendConfig(use_query_residual=False),
    ),
  }
  return PerceiverConfig(**(fields | changes))


def _entities(seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(2, 5, 6)).astype(np.float32)


@functools.cache
def _built():
  perceiver = perceiver_jax.build(_config())
  shapes = jax.eval_shape(perceiver.init, jax.random.key(0), _entities())
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes
  )
  return perceiver, jax.jit(perceiver.apply), params


def test_every_entity_has_a_vector_and_their_order_does_not_matter():
  _, apply, params = _built()
  vectors = apply(params, None, _entities())
  assert vectors.shape == (2, 5, 3)
  order = np.array([3, 0, 4, 1, 2])
  permuted = apply(params, None, _entities()[:, order])
  # Vectors reach 17: float32 keeps them to some 1e-5.
  np.testing.assert_allclose(permuted, vectors[:, order], atol=5e-5)
  assert np.abs(vectors[:, 0] - vectors[:, 1]).max() > 1e-2


def test_masked_entities_pad_a_set_without_changing_it():
  _, apply, params = _built()
  mask = np.arange(5)[None] < np.array([[3], [5]])
  entities = np.where(mask[..., None], _entities(), _entities(seed=1))
  one = apply(params, None, entities, input_mask=mask)
  two = apply(params, None, _entities(), input_mask=mask)
  np.testing.assert_array_equal(one[0, :3], two[0, :3])
  alone = apply(params, None, _entities()[:1, :3])
  np.testing.assert_allclose(one[:1, :3], alone, atol=1e-5)


def test_vectors_of_some_entities_are_those_of_all():
  perceiver, apply, params = _built()
  encoded = perceiver.encode(params, None, _entities())
  latents = perceiver.process(params, None, encoded)
  some = encoded.tokens.dense()[:, [4, 1]]
  part = perceiver.decode(params, None, latents, some)
  whole = apply(params, None, _entities())
  np.testing.assert_allclose(part, whole[:, [4, 1]], atol=1e-5)


@pytest.mark.parametrize('shape', [(2, 5, 7), (2, 0, 6), (5, 6)])
def test_entities_of_a_wrong_shape_are_refused(shape):
  perceiver, _, params = _built()
  with pytest.raises(ValueError, match=r'entities must have shape \[B, M, 6\]'):
    perceiver.apply(params, None, np.zeros(shape, np.float32))


def test_entities_of_integers_are_refused():
  perceiver, _, params = _built()
  with pytest.raises(TypeError, match='entities must be floating.*got int'):
    perceiver.apply(params, None, np.zeros((2, 5, 6), int))


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'inputs': EntitiesInput(num_features=0)}, 'num_features .* 1, got 0'),
    (
      {'inputs': EntitiesInput(embedding_channels=0)},
      'embedding_channels must be at least 1, got 0',
    ),
    ({'outputs': EntitiesOutput(num_channels=0)}, 'num_channels .* 1, got 0'),
    (
      {'decoder': AttentionDecoder(query_channels=4)},
      'query_channels must be None for EntitiesOutput, got 4',
    ),
  ],
)
def test_config_that_does_not_fit_is_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    perceiver_jax.build(_config(**changes))


def test_starcraft_reaches_the_flops_of_the_paper_with_wider_mlps():
  config = presets.perceiver_io_starcraft()
  config.cross_attend.widening_factor = 3
  config.self_attend.widening_factor = 3
  units = jax.ShapeDtypeStruct((1, 512, 256), np.float32)
  flops = perceiver_jax.count_flops(config, units)
  assert flops == pytest.approx(0.93e9, rel=0.02)
