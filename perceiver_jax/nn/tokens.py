"""What a modality hands to the encoder: tokens, kept factored.

A grid's Fourier features are a concatenation of features that each depend on
one axis, no position feature depends on the example, and the learned channels
of a modality do not even depend on the token. `Tokens` keeps these factors
apart, so that a cross-attention may use them; `dense()` multiplies them out.
"""

import dataclasses
import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from perceiver_jax.arrays import AnyArray, register_pytree
from perceiver_jax.nn.broadcast import broadcast


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
  `positions` in order, then `constant`.

  Attributes:
    content: what differs between examples, on a grid of one or more axes.
    positions: features shared by the batch: along one axis of the grid, or a
      dense table with a row for each token.
    constant: channels that are the same in all tokens; None: there are none.
  """

  content: Float[Array, 'B *axes C']
  positions: tuple[AxisFeatures | Float[AnyArray, 'M F'], ...] = ()
  constant: Float[AnyArray, ' P'] | None = None

  @property
  def batch_size(self) -> int:
    """The number B of examples."""
    return self.content.shape[0]

  @property
  def blocks(self) -> tuple['Tokens', ...]:
    """These tokens, as the only block of them; see `JoinedTokens`."""
    return (self,)

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
    constant = 0 if self.constant is None else len(self.constant)
    positions = sum(map(_num_channels, self.positions))
    return self.content.shape[-1] + positions + constant

  def astype(self, dtype: jnp.dtype) -> 'Tokens':
    """Returns the tokens with their content, and so all of it dense, cast."""
    return dataclasses.replace(self, content=self.content.astype(dtype))

  def dense(self) -> Float[Array, 'B M C']:
    """Returns every token with all its channels, in the dtype of `content`."""
    batch, *axes, _ = self.content.shape
    parts = [self.content]
    shared = [_on_grid(entry, axes) for entry in self.positions]
    if self.constant is not None:
      shared.append(self.constant)
    for array in shared:
      shape = (batch, *axes, array.shape[-1])
      parts.append(broadcast(array, shape, self.content.dtype))
    dense = jnp.concatenate(parts, axis=-1)
    return dense.reshape(batch, self.num_tokens, -1)


@register_pytree
@dataclasses.dataclass(frozen=True)
class JoinedTokens:
  """Tokens of several kinds, one kind after the other.

  Attributes:
    blocks: the tokens of each kind, all with the same number of channels.
    names: of the kinds.
  """

  blocks: tuple[Tokens, ...]
  names: tuple[str, ...] = dataclasses.field(metadata={'static': True})

  @property
  def batch_size(self) -> int:
    """The number B of examples."""
    return self.blocks[0].batch_size

  @property
  def counts(self) -> dict[str, int]:
    """How many tokens there are of each kind, in order."""
    counts = (block.num_tokens for block in self.blocks)
    return dict(zip(self.names, counts, strict=True))

  @property
  def num_tokens(self) -> int:
    """The number M of tokens of an example."""
    return sum(self.counts.values())

  @property
  def num_channels(self) -> int:
    """The number C of channels of a dense token."""
    return self.blocks[0].num_channels

  def astype(self, dtype: jnp.dtype) -> 'JoinedTokens':
    """Returns the tokens with their content, and so all of it dense, cast."""
    blocks = tuple(block.astype(dtype) for block in self.blocks)
    return JoinedTokens(blocks, self.names)

  def dense(self) -> Float[Array, 'B M C']:
    """Returns every token with all its channels; see `Tokens.dense`."""
    return jnp.concatenate([block.dense() for block in self.blocks], axis=1)


AnyTokens = Tokens | JoinedTokens


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
