"""Self-attention with several heads; logits and softmax in float32."""

import haiku as hk
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from perceiver_jax.nn.broadcast import add_bias


def dropout(array: Array, prob: float, *, is_training: bool) -> Array:
  """Zeroes elements with probability `prob`; asks for an rng only to do so."""
  if not is_training or prob == 0.0:
    return array
  return hk.dropout(hk.next_rng_key(), prob, array)


def attend(
  query: Float[Array, 'B N H F'],
  key: Float[Array, 'B M H F'],
  value: Float[Array, 'B M H G'],
  *,
  dropout_prob: float,
  is_training: bool,
) -> Float[Array, 'B N HG']:
  """Computes softmax(query key^T / sqrt(F)) value, heads concatenated.

  Args:
    query: what asks.
    key: what is compared with it.
    value: what is averaged.
    dropout_prob: probability that an attention weight is zeroed.
    is_training: whether dropout applies.

  Returns:
    Averages of values, in their dtype.
  """
  # Heads before rows, one scale for all of a query's logits, and one division
  # for all of its weights: XLA's gradients of the textbook order copy and
  # transpose the weights, which took twice the time on a CPU.
  query, key, value = (
    jnp.moveaxis(array, 2, 1)
    for array in (query * query.shape[-1] ** -0.5, key, value)
  )
  logits = jnp.einsum(
    'bhnf,bhmf->bhnm', query, key, preferred_element_type=jnp.float32
  )
  largest = jnp.max(logits, axis=-1, keepdims=True)
  weights = jnp.exp(logits - jax.lax.stop_gradient(largest))
  total = jnp.sum(weights, axis=-1, keepdims=True)
  weights = dropout(weights, dropout_prob, is_training=is_training)
  outputs = jnp.einsum(
    'bhnm,bhmg->bhng',
    weights.astype(value.dtype),
    value,
    preferred_element_type=jnp.float32,
  )
  outputs = jnp.moveaxis(outputs / total, 1, 2).astype(value.dtype)
  return outputs.reshape(*outputs.shape[:2], -1)


class SelfAttention(hk.Module):
  """Attention within an array, with learned projections.

  Parameters: `query`, `key`, `value`, `output`, each with `w` and `b`.
  """

  def __init__(
    self,
    *,
    num_heads: int,
    qk_channels: int,
    v_channels: int,
    dropout_prob: float,
    name: str | None = None,
  ):
    super().__init__(name)
    self._num_heads = num_heads
    self._qk_channels = qk_channels
    self._v_channels = v_channels
    self._dropout_prob = dropout_prob

  def __call__(
    self, array: Float[Array, 'B N D'], *, is_training: bool
  ) -> Float[Array, 'B N D']:
    outputs = attend(
      self._heads('query', self._qk_channels, array),
      self._heads('key', self._qk_channels, array),
      self._heads('value', self._v_channels, array),
      dropout_prob=self._dropout_prob,
      is_training=is_training,
    )
    return linear(array.shape[-1], name='output')(outputs)

  @hk.transparent
  def _heads(self, name: str, channels: int, array: Array) -> Array:
    array = linear(channels, name=name)(array)
    return array.reshape(*array.shape[:-1], self._num_heads, -1)


class Linear(hk.Linear):
  """A linear layer whose weights' gradient is one plain product on a CPU.

  Of arrays of more than two axes, XLA transposes one in memory for it. The
  gradient of the bias is added up in float32; see `add_bias`. Its name is what
  `Remat` knows the outputs by.
  """

  def __init__(
    self,
    num_channels: int,
    w_init: hk.initializers.Initializer | None = None,
    name: str | None = None,
  ):
    super().__init__(num_channels, with_bias=False, w_init=w_init, name=name)

  def __call__(self, inputs: Float[Array, '*batch C']) -> Array:
    outputs = super().__call__(inputs.reshape(-1, inputs.shape[-1]))
    bias = hk.get_parameter(
      'b', [self.output_size], inputs.dtype, init=jnp.zeros
    )
    outputs = add_bias(outputs, bias)
    outputs = checkpoint_name(outputs, self.name)
    return outputs.reshape(*inputs.shape[:-1], -1)


def linear(channels: int, *, name: str) -> Linear:
  """Makes the linear layer of the published attention and MLP blocks.

  Weights start from a truncated normal of variance 1 / fan-in, biases at 0.
  """
  return Linear(channels, w_init=linear_init(), name=name)


def linear_init() -> hk.initializers.Initializer:
  """Returns what draws the weights of `linear`."""
  return hk.initializers.VarianceScaling(1.0)
