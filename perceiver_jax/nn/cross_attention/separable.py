"""As `chunked`, without ever building the position features of a grid.

A token's channels are its content and features of each of its coordinates.
Its product with a row of an absorbed query is the product with the content
plus one term a coordinate, from tables of the size of an axis; sums over
tokens of the features are products of these tables with sums of weights over
all other axes. The statistics of layer norm are sums over axes as well. The
dense tokens, normalised or not, never exist.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from perceiver_jax.arrays import register_pytree
from perceiver_jax.nn.cross_attention import online
from perceiver_jax.nn.cross_attention.absorption import AbsorbingInputs, Average
from perceiver_jax.nn.cross_attention.base import EPSILON, Dropout
from perceiver_jax.nn.tokens import AxisFeatures, Tokens


@register_pytree
@dataclasses.dataclass(frozen=True)
class Separable(AbsorbingInputs):
  """Tokens of a grid of two or more axes, kept factored.

  Attributes:
    content: the channels that are not features of one coordinate, in order.
    features: for each axis, all features of its coordinates; float32.
    inverse_std: of each dense token over its channels; float32.
    layout: the order of channels in a dense token: of which axis, or None for
      content, come how many channels.
    chunk_size: number of tokens in a chunk; None: by the number of queries.
  """

  content: Float[Array, 'B M C']
  features: tuple[Float[Array, '_size _F'], ...]
  inverse_std: Float[Array, 'B M']
  layout: tuple[tuple[int | None, int], ...] = dataclasses.field(
    metadata={'static': True}
  )
  chunk_size: int | None = dataclasses.field(
    default=None, metadata={'static': True}
  )

  @classmethod
  def prepare(
    cls, tokens: Tokens, chunk_size: int | None = None
  ) -> 'Separable':
    """Prepares tokens for which `is_separable`."""
    if tokens.constant is not None:
      tokens = _with_constant_as_features(tokens)
    content, layout = [tokens.content], [(None, tokens.content.shape[-1])]
    features = [[jnp.zeros((size, 0), jnp.float32)] for size in tokens.axes]
    for entry in tokens.positions:
      if isinstance(entry, AxisFeatures):
        features[entry.axis].append(entry.features.astype(jnp.float32))
        layout.append((entry.axis, entry.features.shape[-1]))
      else:
        # A table differs in every token: it is content that examples share.
        table = entry.reshape(1, *tokens.axes, -1).astype(tokens.content.dtype)
        shape = (*tokens.content.shape[:-1], table.shape[-1])
        content.append(jnp.broadcast_to(table, shape))
        layout.append((None, table.shape[-1]))
    content = jnp.concatenate(content, axis=-1)
    features = tuple(jnp.concatenate(parts, axis=-1) for parts in features)
    return cls(
      content.reshape(content.shape[0], tokens.num_tokens, -1),
      features,
      _inverse_std(content, features),
      tuple(layout),
      chunk_size,
    )

  @property
  def num_inputs(self) -> int:
    return self.content.shape[1]

  @property
  def num_channels(self) -> int:
    return sum(count for _, count in self.layout)

  def logits(self, rows: Float[Array, 'B R C']) -> Float[Array, 'B R M']:
    rows, axis_rows = self._split(rows)
    batch, num_rows, _ = rows.shape
    products = online.matmul('brc,bmc->brm', rows, self.content)
    grid = products.reshape(batch, num_rows, *map(len, self.features))
    for axis, (rows, features) in enumerate(
      zip(axis_rows, self.features, strict=True)
    ):
      term = _precise('brf,sf->brs', rows, features)
      shape = _shape_on_grid(axis, len(features), len(self.features))
      grid = grid + term.reshape(batch, num_rows, *shape)
    return grid.reshape(products.shape) * self.inverse_std[:, None]

  def average(
    self,
    rows: Float[Array, 'B R C'],
    mask: Bool[Array, 'B M'] | None,
    dropout: Dropout | None,
  ) -> Average:
    sums, log_sum = online.read(
      self._factors(rows),
      mask,
      dropout,
      chunk_size=self.chunk_size or online.chunk_size(rows),
    )
    averages = [
      _precise('bsr,sf->brf', weights, features)
      for weights, features in zip(
        [*self._lead_sums(sums.lead), sums.last], self.features, strict=True
      )
    ]
    average = self._join(sums.content, averages)
    average = average - jnp.mean(average, axis=-1, keepdims=True)
    return Average(average, sums.total, log_sum)

  def _factors(self, rows: Float[Array, 'B R C']) -> online.Factors:
    """Returns what logits are made of."""
    content_rows, axis_rows = self._split(rows)
    *lead, last = (
      _precise('brf,sf->bsr', rows, features)
      for rows, features in zip(axis_rows, self.features, strict=True)
    )
    return online.Factors(
      content_rows.astype(self.content.dtype),
      self.content,
      self.inverse_std,
      self._lead_terms(lead),
      last,
    )

  def _split(self, rows: Float[Array, 'B R C']) -> tuple[Array, list[Array]]:
    """Returns the channels of rows that meet content, then those of axes."""
    parts: dict[int | None, list[Array]] = {
      axis: [rows[..., :0]] for axis in (None, *range(len(self.features)))
    }
    start = 0
    for axis, count in self.layout:
      parts[axis].append(rows[..., start : start + count])
      start += count
    content, *axes = (jnp.concatenate(part, -1) for part in parts.values())
    return content, axes

  def _join(
    self, content: Float[Array, 'B R K'], axes: list[Array]
  ) -> Float[Array, 'B R C']:
    """Undoes `_split`."""
    sources: dict[int | None, Array] = {None: content, **dict(enumerate(axes))}
    parts = []
    for axis, count in self.layout:
      parts.append(sources[axis][..., :count])
      sources[axis] = sources[axis][..., count:]
    return jnp.concatenate(parts, axis=-1)

  def _lead_terms(self, terms: list[Array]) -> Float[Array, 'B L R']:
    """Adds the terms of all axes but the last, on the grid of these axes."""
    batch, _, num_rows = terms[0].shape
    total = sum(
      term.reshape(batch, *_shape_on_grid(axis, len(term[0]), len(terms)), -1)
      for axis, term in enumerate(terms)
    )
    return total.reshape(batch, -1, num_rows)

  def _lead_sums(self, lead: Float[Array, 'B L R']) -> list[Array]:
    """Sums over the grid of all axes but the last, for each of these axes."""
    sizes = [len(features) for features in self.features[:-1]]
    grid = lead.reshape(len(lead), *sizes, -1)
    return [
      jnp.sum(grid, [1 + other for other in range(len(sizes)) if other != axis])
      for axis in range(len(sizes))
    ]


def is_separable(tokens: Tokens) -> bool:
  """Tells whether tokens have features of a coordinate, on several axes."""
  return len(tokens.axes) > 1 and any(
    isinstance(entry, AxisFeatures) for entry in tokens.positions
  )


def num_content_channels(tokens: Tokens) -> int:
  """Returns how many channels are read token by token: content and tables."""
  return tokens.content.shape[-1] + sum(
    entry.shape[-1]
    for entry in tokens.positions
    if not isinstance(entry, AxisFeatures)
  )


def _with_constant_as_features(tokens: Tokens) -> Tokens:
  """Returns the same tokens, on a grid with one more axis, of size 1.

  Constant channels are the features of its only coordinate.
  """
  positions = [
    dataclasses.replace(entry, axis=entry.axis + 1)
    if isinstance(entry, AxisFeatures)
    else entry
    for entry in tokens.positions
  ]
  constant = AxisFeatures(tokens.constant[None], 0)
  return Tokens(tokens.content[:, None], (*positions, constant))


def _inverse_std(
  content: Float[Array, 'B *axes C'],
  features: tuple[Float[Array, '_size _F'], ...],
) -> Float[Array, 'B M']:
  """Returns 1 / sqrt(variance + epsilon) over the channels of dense tokens.

  The variance is the sum over groups of channels of the variance within a
  group and of its mean's squared distance from the mean of all.
  """
  num_axes = len(features)
  arrays = [content.astype(jnp.float32)] + [
    array.reshape(1, *_shape_on_grid(axis, len(array), num_axes), -1)
    for axis, array in enumerate(features)
  ]
  arrays = [array for array in arrays if array.shape[-1]]
  num_channels = sum(array.shape[-1] for array in arrays)
  means = [jnp.mean(array, axis=-1) for array in arrays]
  mean = sum(
    mean * (array.shape[-1] / num_channels)
    for mean, array in zip(means, arrays, strict=True)
  )
  variance = sum(
    jnp.sum(jnp.square(array - group[..., None]), axis=-1) / num_channels
    + jnp.square(group - mean) * (array.shape[-1] / num_channels)
    for array, group in zip(arrays, means, strict=True)
  )
  variance = jnp.broadcast_to(variance, content.shape[:-1])
  return jax.lax.rsqrt(variance + EPSILON).reshape(content.shape[0], -1)


def _shape_on_grid(axis: int, size: int, num_axes: int) -> tuple[int, ...]:
  """Returns the shape in which an array along `axis` broadcasts."""
  return tuple(size if other == axis else 1 for other in range(num_axes))


def _precise(equation: str, first: Array, second: Array) -> Array:
  """Multiplies small tables in full float32 on every device."""
  return jnp.einsum(
    equation, first, second, precision=jax.lax.Precision.HIGHEST
  )
