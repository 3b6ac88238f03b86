"""As `absorbed`, in chunks of inputs: no array of queries times inputs."""

import dataclasses

from jaxtyping import Array, Bool, Float

from perceiver_jax.arrays import register_pytree
from perceiver_jax.nn.cross_attention import online
from perceiver_jax.nn.cross_attention.absorption import AbsorbingInputs, Average
from perceiver_jax.nn.cross_attention.base import Dropout, normalise


@register_pytree
@dataclasses.dataclass(frozen=True)
class Chunked(AbsorbingInputs):
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

  def logits(self, rows: Float[Array, 'B R C']) -> Float[Array, 'B R M']:
    return online.matmul('brc,bmc->brm', rows, self.normalised)

  def average(
    self,
    rows: Float[Array, 'B R C'],
    mask: Bool[Array, 'B M'] | None,
    dropout: Dropout | None,
  ) -> Average:
    sums, log_sum = online.read(
      online.Factors(rows.astype(self.normalised.dtype), self.normalised),
      mask,
      dropout,
      chunk_size=self.chunk_size or online.chunk_size(rows),
    )
    return Average(sums.content, sums.total, log_sum)
