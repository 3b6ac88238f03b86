"""The published algorithm: keys, values and all attention weights in memory."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from perceiver_jax.arrays import register_pytree
from perceiver_jax.nn.broadcast import add_bias
from perceiver_jax.nn.cross_attention.base import (
  Dropout,
  InputParameters,
  masked_softmax,
  normalise,
)


@register_pytree
@dataclasses.dataclass(frozen=True)
class Plain:
  """Dense inputs, read through keys and values.

  Attributes:
    inputs: not normalised.
    keys_and_values: their projections, if already made.
  """

  inputs: Float[Array, 'B M C']
  keys_and_values: (
    tuple[Float[Array, 'B M HF'], Float[Array, 'B M HG']] | None
  ) = None

  @property
  def num_inputs(self) -> int:
    return self.inputs.shape[1]

  @property
  def num_channels(self) -> int:
    return self.inputs.shape[-1]

  def project(self, params: InputParameters) -> 'Plain':
    inputs = self.inputs
    normed = normalise(inputs.astype(jnp.float32))
    normed = normed * params.norm_scale + params.norm_offset
    normed = normed.astype(inputs.dtype)
    return Plain(
      inputs,
      (
        add_bias(normed @ params.key_w, params.key_b),
        add_bias(normed @ params.value_w, params.value_b),
      ),
    )

  def weights(
    self,
    query: Float[Array, 'B N H F'],
    params: InputParameters,
    mask: Bool[Array, 'B M'] | None,
  ) -> Float[Array, 'B H N M']:
    key, _ = self._keys_and_values(params)
    num_heads, head_size = query.shape[2:]
    logits = jnp.einsum(
      'bnhf,bmhf->bhnm',
      query,
      key.reshape(*key.shape[:2], num_heads, -1),
      preferred_element_type=jnp.float32,
    )
    return masked_softmax(logits * head_size**-0.5, mask)

  def read(
    self,
    query: Float[Array, 'B N H F'],
    params: InputParameters,
    mask: Bool[Array, 'B M'] | None,
    dropout: Dropout | None,
  ) -> Float[Array, 'B N HG']:
    projected = Plain(self.inputs, self._keys_and_values(params))
    weights = projected.weights(query, params, mask)
    batch, num_queries, num_heads, _ = query.shape
    if dropout is not None:
      tokens = jnp.arange(weights.shape[-1])
      factors = dropout.factors(tokens, (batch, num_heads * num_queries))
      weights = weights * factors.reshape(weights.shape)
    _, value = projected.keys_and_values
    value = value.reshape(*value.shape[:2], num_heads, -1)
    outputs = jnp.einsum('bhnm,bmhg->bnhg', weights.astype(value.dtype), value)
    return outputs.reshape(batch, num_queries, -1)

  def _keys_and_values(self, params: InputParameters) -> tuple[Array, Array]:
    if self.keys_and_values is not None:
      return self.keys_and_values
    return self.project(params).keys_and_values
