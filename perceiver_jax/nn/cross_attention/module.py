"""Cross-attention as a Haiku module: it owns the parameters."""

import haiku as hk
import jax.numpy as jnp
from jaxtyping import Array, Float

from perceiver_jax.arrays import AnyArray, InputMask, QueryMask
from perceiver_jax.nn.attention import linear, linear_init
from perceiver_jax.nn.cross_attention.base import (
  Dropout,
  InputParameters,
  NormParameters,
  PreparedInputs,
)
from perceiver_jax.nn.cross_attention.plain import Plain
from perceiver_jax.nn.cross_attention.transposed import (
  AbsorbedKeys,
  absorb_queries,
)


class CrossAttention(hk.Module):
  """Attention to prepared inputs, with learned projections.

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

  @hk.name_like('__call__')
  def project(
    self, inputs: PreparedInputs, norm: NormParameters
  ) -> PreparedInputs:
    """Computes what repeated reading with the same parameters shares."""
    return inputs.project(self._input_parameters(inputs.num_channels, norm))

  def __call__(
    self,
    queries: Float[Array, 'B N D'],
    inputs: PreparedInputs,
    norm: NormParameters,
    input_mask: InputMask | None,
    query_mask: QueryMask | None,
    *,
    is_training: bool,
  ) -> Float[Array, 'B N D']:
    """Returns what queries read, projected to as many channels as they have.

    Args:
      queries: normalised queries.
      inputs: what they read.
      norm: of the inputs' layer norm.
      input_mask: which inputs to use; None: all.
      query_mask: which queries read; the others get what zeros project to.
      is_training: whether dropout applies.
    """
    dropout = None
    if is_training and self._dropout_prob:
      dropout = Dropout(hk.next_rng_key(), self._dropout_prob)
    read = inputs.read(
      self._by_heads(queries),
      self._input_parameters(inputs.num_channels, norm),
      None if input_mask is None else jnp.asarray(input_mask),
      dropout,
    )
    if query_mask is not None:
      read = jnp.where(jnp.asarray(query_mask)[:, :, None], read, 0)
    return linear(queries.shape[-1], name='output')(read)

  @hk.name_like('__call__')
  def absorb_queries(
    self, inputs: Plain, norm: NormParameters, query_norm: NormParameters
  ) -> AbsorbedKeys:
    """Computes what queries read that are not projected.

    Args:
      inputs: what will be read.
      norm: of the inputs' layer norm.
      query_norm: of the queries' layer norm.
    """
    params = self._input_parameters(inputs.num_channels, norm)
    num_channels = len(query_norm.scale)
    return absorb_queries(
      *inputs.project(params).keys_and_values,
      query_norm,
      _LinearParameters('query')(num_channels, self._qk_channels),
      _LinearParameters('output')(self._v_channels, num_channels),
      num_heads=self._num_heads,
    )

  @hk.name_like('__call__')
  def weights(
    self,
    queries: Float[Array, 'B N D'],
    inputs: PreparedInputs,
    norm: NormParameters,
    input_mask: InputMask | None,
    query_mask: QueryMask | None,
  ) -> Float[Array, 'B H N M']:
    """Returns the weights with which queries read; see `__call__`.

    The weights of a masked query are zero, like all it reads.
    """
    weights = inputs.weights(
      self._by_heads(queries),
      self._input_parameters(inputs.num_channels, norm),
      None if input_mask is None else jnp.asarray(input_mask),
    )
    if query_mask is not None:
      used = jnp.asarray(query_mask)[:, None, :, None]
      weights = jnp.where(used, weights, 0.0)
    return weights

  @hk.transparent
  def _by_heads(
    self, queries: Float[Array, 'B N D']
  ) -> Float[Array, 'B N H F']:
    query = linear(self._qk_channels, name='query')(queries)
    return query.reshape(*query.shape[:-1], self._num_heads, -1)

  @hk.transparent
  def _input_parameters(
    self, num_channels: int, norm: NormParameters
  ) -> InputParameters:
    return InputParameters(
      *norm,
      *_LinearParameters('key')(num_channels, self._qk_channels),
      *_LinearParameters('value')(num_channels, self._v_channels),
    )


class InputNorm(hk.Module):
  """The parameters of a layer norm that the reader of the inputs applies."""

  def __call__(self, num_channels: int) -> NormParameters:
    return NormParameters(
      hk.get_parameter('scale', [num_channels], init=jnp.ones),
      hk.get_parameter('offset', [num_channels], init=jnp.zeros),
    )


class _LinearParameters(hk.Module):
  """The parameters of a linear layer that is applied elsewhere."""

  def __call__(
    self, num_inputs: int, num_outputs: int
  ) -> tuple[AnyArray, AnyArray]:
    shape = [num_inputs, num_outputs]
    return (
      hk.get_parameter('w', shape, init=linear_init()),
      hk.get_parameter('b', [num_outputs], init=jnp.zeros),
    )
