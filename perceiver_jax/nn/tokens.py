"""What a modality hands to the encoder: tokens, kept factored.

A grid's Fourier features are a concatenation of features that each depend on
one axis, and no position feature depends on the example. `Tokens` keeps these
factors apart, so that a cross-attention may use them; `dense()` multiplies
them out.
"""

import dataclasses
import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from perceiver_jax.arrays import AnyArray, register_pytree


@register_pytree
@dataclasses.dataclass(frozen=True)
class AxisFeatures:
  """Position features that vary along one axis of the grid only.

  Attributes:
    features: one row of channels for each element of the axis.
    axis: which axis, counted from 0 without the batch.
  """

  features: Float[AnyArray, 'size F']
  axis: int = dataclasses.field(metadata={'static': True})


@register_pytree
@dataclasses.dataclass(frozen=True)
class Tokens:
  """Input tokens: content of each example and positions that all share.

  The channels of a dense token are those of `content`, then of each entry of
  `positions` in order.

  Attributes:
    content: what differs between examples, on a grid of one or more axes.
    positions: features shared by the batch: along one axis of the grid, or a
      dense table with a row for each token.
  """

  content: Float[Array, 'B *axes C']
  positions: tuple[AxisFeatures | Float[AnyArray, 'M F'], ...] = ()

  @property
  def axes(self) -> tuple[int, ...]:
    """The sizes of the grid's axes."""
    return self.content.shape[1:-1]

  @property
  def num_tokens(self) -> int:
    """The number M of tokens of an example."""
    return math.prod(self.axes)

  @property
  def num_channels(self) -> int:
    """The number C of channels of a dense token."""
    return self.content.shape[-1] + sum(map(_num_channels, self.positions))

  def dense(self) -> Float[Array, 'B M C']:
    """Returns every token with all its channels, in the dtype of `content`."""
    batch, *axes, _ = self.content.shape
    parts = [self.content]
    for entry in self.positions:
      parts.append(
        jnp.broadcast_to(
          _on_grid(entry, axes), (batch, *axes, _num_channels(entry))
        ).astype(self.content.dtype)
      )
    dense = jnp.concatenate(parts, axis=-1)
    return dense.reshape(batch, self.num_tokens, -1)


def _num_channels(entry: AxisFeatures | AnyArray) -> int:
  array = entry.features if isinstance(entry, AxisFeatures) else entry
  return array.shape[-1]


def _on_grid(entry: AxisFeatures | AnyArray, axes: list[int]) -> AnyArray:
  """Shapes positions so that they broadcast against the grid."""
  if not isinstance(entry, AxisFeatures):
    return entry.reshape(*axes, -1)
  shape = [1] * len(axes)
  shape[entry.axis] = axes[entry.axis]
  return entry.features.reshape(*shape, -1)
