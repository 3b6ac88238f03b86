"""Keys and values are the normalised inputs; all weights are in memory."""

import dataclasses
from typing import Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from perceiver_jax.nn.cross_attention.absorption import absorb, release
from perceiver_jax.nn.cross_attention.base import (
  MASKED_LOGIT,
  Dropout,
  InputParameters,
  normalise,
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Absorbed:
  """Normalised inputs, read by queries that absorbed the projections.

  Attributes:
    normalised: inputs of mean 0 and variance 1 over channels.
  """

  normalised: Float[Array, 'B M C']

  @classmethod
  def prepare(cls, inputs: Float[Array, 'B M C']) -> Self:
    return cls(normalise(inputs))

  @property
  def num_inputs(self) -> int:
    return self.normalised.shape[1]

  @property
  def num_channels(self) -> int:
    return self.normalised.shape[-1]

  def project(self, params: InputParameters) -> Self:
    del params
    return self

  def read(
    self,
    query: Float[Array, 'B N H F'],
    params: InputParameters,
    mask: Bool[Array, 'B M'] | None,
    dropout: Dropout | None,
  ) -> Float[Array, 'B N HG']:
    normalised = self.normalised
    rows = absorb(query, params).astype(normalised.dtype)
    logits = jnp.einsum(
      'brc,bmc->brm', rows, normalised, preferred_element_type=jnp.float32
    )
    if mask is not None:
      logits = jnp.where(mask[:, None], logits, MASKED_LOGIT)
    weights = jax.nn.softmax(logits, axis=-1)
    if mask is not None:
      weights = jnp.where(mask[:, None], weights, 0.0)
    if dropout is not None:
      tokens = jnp.arange(logits.shape[-1])
      weights = weights * dropout.factors(tokens, logits.shape[:2])
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
