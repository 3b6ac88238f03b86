"""As `absorbed`, in chunks of inputs: no array of queries times inputs."""

import dataclasses

from jaxtyping import Array, Bool, Float

from perceiver_jax.arrays import register_pytree
from perceiver_jax.nn.cross_attention import online
from perceiver_jax.nn.cross_attention.absorption import absorb, release
from perceiver_jax.nn.cross_attention.base import (
  Dropout,
  InputParameters,
  normalise,
)


@register_pytree
@dataclasses.dataclass(frozen=True)
class Chunked:
  """Normalised inputs, read chunk by chunk.

  Attributes:
    normalised: inputs of mean 0 and variance 1 over channels.
    chunk_size: number of inputs in a chunk; None: by the number of queries.
  """

  normalised: Float[Array, 'B M C']
  chunk_size: int | None = dataclasses.field(
    default=None, metadata={'static': True}
  )

  @classmethod
  def prepare(
    cls, inputs: Float[Array, 'B M C'], chunk_size: int | None = None
  ) -> 'Chunked':
    return cls(normalise(inputs), chunk_size)

  @property
  def num_inputs(self) -> int:
    return self.normalised.shape[1]

  @property
  def num_channels(self) -> int:
    return self.normalised.shape[-1]

  def project(self, params: InputParameters) -> 'Chunked':
    del params
    return self

  def weights(
    self,
    query: Float[Array, 'B N H F'],
    params: InputParameters,
    mask: Bool[Array, 'B M'] | None,
  ) -> Float[Array, 'B H N M']:
    rows = absorb(query, params).astype(self.normalised.dtype)
    return online.weights(
      online.Factors(rows, self.normalised), mask, num_heads=query.shape[2]
    )

  def read(
    self,
    query: Float[Array, 'B N H F'],
    params: InputParameters,
    mask: Bool[Array, 'B M'] | None,
    dropout: Dropout | None,
  ) -> Float[Array, 'B N HG']:
    rows = absorb(query, params).astype(self.normalised.dtype)
    sums = online.read(
      online.Factors(rows, self.normalised),
      mask,
      dropout,
      chunk_size=self.chunk_size or online.chunk_size(rows),
    )
    return release(sums.content, sums.total, params, query)
