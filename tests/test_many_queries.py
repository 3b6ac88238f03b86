"""Very many queries are decoded in chunks, with the numbers of all at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

import perceiver_jax
from perceiver_jax.model import AttentionDecoder, Precision
from perceiver_jax.nn.cross_attention import Algorithm, QueryAlgorithm
from perceiver_jax.nn.cross_attention.absorbed import Absorbed
from perceiver_jax.nn.cross_attention.base import Dropout
from perceiver_jax.nn.cross_attention.queries import choose, chunk_size
from perceiver_jax.nn.cross_attention.transposed import AbsorbedKeys
from perceiver_jax.nn.token_chunks import map_chunks
from perceiver_jax.nn.tokens import AxisFeatures, Tokens

_FAST_COMPILATION = {'xla_backend_optimization_level': 0}


def _normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@functools.cache
def _flow_tokens():
  model = tiny_models.flow()
  encode = jax.jit(perceiver_jax.build(model.config).encode)
  return encode(model.params, None, _normal(2, 2, 16, 24, 3)).tokens


def _case(name):
  """Returns a model, raw queries, and a mask of them."""
  rng = np.random.default_rng(1)
  if name == 'flow':
    return tiny_models.flow(), _flow_tokens(), rng.random((2, 16 * 24)) > 0.3
  if name == 'features':
    features = _flow_tokens().dense()[:, :13]
    return tiny_models.flow(), features, rng.random((2, 13)) > 0.3
  if name == 'video':
    # 128 pixels, 240 patches of audio, and a label.
    mask = {'image': rng.random((2, 128)) > 0.3, 'label': np.zeros((2, 1)) > 0}
    return tiny_models.autoencoder(), None, mask
  if name == 'indices':
    queries = {'image': rng.integers(0, 128, (2, 11)), 'audio': np.arange(7)}
    return tiny_models.autoencoder(), queries, None
  if name == 'text':
    return tiny_models.text(), None, rng.random((2, 96)) > 0.3
  assert name == 'one'
  return tiny_models.images(), None, None


_CASES = ('flow', 'features', 'video', 'indices', 'text', 'one')


def _run(
  name,
  algorithm,
  size=None,
  *,
  jit=True,
  masked=True,
  rng=None,
  backward=True,
  **fields,
):
  """Returns outputs, and gradients of parameters, latents and queries."""
  model, queries, mask = _case(name)
  config = model.config.copy()
  config.decoder.query_algorithm = algorithm
  config.decoder.query_chunk_size = size
  for field, value in fields.items():
    owner = config if field == 'precision' else config.decoder.cross_attend
    setattr(owner, field, value)
  decode = perceiver_jax.build(config).decode
  latents = _normal(2, config.num_latents, config.latent_channels, seed=2)
  is_float = isinstance(queries, Tokens | jax.Array)
  training = {} if rng is None else {'is_training': True}

  def outputs(params, latents, floats):
    return decode(
      params,
      rng,
      latents,
      floats if is_float else queries,
      query_mask=mask if masked else None,
      **training,
    )

  def run(*arrays):
    if not backward:
      return outputs(*arrays)
    made, pull = jax.vjp(outputs, *arrays)
    return made, pull(jax.tree.map(jnp.sin, made))

  if jit:
    run = jax.jit(run, compiler_options=_FAST_COMPILATION)
  return run(model.params, latents, queries if is_float else ())


def _assert_equal(actual, expected, tolerance=1e-4):
  leaves = jax.tree_util.tree_leaves_with_path(expected)
  for (path, a), b in zip(leaves, jax.tree.leaves(actual), strict=True):
    if jax.tree_util.keystr(path).endswith("key']['b']"):
      continue  # The exact gradient of a key bias is zero.
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    limit = tolerance * np.max(np.abs(a), initial=0.1)
    error = np.max(np.abs(a - b), initial=0)
    assert error <= limit, f'{jax.tree_util.keystr(path)}: {error} > {limit}'


_plain = functools.cache(
  functools.partial(_run, algorithm=QueryAlgorithm.PLAIN)
)
# Rows of flow have 24 pixels, of video 8.
_CHUNKED, _ABSORBED = QueryAlgorithm.CHUNKED, QueryAlgorithm.ABSORBED
_FORCED = [
  pytest.param(_CHUNKED, 1, marks=pytest.mark.slow),
  pytest.param(_CHUNKED, 124, marks=pytest.mark.slow),
  (_ABSORBED, 124),
]
_each = pytest.mark.parametrize(
  'algorithm', [pytest.param(_CHUNKED, marks=pytest.mark.slow), _ABSORBED]
)


@pytest.mark.parametrize('name', _CASES)
@pytest.mark.parametrize(('algorithm', 'size'), _FORCED)
def test_outputs_and_gradients_are_those_of_all_at_once(name, algorithm, size):
  _assert_equal(_run(name, algorithm, size), _plain(name))


@_each
def test_jit_equals_eager_with_a_residual_and_heads(algorithm):
  fields = {'use_query_residual': True, 'num_heads': 2}
  eager = _run('features', algorithm, 5, jit=False, **fields)
  _assert_equal(eager, _run('features', algorithm, 5, **fields))
  _assert_equal(eager, _plain('features', **fields))


@_each
def test_bfloat16_is_as_near_to_float32_as_all_at_once(algorithm):
  fields = {'masked': False, 'backward': False}
  exact = _plain('flow', **fields)

  def error(algorithm, size=None):
    half = fields | {'precision': Precision.BFLOAT16}
    return np.max(np.abs(_run('flow', algorithm, size, **half) - exact))

  assert 0 < error(algorithm, 124) <= 2 * error(QueryAlgorithm.PLAIN)


def test_gradients_of_what_chunks_share_add_up_in_float32():
  tokens = Tokens(jnp.ones((1, 1024, 1, 1), jnp.bfloat16))

  def loss(weight):
    def scale(tokens, mask, rng):
      del mask, rng
      return tokens.dense() * weight

    made = map_chunks(scale, tokens, None, None, chunk_size=1)
    return jnp.sum(made.astype(jnp.float32))

  # Ones that are added up in bfloat16 come to 256 and no further.
  assert jax.grad(loss)(jnp.ones((), jnp.bfloat16)) == 1024


@_each
def test_dropout_is_drawn_for_every_chunk(algorithm):
  def outputs(seed, **fields):
    rng = jax.random.key(seed)
    return _run('features', algorithm, 5, rng=rng, backward=False, **fields)

  for name in ('attention_dropout_prob', 'dropout_prob'):
    first, other = (outputs(seed, **{name: 0.5}) for seed in (0, 1))
    assert np.any(first != other, axis=(1, 2)).all()
    _assert_equal(outputs(0, **{name: 0.5}), first)
  _assert_equal(outputs(0), _plain('features', backward=False))


@pytest.mark.parametrize('is_projected', [False, True])
def test_absorbed_keys_drop_weights_after_the_softmax(is_projected):
  heads, count = 2, 5
  rows = jnp.asarray(_normal(1, heads * count, 6))
  bias = jnp.asarray(_normal(1, heads * count, seed=1))
  values = _normal(1, count, heads, 4 if is_projected else 3, seed=2)
  output_w = _normal(heads * 4, 3, seed=3) if is_projected else None
  output_b, queries = _normal(3, seed=4), _normal(1, 7, 6, seed=5)
  dropout = Dropout(jax.random.key(0), 0.4)
  keys = AbsorbedKeys(rows, bias, jnp.asarray(values), output_w, output_b)
  mask = np.arange(7)[None] != 2
  read = keys.read(Absorbed(jnp.asarray(queries)), jnp.asarray(mask), dropout)

  kept = dropout.factors(jnp.arange(7), (1, heads * count))[0]
  assert 0 < np.count_nonzero(kept) < kept.size
  logits = rows[0] @ queries[0].T + bias[0][:, None]
  weights = np.exp(logits).reshape(heads, count, 7)
  weights /= weights.sum(axis=1, keepdims=True)
  weights = weights * np.asarray(kept).reshape(weights.shape) * mask
  by_head = [weights[h].T @ values[0, :, h] for h in range(heads)]
  expected = sum(by_head)
  if is_projected:
    expected = np.concatenate(by_head, axis=-1) @ output_w
  np.testing.assert_allclose(read[0], expected + output_b, atol=1e-5)


def test_chunks_have_keys_of_their_own():
  tokens = Tokens(jnp.ones((1, 4, 3, 2)))

  def draw(tokens, mask, rng):
    del mask
    shape = (1, tokens.num_tokens, 1)
    return jax.random.uniform(rng, shape)

  drawn = map_chunks(draw, tokens, None, jax.random.key(0), chunk_size=3)
  assert len(np.unique(drawn)) == 12


@pytest.mark.parametrize('axes', [(7,), (5, 3), (2, 3, 4)])
@pytest.mark.parametrize('size', [1, 5, 1000])
def test_chunks_hold_the_dense_tokens_in_their_order(axes, size):
  count = int(np.prod(axes))
  tokens = Tokens(
    jnp.asarray(_normal(2, *axes, 2)),
    (
      *(AxisFeatures(_normal(n, 3), axis) for axis, n in enumerate(axes)),
      _normal(count, 4),
    ),
    _normal(2),
  )
  mask = np.random.default_rng(0).random((2, count)) > 0.5
  sizes = []

  def function(tokens, mask, rng):
    assert rng is None
    sizes.append(tokens.num_tokens)
    return jnp.concatenate([tokens.dense(), mask[..., None]], axis=-1)

  made = map_chunks(function, tokens, mask, None, chunk_size=size)
  expected = np.concatenate([tokens.dense(), mask[..., None]], axis=-1)
  np.testing.assert_array_equal(made, expected)
  width = axes[-1] if len(axes) > 1 else 1
  assert sizes[0] <= min(count, max(size, width))


def _temporary_bytes(algorithm, height, size=None):
  """Returns the memory of gradients of flow; nothing is computed."""
  config = tiny_models.flow().config.copy()
  config.num_latents = 256
  config.decoder.query_algorithm = algorithm
  config.decoder.query_chunk_size = size
  perceiver = perceiver_jax.build(config)
  frames = jax.ShapeDtypeStruct((1, 2, height, 32, 3), jnp.float32)
  params = jax.eval_shape(perceiver.init, jax.random.key(0), frames)
  encoded = jax.eval_shape(perceiver.encode, params, None, frames)

  def loss(params, latents, tokens):
    flow = perceiver.decode(params, None, latents, tokens)
    return jnp.sum(jnp.square(flow))

  gradient = jax.jit(jax.grad(loss, (0, 1)), compiler_options=_FAST_COMPILATION)
  lowered = gradient.lower(params, encoded.latents, encoded.tokens)
  return lowered.compile().memory_analysis().temp_size_in_bytes


@_each
def test_memory_does_not_grow_with_queries_times_latents(algorithm):
  small, large = (_temporary_bytes(algorithm, n, 256) for n in (32, 128))
  added = 96 * 32
  # Some vectors of a query's own size, but not its 256 weights.
  assert large - small < added * 256 * 4 / 4
  plain = _temporary_bytes(QueryAlgorithm.PLAIN, 128)
  assert large < plain / 4


def _chosen(axes, algorithm=QueryAlgorithm.AUTO, content=64, **sizes):
  sizes = {
    'batch_size': 1,
    'num_inputs': 2048,
    'num_heads': 1,
    'qk_channels': 512,
    'can_absorb': True,
    'chunk_size': None,
  } | sizes
  features = tuple(
    AxisFeatures(np.zeros((size, 129), np.float32), axis)
    for axis, size in enumerate(axes)
  )
  shape = jax.ShapeDtypeStruct((1, *axes, content), jnp.float32)
  queries = jax.eval_shape(Tokens, shape, features)
  return choose(algorithm, queries, **sizes)


def test_auto_chooses_by_shapes():
  plain = QueryAlgorithm.PLAIN
  assert _chosen((368, 496)) is _ABSORBED
  assert _chosen((368, 496), can_absorb=False) is _CHUNKED
  # With 8 heads, keys absorb into 8 times as many rows.
  assert _chosen((368, 496), num_heads=8, content=400) is _CHUNKED
  assert _chosen((16, 32)) is plain
  assert _chosen((16, 32), batch_size=8) is _ABSORBED
  for forced in (plain, _CHUNKED, _ABSORBED):
    for axes in ((1, 1), (368, 496)):
      assert _chosen(axes, forced) is forced


def test_auto_does_not_ignore_a_chunk_size():
  assert _chosen((16, 32), chunk_size=64) is _CHUNKED
  assert _chosen((16, 32), chunk_size=64, batch_size=8) is _ABSORBED
  assert _chosen((368, 496), chunk_size=64) is _ABSORBED
  config = tiny_models.flow().config.copy()
  config.decoder.query_chunk_size = 24
  decode = perceiver_jax.build(config).decode
  latents = _normal(2, config.num_latents, config.latent_channels)
  arrays = tiny_models.flow().params, None, latents, _flow_tokens()
  assert 'scan' in str(jax.make_jaxpr(decode)(*arrays))


def test_chunks_of_large_batches_do_not_become_tiny():
  flow = 2048
  assert chunk_size(flow) == 1024
  assert chunk_size(512 * 8 * 256) == 128


def test_absorbed_queries_need_keys_and_values():
  decoder = AttentionDecoder(query_algorithm=_ABSORBED)
  decoder.validate()
  decoder.cross_attend.algorithm = Algorithm.CHUNKED
  with pytest.raises(ValueError, match='AUTO or PLAIN for ABSORBED .*CHUNKED'):
    decoder.validate()


def test_features_of_a_grid_are_never_built():
  model, queries, _ = _case('flow')
  channels = queries.num_channels

  def is_built(algorithm):
    config = model.config.copy()
    config.decoder.query_algorithm = algorithm
    decode = perceiver_jax.build(config).decode
    latents = _normal(2, config.num_latents, config.latent_channels)
    text = str(jax.make_jaxpr(decode)(model.params, None, latents, queries))
    return f'16,24,{channels}]' in text

  assert is_built(QueryAlgorithm.PLAIN)
  assert not is_built(_ABSORBED)


@pytest.mark.parametrize(
  ('algorithm', 'size', 'message'),
  [
    (QueryAlgorithm.AUTO, 0, 'query_chunk_size must be at least 1, got 0'),
    (QueryAlgorithm.CHUNKED, -3, 'query_chunk_size must be .* got -3'),
    (QueryAlgorithm.PLAIN, 8, 'query_chunk_size must be None for PLAIN .*8'),
  ],
)
def test_chunks_that_cannot_be_are_refused(algorithm, size, message):
  decoder = AttentionDecoder(query_algorithm=algorithm, query_chunk_size=size)
  with pytest.raises(ValueError, match=message):
    decoder.validate()
