"""Attention maps are the weights with which the model reads."""

import functools

import haiku as hk
import jax
import numpy as np
import pytest

import perceiver_jax
from perceiver_jax.modalities.grid import FourierPositions
from perceiver_jax.modalities.image import ConvEmbedding, ImageInput
from perceiver_jax.modalities.label import LabelOutput
from perceiver_jax.modalities.text import TextInput, TextOutput
from perceiver_jax.model import (
  AttentionDecoder,
  AverageDecoder,
  PerceiverConfig,
  Placement,
)
from perceiver_jax.nn.blocks import CrossAttendConfig, SelfAttendConfig
from perceiver_jax.nn.cross_attention import Algorithm
from perceiver_jax.nn.repeat import Remat

_HEADS = 2


def _config(**changes):
  fields = {
    'inputs': ImageInput(positions=FourierPositions(num_bands=2)),
    'outputs': LabelOutput(num_classes=3),
    'num_latents': 5,
    'latent_channels': 8,
    'num_cross_attends': 2,
    'num_blocks': 2,
    'num_self_attends_per_block': 1,
    'cross_attend': CrossAttendConfig(
      num_heads=_HEADS, qk_channels=6, v_channels=4
    ),
    'self_attend': SelfAttendConfig(num_heads=2),
    'decoder': AttentionDecoder(
      query_channels=8, cross_attend=CrossAttendConfig(num_heads=_HEADS)
    ),
  }
  return PerceiverConfig(**(fields | changes))


def _images(seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(2, 4, 6, 3)).astype(np.float32)


def _drawn(config, inputs):
  """Returns random parameters and state that are far from initial ones."""
  init = perceiver_jax.build_with_state(config).init
  shapes = jax.eval_shape(init, jax.random.key(0), inputs)
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    values = rng.normal(size=leaf.shape).astype(np.float32)
    return 1 + 0.1 * values if path[-1].key in ('scale', 'average') else values

  return jax.tree_util.tree_map_with_path(draw, shapes)


@functools.cache
def _case():
  config = _config()
  params, _ = _drawn(config, _images())
  maps = jax.jit(perceiver_jax.attention_maps(config))(params, _images())
  return params, jax.tree.map(np.asarray, maps)


def _norm(array, params):
  array = array - array.mean(-1, keepdims=True)
  array = array / np.sqrt((array**2).mean(-1, keepdims=True) + 1e-5)
  return array * params['scale'] + params['offset']


def _weights(params, prefix, readers, inputs):
  """The attention weights of one example, in NumPy and float64."""
  params = {
    module.removeprefix(prefix): {
      name: np.asarray(array, np.float64) for name, array in leaves.items()
    }
    for module, leaves in params.items()
    if module.startswith(prefix)
  }
  query, key = (
    _norm(array, params[f'{kind}_norm']) @ linear['w'] + linear['b']
    for array, kind, linear in [
      (readers, 'query', params['attention/query']),
      (inputs, 'input', params['attention/key']),
    ]
  )
  maps = []
  for q, k in zip(
    np.split(query, _HEADS, -1), np.split(key, _HEADS, -1), strict=True
  ):
    logits = q @ k.T / np.sqrt(q.shape[-1])
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    maps.append(weights / weights.sum(-1, keepdims=True))
  return np.stack(maps)


def _tokens(config, images):
  tokens = hk.transform(
    lambda images: config.inputs.make('inputs')(images, is_training=False)
  )
  return np.asarray(tokens.apply({}, None, images).dense(), np.float64)


def test_maps_equal_an_independent_computation():
  config, images = _config(), _images()
  params, maps = _case()
  assert len(maps.inputs) == 2
  tokens = _tokens(config, images)
  # What the second cross-attend starts from, by a model that ends before it.
  shorter = _config(num_cross_attends=1, num_blocks=1)
  perceiver = perceiver_jax.build(shorter)
  encoded = perceiver.encode(params, None, images)
  middle = perceiver.process(params, None, encoded)
  perceiver = perceiver_jax.build(config)
  end = perceiver.process(params, None, perceiver.encode(params, None, images))
  for i in range(2):
    expected = [
      _weights(
        params, 'encoder/cross_attend/', params['encoder']['latents'], tokens[i]
      ),
      _weights(params, 'processor/cross_attend/', middle[i], tokens[i]),
      _weights(
        params, 'decoder/cross_attend/', params['decoder']['query'], end[i]
      ),
    ]
    actual = [maps.inputs[0][i], maps.inputs[1][i], maps.outputs[i]]
    for one, other in zip(actual, expected, strict=True):
      np.testing.assert_allclose(one, other, atol=1e-5)
      assert other.max() > 2 / other.shape[-1]


def test_rows_sum_to_one():
  _, maps = _case()
  assert [m.shape for m in maps.inputs] == [(2, _HEADS, 5, 24)] * 2
  assert maps.outputs.shape == (2, _HEADS, 1, 5)
  for array in (*maps.inputs, maps.outputs):
    np.testing.assert_allclose(array.sum(-1), 1.0, atol=1e-5)
    assert array.min() >= 0.0


@pytest.mark.parametrize(
  'algorithm', [a for a in Algorithm if a is not Algorithm.AUTO]
)
def test_every_algorithm_gives_the_same_maps(algorithm):
  params, expected = _case()
  config = _config()
  config.cross_attend.algorithm = algorithm
  maps = jax.jit(perceiver_jax.attention_maps(config))(params, _images())
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), maps, expected
  )


@pytest.mark.parametrize(
  'algorithm', [a for a in Algorithm if a is not Algorithm.AUTO]
)
def test_masked_tokens_have_no_weight(algorithm):
  params, whole = _case()
  config = _config()
  config.cross_attend.algorithm = algorithm
  mask = np.arange(24)[None] % 3 < np.array([[1], [0]])  # The second: none.
  maps = jax.jit(perceiver_jax.attention_maps(config))(
    params, _images(), input_mask=mask
  )
  for array in maps.inputs:
    assert np.all(array[0][..., ~mask[0]] == 0.0)
    np.testing.assert_allclose(array[0].sum(-1), 1.0, atol=1e-5)
    assert np.all(array[1] == 0.0)
  kept = whole.inputs[0][0][..., mask[0]]
  np.testing.assert_allclose(
    maps.inputs[0][0][..., mask[0]],
    kept / kept.sum(-1, keepdims=True),
    atol=2e-5,
  )


def test_latents_can_be_chosen_without_changing_the_rest():
  params, whole = _case()
  make = jax.jit(
    perceiver_jax.attention_maps(_config()), static_argnames='latents'
  )
  maps = make(params, _images(), latents=(3, 0))
  for part, array in zip(maps.inputs, whole.inputs, strict=True):
    np.testing.assert_allclose(part, array[:, :, [3, 0]], atol=1e-5)
  np.testing.assert_allclose(maps.outputs, whole.outputs, atol=1e-5)


@pytest.mark.parametrize(
  ('changes', 'count'),
  [
    ({'decoder': AverageDecoder()}, 2),
    ({'num_cross_attends': 1}, 1),
    (
      {
        'num_cross_attends': 3,
        'cross_attend_placement': Placement.START,
        'share_cross_attends': False,
        'share_blocks': False,
        'cross_attend': CrossAttendConfig(remat=Remat.ALL),
      },
      3,
    ),
    (
      {
        'inputs': ImageInput(
          embedding=ConvEmbedding(channels=4),
          positions=FourierPositions(num_bands=2),
        )
      },
      2,
    ),
  ],
)
def test_every_kind_of_model_has_a_map_for_each_cross_attend(changes, count):
  config = _config(**changes)
  params, state = _drawn(config, _images())
  maps = jax.jit(perceiver_jax.attention_maps(config))(
    params, _images(), state=state
  )
  assert len(maps.inputs) == count
  assert (maps.outputs is None) == ('decoder' in changes)
  for array in jax.tree.leaves(maps):
    np.testing.assert_allclose(array.sum(-1), 1.0, atol=1e-5)
  different = [np.abs(m - maps.inputs[0]).max() for m in maps.inputs[1:]]
  assert all(difference > 1e-3 for difference in different)


def test_masked_queries_have_no_weight_and_queries_are_passed_on():
  config = _config(
    inputs=TextInput(max_length=6, embedding_channels=8),
    outputs=TextOutput(max_length=6),
    num_cross_attends=1,
  )
  ids = np.arange(8).reshape(2, 4) + 10
  params, _ = _drawn(config, ids)
  maps = jax.jit(perceiver_jax.attention_maps(config))
  whole = maps(params, ids).outputs
  queries = np.array([[5, 1], [0, 2]])
  mask = np.array([[True, False], [True, True]])
  part = maps(params, ids, queries, query_mask=mask).outputs
  assert np.all(part[0, :, 1] == 0.0)
  for example, position, query in [(0, 5, 0), (1, 0, 0), (1, 2, 1)]:
    np.testing.assert_allclose(
      part[example, :, query], whole[example, :, position], atol=1e-5
    )
