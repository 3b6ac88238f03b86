"""Keys and values are the normalised inputs; all weights are in memory."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from perceiver_jax.arrays import register_pytree
from perceiver_jax.nn.cross_attention import online
from perceiver_jax.nn.cross_attention.absorption import AbsorbingInputs, Average
from perceiver_jax.nn.cross_attention.base import (
  MASKED_LOGIT,
  Dropout,
  masked_softmax,
  normalise,
)


@register_pytree
@dataclasses.dataclass(frozen=True)
class Absorbed(AbsorbingInputs):
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

  def logits(self, rows: Float[Array, 'B R C']) -> Float[Array, 'B R M']:
    return online.matmul('brc,bmc->brm', rows, self.normalised)

  def average(
    self,
    rows: Float[Array, 'B R C'],
    mask: Bool[Array, 'B M'] | None,
    dropout: Dropout | None,
  ) -> Average:
    logits = self.logits(rows)
    if mask is not None:
      logits = jnp.where(mask[:, None], logits, MASKED_LOGIT)
    log_sum = jax.nn.logsumexp(logits, axis=-1)
    weights = masked_softmax(logits, mask)
    if dropout is not None:
      tokens = jnp.arange(self.num_inputs)
      weights = weights * dropout.factors(tokens, weights.shape[:2])
    average = online.matmul('brm,bmc->brc', weights, self.normalised)
    total = jnp.sum(weights, axis=-1)
    if dropout is None:
      total = jax.lax.stop_gradient(total)
    return Average(average, total, log_sum)
