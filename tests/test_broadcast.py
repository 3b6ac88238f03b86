"""What many rows share gets its whole gradient in bfloat16."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from perceiver_jax.modalities.image import Conv1x1Embedding
from perceiver_jax.modalities.text import TextInput
from perceiver_jax.nn.attention import linear
from perceiver_jax.nn.broadcast import broadcast
from perceiver_jax.nn.cross_attention.base import InputParameters
from perceiver_jax.nn.cross_attention.plain import Plain
from perceiver_jax.nn.tokens import Tokens

_ROWS = 4096


def _applied(function, array, **params):
  transformed = hk.without_apply_rng(hk.transform(function))
  return transformed.apply({'embedding': params}, array)


def _dense(shared):
  content = jnp.zeros((1, _ROWS, 1), shared.dtype)
  return Tokens(content, constant=shared).dense()[..., 1:]


def _biased(shared):
  w = jnp.zeros((2, 3), shared.dtype)
  array = jnp.ones((1, _ROWS, 2), shared.dtype)
  return _applied(
    lambda array: linear(3, name='embedding')(array), array, w=w, b=shared
  )


def _pixels(shared):
  config = Conv1x1Embedding(channels=3)
  w = jnp.zeros((2, 3), shared.dtype)
  images = jnp.ones((1, 64, _ROWS // 64, 2), shared.dtype)
  return _applied(
    lambda images: config(images, is_training=True), images, w=w, b=shared
  )


def _letters(shared):
  config = TextInput(max_length=_ROWS, embedding_channels=3)
  table = jnp.broadcast_to(shared, (config.vocab_size, 3))
  positions = jnp.zeros((_ROWS, 3), shared.dtype)
  ids = jnp.full((1, _ROWS), ord('e'))
  return _applied(
    lambda ids: config.make('embedding')(ids, is_training=True).content,
    ids,
    embeddings=table,
    positions=positions,
  )


def _values(shared):
  w, b = jnp.zeros((2, 3), shared.dtype), jnp.zeros(3, shared.dtype)
  params = InputParameters(jnp.ones(2), jnp.zeros(2), w, b, w, shared)
  inputs = jnp.ones((1, _ROWS, 2), shared.dtype)
  return Plain(inputs).project(params).keys_and_values[1]


@pytest.mark.parametrize(
  'function', [_dense, _biased, _values, _pixels, _letters]
)
def test_gradients_of_what_rows_share_do_not_saturate(function):
  weights = np.random.default_rng(0).random((_ROWS, 3)).astype(np.float32)
  weights = jnp.asarray(weights, jnp.bfloat16)
  shared = jnp.asarray([1.0, -0.3, 7.0], jnp.bfloat16)

  @jax.jit
  def gradient(shared):
    made, pull = jax.vjp(function, shared)
    return made, *pull(weights.reshape(made.shape))

  made, actual = gradient(shared)
  assert made.dtype == actual.dtype == jnp.bfloat16
  rows = np.asarray(made.reshape(-1, 3), np.float32)
  np.testing.assert_array_equal(rows, np.tile(shared, (_ROWS, 1)))
  expected = np.sum(np.asarray(weights, np.float64), axis=0)
  # What rounding the sum to bfloat16 leaves.
  np.testing.assert_allclose(np.float64(actual), expected, rtol=2**-8)


def test_numbers_are_repeated_as_they_are():
  array = np.random.default_rng(0).normal(size=(3, 1, 2)).astype(np.float32)
  repeated = broadcast(array, (5, 3, 4, 2), array.dtype)
  np.testing.assert_array_equal(repeated, np.tile(array, (5, 1, 4, 1)))
  half = jnp.asarray(array, jnp.bfloat16)
  repeated = broadcast(half, (3, 4, 2), half.dtype)
  np.testing.assert_array_equal(repeated, np.tile(half, (1, 4, 1)))
