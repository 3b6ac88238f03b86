"""The published algorithm: keys, values and all attention weights in memory."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from perceiver_jax.nn.cross_attention.base import (
  MASKED_LOGIT,
  Dropout,
  InputParameters,
  normalise,
)


@jax.tree_util.register_dataclass
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
        normed @ params.key_w + params.key_b,
        normed @ params.value_w + params.value_b,
      ),
    )

  def read(
    self,
    query: Float[Array, 'B N H F'],
    params: InputParameters,
    mask: Bool[Array, 'B M'] | None,
    dropout: Dropout | None,
  ) -> Float[Array, 'B N HG']:
    keys_and_values = self.keys_and_values
    if keys_and_values is None:
      keys_and_values = self.project(params).keys_and_values
    batch, num_queries, num_heads, head_size = query.shape
    key, value = (
      array.reshape(*array.shape[:2], num_heads, -1)
      for array in keys_and_values
    )
    logits = jnp.einsum(
      'bnhf,bmhf->bhnm', query, key, preferred_element_type=jnp.float32
    )
    logits = logits * head_size**-0.5
    if mask is not None:
      mask = mask[:, None, None]
      logits = jnp.where(mask, logits, MASKED_LOGIT)
    weights = jax.nn.softmax(logits, axis=-1)
    if mask is not None:
      weights = jnp.where(mask, weights, 0.0)
    if dropout is not None:
      tokens = jnp.arange(logits.shape[-1])
      factors = dropout.factors(tokens, (batch, num_heads * num_queries))
      weights = weights * factors.reshape(weights.shape)
    outputs = jnp.einsum('bhnm,bmhg->bnhg', weights.astype(value.dtype), value)
    return outputs.reshape(batch, num_queries, -1)
