"""Every algorithm of cross-attention gives the numbers of the plain one."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_problem import (
  Problem,
  assert_as_near_as_plain,
  assert_equal,
  plain,
)
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from perceiver_jax.modalities.image import FourierPositions
from perceiver_jax.nn.cross_attention import base, choice
from perceiver_jax.nn.cross_attention.absorbed import Absorbed
from perceiver_jax.nn.cross_attention.base import Dropout
from perceiver_jax.nn.cross_attention.choice import Algorithm
from perceiver_jax.nn.cross_attention.chunked import Chunked
from perceiver_jax.nn.cross_attention.plain import Plain
from perceiver_jax.nn.cross_attention.separable import Separable
from perceiver_jax.nn.tokens import AxisFeatures, Tokens

_ALGORITHMS = {
  'absorbed': lambda tokens: Absorbed.prepare(tokens.dense()),
  # Neither 7 nor 13 divides the number of tokens.
  'chunked': lambda tokens: Chunked.prepare(tokens.dense(), 7),
  'separable': lambda tokens: Separable.prepare(tokens, 13),
}


def _mask(problem):
  """Some tokens for the first example, none for the second."""
  mask = np.random.default_rng(1).random((2, problem.tokens.num_tokens)) > 0.4
  mask[1] = False
  return jnp.asarray(mask)


@pytest.mark.parametrize('name', _ALGORITHMS)
@pytest.mark.parametrize(
  'kwargs',
  [
    {},
    {'axes': (3, 2, 4), 'heads': 1},
    {'axes': (1, 1)},
    # In chunks of 2 lead coordinates, the last is half padding.
    {'axes': (7, 5)},
  ],
  ids=['2d', '3d', 'one_token', 'padded'],
)
def test_outputs_and_gradients_equal_plain(name, kwargs):
  problem = Problem(**kwargs)
  assert_equal(problem.gradients(plain), problem.gradients(_ALGORITHMS[name]))


@pytest.mark.parametrize('name', _ALGORITHMS)
def test_large_logits_equal_plain(name):
  problem = Problem(scale=100.0)
  # Logits reach some hundreds: float32 keeps them to about 2e-5.
  assert_equal(
    problem.gradients(plain), problem.gradients(_ALGORITHMS[name]), 1e-3
  )


@pytest.mark.parametrize('name', _ALGORITHMS)
@pytest.mark.parametrize('prob', [0.0, 0.3], ids=['', 'dropout'])
def test_masks_and_dropout_equal_plain(name, prob):
  problem = Problem()
  dropout = Dropout(jax.random.key(0), prob) if prob else None
  gradients = functools.partial(
    problem.gradients, mask=_mask(problem), dropout=dropout
  )
  assert_equal(gradients(plain), gradients(_ALGORITHMS[name]))


@pytest.mark.parametrize('name', [*_ALGORITHMS, 'plain'])
def test_masked_tokens_get_no_gradient_and_empty_rows_give_zeros(name):
  problem = Problem()
  mask = _mask(problem)
  prepare = _ALGORITHMS.get(name, plain)
  output, query, _, tokens = problem.gradients(prepare, mask)
  content = tokens.content.reshape(*mask.shape, -1)
  assert np.all(np.asarray(content)[~np.asarray(mask)] == 0)
  assert np.any(np.asarray(content)[np.asarray(mask)] != 0)
  assert np.all(np.asarray(output)[1] == 0)
  assert np.all(np.asarray(query)[1] == 0)


@pytest.mark.parametrize('name', _ALGORITHMS)
def test_bfloat16_is_as_near_to_float32_as_plain(name):
  make_problem = functools.partial(Problem, (16, 16), heads=1, mean=5.0)
  assert_as_near_as_plain(make_problem, _ALGORITHMS[name])


@pytest.mark.parametrize('name', _ALGORITHMS)
def test_float32_stays_float32_where_float64_is_enabled(name):
  problem = Problem()
  expected = problem.gradients(_ALGORITHMS[name])
  with jax.enable_x64(True):
    actual = problem.gradients(_ALGORITHMS[name])
  assert {leaf.dtype for leaf in actual[:2]} == {jnp.dtype('float32')}
  assert_equal(expected, actual)


@pytest.mark.parametrize('name', ['chunked', 'separable'])
def test_transformations_do_not_change_numbers(name):
  problem = Problem()
  prepare = _ALGORITHMS[name]
  expected = problem.gradients(prepare)

  def vmapped(read):
    def call(query, params, tokens):
      def one(query, content):
        example = dataclasses.replace(tokens, content=content[None])
        return read(query[None], params, example)[0]

      return jax.vmap(one)(query, tokens.content)

    return call

  assert_equal(expected, problem.gradients(prepare, jit=False))
  assert_equal(expected, problem.gradients(prepare, wrap=vmapped))
  assert_equal(expected, problem.gradients(prepare, wrap=jax.checkpoint))


@pytest.mark.parametrize('name', ['chunked', 'separable'])
def test_pmap_does_not_change_numbers(name):
  problem = Problem()

  def read(query, params, tokens):
    return problem.read(_ALGORITHMS[name], query, params, tokens)

  def loss(query, params, tokens):
    return jnp.sum(jnp.sin(read(query, params, tokens)))

  gradient = jax.grad(loss, argnums=(0, 1))
  arguments = jax.tree.map(
    jnp.asarray, (problem.query, problem.params, problem.tokens)
  )
  stacked = jax.tree.map(lambda leaf: leaf[None], arguments)
  actual = jax.pmap(gradient, axis_name='devices')(*stacked)
  assert_equal(
    jax.jit(gradient)(*arguments),
    jax.tree.map(lambda leaf: leaf[0], actual),
  )


@pytest.mark.parametrize('name', ['chunked', 'separable'])
def test_shard_map_does_not_change_numbers(name):
  problem = Problem(batch=jax.device_count())
  mesh = Mesh(jax.devices(), ('devices',))

  def divided(read):
    def call(query, params, tokens):
      def share(query, params, content):
        return read(query, params, dataclasses.replace(tokens, content=content))

      return jax.shard_map(
        share,
        mesh=mesh,
        in_specs=(P('devices'), P(), P('devices')),
        out_specs=P('devices'),
        check_vma=False,
      )(query, params, tokens.content)

    return call

  gradients = functools.partial(problem.gradients, _ALGORITHMS[name])
  assert_equal(gradients(), gradients(wrap=divided))


def test_dropout_of_a_token_does_not_depend_on_its_chunk():
  dropout = Dropout(jax.random.key(0), 0.4)
  every = dropout.factors(jnp.arange(50), (2, 300))
  some = dropout.factors(jnp.arange(20, 31), (2, 300))
  np.testing.assert_array_equal(every[..., 20:31], some)
  assert abs(float(jnp.mean(every)) - 1) < 0.02
  assert set(np.unique(every).round(4)) == {0.0, np.float32(1.6667)}


@pytest.mark.parametrize('name', ['chunked', 'separable'])
def test_memory_does_not_hold_queries_times_tokens(name):
  def temporary_bytes(side):
    problem = Problem((side, 64), heads=1, batch=1)

    def loss(query, params, tokens):
      prepare = {
        'chunked': lambda tokens: Chunked.prepare(tokens.dense(), 128),
        'separable': lambda tokens: Separable.prepare(tokens, 128),
      }[name]
      read = problem.read(prepare, query, params, tokens)
      return jnp.sum(jnp.square(read))

    query = jnp.tile(problem.query, (1, 40, 1, 1))
    arguments = jax.tree.map(
      jnp.asarray, (query, problem.params, problem.tokens)
    )
    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
    analysis = gradient.lower(*arguments).compile().memory_analysis()
    return analysis.temp_size_in_bytes, query.shape[1]

  small, _ = temporary_bytes(16)
  large, num_queries = temporary_bytes(128)
  added_tokens = 112 * 64
  # The plain algorithm adds several float32 a query and token.
  assert large - small < added_tokens * num_queries * 4 / 2


_SIZES = {'num_heads': 1, 'qk_channels': 261, 'v_channels': 261}


def _chosen(inputs, algorithm=Algorithm.AUTO, num_queries=512, **sizes):
  def prepare(inputs):
    kwargs = {**_SIZES, **sizes, 'num_queries': num_queries}
    return choice.prepare(inputs, algorithm, **kwargs)

  return jax.eval_shape(prepare, inputs)


def _shape(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def _tokens(shape, *positions):
  return jax.eval_shape(Tokens, _shape(*shape), positions)


def test_auto_chooses_by_shapes():
  grid = _tokens((1, 224, 224, 3), *FourierPositions()((224, 224)))
  table = _tokens((1, 224, 224, 3), _shape(50176, 258))
  assert isinstance(_chosen(grid), Separable)
  assert isinstance(_chosen(table), Chunked)
  assert isinstance(_chosen(_shape(1, 1024, 261)), Absorbed)
  text = {'num_heads': 8, 'qk_channels': 256, 'v_channels': 1280}
  assert isinstance(_chosen(_shape(1, 2048, 768), **text), Plain)


def test_separable_is_refused_for_inputs_without_a_grid():
  with pytest.raises(ValueError, match='must not be SEPARABLE'):
    _chosen(_shape(1, 10, 4), Algorithm.SEPARABLE)
  line = AxisFeatures(np.zeros((10, 2), np.float32), 0)
  with pytest.raises(ValueError, match=r'got \(10,\)'):
    _chosen(_tokens((1, 10, 4), line), Algorithm.SEPARABLE)


@pytest.mark.parametrize(
  ('algorithm', 'kind'),
  [
    (Algorithm.PLAIN, Plain),
    (Algorithm.ABSORBED, Absorbed),
    (Algorithm.CHUNKED, Chunked),
    (Algorithm.SEPARABLE, Separable),
  ],
)
def test_an_algorithm_can_be_forced(algorithm, kind):
  grid = _tokens((1, 4, 4, 3), *FourierPositions()((4, 4)))
  assert isinstance(_chosen(grid, algorithm), kind)


def test_shared_projections_are_read_as_they_are():
  problem = Problem()
  prepared = plain(problem.tokens)
  projected = prepared.project(problem.params)
  assert projected.keys_and_values is not None
  arguments = (problem.query, problem.params, None, None)
  np.testing.assert_array_equal(
    prepared.read(*arguments), projected.read(*arguments)
  )


def test_normalise_gives_mean_zero_and_variance_one():
  array = np.random.default_rng(0).normal(3.0, 2.0, (4, 50))
  normalised = np.asarray(base.normalise(jnp.asarray(array, jnp.float32)))
  expected = (array - array.mean(-1, keepdims=True)) / np.sqrt(
    array.var(-1, keepdims=True) + 1e-5
  )
  np.testing.assert_allclose(normalised, expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['absorbed', 'chunked', 'separable'])
def test_full_size_equals_plain_jitted_and_eager(name):
  problem = Problem((224, 224), heads=1, batch=1, bands=64)
  channels = problem.tokens.num_channels
  wide = problem.normal(1, 512, 1, 264)
  problem.query, problem.cotangent = wide, problem.normal(1, 512, 264)
  problem.params = problem.params._replace(
    key_w=problem.normal(channels, 264) / channels**0.5,
    key_b=problem.normal(264),
    value_w=problem.normal(channels, 264) / channels**0.5,
    value_b=problem.normal(264),
  )
  prepare = {
    'absorbed': lambda tokens: Absorbed.prepare(tokens.dense()),
    'chunked': lambda tokens: Chunked.prepare(tokens.dense()),
    'separable': Separable.prepare,
  }[name]
  # Plain, not compiled, is what a compiler's mistake cannot touch.
  expected = problem.gradients(plain, jit=False)
  assert_equal(expected, problem.gradients(prepare, quick=False), 2e-4)
