"""Inputs of several kinds, each read by the algorithm that suits it.

A softmax over all inputs is, for those of one part, the softmax over this part
times the part's share: the softmax over parts of the logarithms of their sums.
So each part is read alone, and averages are added by their shares.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from perceiver_jax.arrays import register_pytree
from perceiver_jax.nn.cross_attention.absorption import AbsorbingInputs, Average
from perceiver_jax.nn.cross_attention.base import Dropout


@register_pytree
@dataclasses.dataclass(frozen=True)
class Joined(AbsorbingInputs):
  """Inputs that stand one after the other in parts.

  Attributes:
    parts: of the same number of channels.
  """

  parts: tuple[AbsorbingInputs, ...]

  @property
  def num_inputs(self) -> int:
    return sum(part.num_inputs for part in self.parts)

  @property
  def num_channels(self) -> int:
    return self.parts[0].num_channels

  def logits(self, rows: Float[Array, 'B R C']) -> Float[Array, 'B R M']:
    return jnp.concatenate([part.logits(rows) for part in self.parts], axis=-1)

  def average(
    self,
    rows: Float[Array, 'B R C'],
    mask: Bool[Array, 'B M'] | None,
    dropout: Dropout | None,
  ) -> Average:
    counts = [part.num_inputs for part in self.parts]
    starts = itertools.accumulate(counts, initial=0)
    averages = [
      part.average(
        rows,
        None if mask is None else mask[:, start : start + count],
        None if dropout is None else dropout.after(start),
      )
      for part, start, count in zip(self.parts, starts, counts, strict=False)
    ]
    log_sums = jnp.stack([average.log_sum for average in averages])
    # Of parts that are masked, all averages are zero, whatever their share.
    shares = jax.nn.softmax(log_sums, axis=0)
    inputs = sum(
      share[..., None] * average.inputs
      for share, average in zip(shares, averages, strict=True)
    )
    total = sum(
      share * average.total
      for share, average in zip(shares, averages, strict=True)
    )
    if dropout is None:
      total = jax.lax.stop_gradient(total)
    return Average(inputs, total, jax.nn.logsumexp(log_sums, axis=0))
