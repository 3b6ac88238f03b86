"""Keys and values are the normalised inputs; all weights are in memory."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from perceiver_jax.arrays import register_pytree
from perceiver_jax.nn.cross_attention.absorption import absorb, release
from perceiver_jax.nn.cross_attention.base import (
  Dropout,
  InputParameters,
  masked_softmax,
  normalise,
)


@register_pytree
@dataclasses.dataclass(frozen=True)
class Absorbed:
  """Normalised inputs, read by queries that absorbed the projections.

  Attributes:
    normalised: inputs of mean 0 and variance 1 over channels.
  """

  normalised: Float[Array, 'B M C']

  @classmethod
  def prepare(cls, inputs: Float[Array, 'B M C']) -> 'Absorbed':
    return cls(normalise(inputs))

  @property
  def num_inputs(self) -> int:
    return self.normalised.shape[1]

  @property
  def num_channels(self) -> int:
    return self.normalised.shape[-1]

  def project(self, params: InputParameters) -> 'Absorbed':
    del params
    return self

  def weights(
    self,
    query: Float[Array, 'B N H F'],
    params: InputParameters,
    mask: Bool[Array, 'B M'] | None,
  ) -> Float[Array, 'B H N M']:
    batch, num_queries, num_heads, _ = query.shape
    logits = jnp.einsum(
      'brc,bmc->brm',
      absorb(query, params).astype(self.normalised.dtype),
      self.normalised,
      preferred_element_type=jnp.float32,
    )
    weights = masked_softmax(logits, mask)
    return weights.reshape(batch, num_heads, num_queries, -1)

  def read(
    self,
    query: Float[Array, 'B N H F'],
    params: InputParameters,
    mask: Bool[Array, 'B M'] | None,
    dropout: Dropout | None,
  ) -> Float[Array, 'B N HG']:
    normalised = self.normalised
    batch, num_inputs, _ = normalised.shape
    weights = self.weights(query, params, mask).reshape(batch, -1, num_inputs)
    if dropout is not None:
      tokens = jnp.arange(num_inputs)
      weights = weights * dropout.factors(tokens, weights.shape[:2])
    average = jnp.einsum(
      'brm,bmc->brc',
      weights.astype(normalised.dtype),
      normalised,
      preferred_element_type=jnp.float32,
    )
    # Without dropout the sum is a constant: its gradient is rounding noise.
    total = jnp.sum(weights, axis=-1)
    if dropout is None:
      total = jax.lax.stop_gradient(total)
    return release(average, total, params, query)
