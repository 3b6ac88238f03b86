"""Tokens on a grid of any number of axes, and where on it a token is.

Images, videos, audio and spectrograms share this file.
"""

import dataclasses
import enum
import math
from collections.abc import Sequence

import haiku as hk
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from perceiver_jax.arrays import Indices
from perceiver_jax.config import Config
from perceiver_jax.modalities.base import InputConfig, OneHead, OutputConfig
from perceiver_jax.nn import positions
from perceiver_jax.nn.attention import Linear
from perceiver_jax.nn.positions import GridSpan, fourier_note
from perceiver_jax.nn.tokens import AxisFeatures, Tokens

# Sines of one axis. More would be constants of gigabytes in a compiled program.
_MAX_SINES = 2**26


class FourierPositions(Config):
  """Fourier features of the position on the grid; the grid may have any size.

  Attributes:
    num_bands: number K of frequencies along each axis.
    max_resolution: for each axis, twice its highest frequency. None: the size
      of the grid at hand, so that it is the Nyquist frequency.
  """

  num_bands: int = 64
  max_resolution: tuple[float, ...] | None = None

  name = 'Fourier features'

  def channels(self, num_axes: int) -> int:
    """Returns the number of features on a grid of so many axes."""
    return num_axes * (2 * self.num_bands + 1)

  def note(self, num_axes: int) -> str:
    """Returns how this number comes about."""
    axes = 'axis' if num_axes == 1 else 'axes'
    return fourier_note(num_axes, axes, self.num_bands)

  def validate(self) -> None:
    super().validate()
    self._validate_at_least(1, 'num_bands', 'max_resolution')

  def validate_axes(self, num_axes: int) -> None:
    """Checks that the features are for a grid of so many axes."""
    resolution = self.max_resolution
    if resolution is not None and len(resolution) != num_axes:
      raise ValueError(
        f'max_resolution must have {num_axes} numbers, one for each axis, got '
        f'{resolution}.'
      )

  def __call__(
    self, axes: Sequence[int], span: GridSpan = GridSpan.INCLUSIVE
  ) -> tuple[AxisFeatures, ...]:
    """Returns the features of all elements of a grid, axis by axis.

    Args:
      axes: sizes of the grid.
      span: which coordinates the elements have.
    """
    return tuple(
      AxisFeatures(table, axis) for axis, table in self._tables(axes, span)
    )

  def at(
    self, indices: Indices, axes: Sequence[int], span: GridSpan
  ) -> Float[Array, '*O F']:
    """Returns the features of some elements of a grid.

    Args:
      indices: of the elements, the last axis running fastest; one outside of
        the grid gets NaN.
      axes: sizes of the grid.
      span: which coordinates the elements have.
    """
    indices = jnp.asarray(indices)
    coordinates = []
    for size in reversed(axes[1:]):
      coordinates.append(indices % size)
      indices = indices // size
    # What is outside of the grid is outside of its first axis.
    coordinates = [indices, *reversed(coordinates)]
    return jnp.concatenate(
      [
        jnp.asarray(table)
        .at[coordinates[axis]]
        .get(mode='fill', fill_value=np.nan)
        for axis, table in self._tables(axes, span)
      ],
      axis=-1,
    )

  def _tables(
    self, axes: Sequence[int], span: GridSpan
  ) -> list[tuple[int, np.ndarray]]:
    """Returns pairs of an axis and float32 features along it, in order."""
    if max(axes) * self.num_bands > _MAX_SINES:
      raise ValueError(
        f'num_bands times the size of an axis must be at most {_MAX_SINES:,}, '
        f'got {self.num_bands} bands and axes of {tuple(axes)}.'
      )
    resolution = axes if self.max_resolution is None else self.max_resolution
    parts = [
      positions.fourier_features(
        positions.grid_coordinates(size, span)[:, None],
        self.num_bands,
        (highest,),
      )
      for size, highest in zip(axes, resolution, strict=True)
    ]
    # The published order: all coordinates, then all sines, then all cosines.
    return [
      (axis, part[kind].astype(np.float32))
      for kind in range(3)
      for axis, part in enumerate(parts)
    ]


class LearnedPositions(Config):
  """A learned table with a row for each token of a grid of one fixed size.

  Attributes:
    grid: numbers of tokens along the axes.
    num_channels: channels of a row.
    init_scale: standard deviation of the truncated normal it starts from.
  """

  grid: tuple[int, ...] = (224, 224)
  num_channels: int = 256
  init_scale: float = 0.02

  name = 'learned positions'

  def note(self, num_axes: int) -> str:
    """Returns what is learned."""
    del num_axes
    grid = ' x '.join(map(str, self.grid))
    return f'{grid} learned rows of {self.num_channels} channels'

  def channels(self, num_axes: int) -> int:
    """Returns the number of features, whatever the number of axes."""
    del num_axes
    return self.num_channels

  def validate(self) -> None:
    super().validate()
    self._validate_at_least(1, 'grid', 'num_channels')
    self._validate_at_least(0, 'init_scale')

  def validate_axes(self, num_axes: int) -> None:
    """Checks that the table is for a grid of so many axes."""
    if len(self.grid) != num_axes:
      raise ValueError(
        f'the grid of learned positions must have {num_axes} axes, got '
        f'{self.grid}.'
      )

  def __call__(self, axes: Sequence[int]) -> tuple[Array]:
    if tuple(axes) != self.grid:
      raise ValueError(
        f'the grid of tokens must be {self.grid}, the grid of the learned '
        f'positions, got {tuple(axes)}.'
      )
    table = positions.learned_positions(
      math.prod(axes), self.num_channels, self.init_scale, 'positions'
    )
    return (table,)


Positions = FourierPositions | LearnedPositions


class Combine(enum.Enum):
  """How position features join the content of a token."""

  CONCATENATE = enum.auto()
  ADD = enum.auto()


class GridInput(InputConfig):
  """What the inputs on a grid have in common.

  A subclass has the class attribute `num_axes` and the property
  `content_channels`.

  Attributes:
    positions: position features; None: the tokens are an unordered set.
    position_projection: channels to project the position features to by a
      learned linear layer; None: not projected.
    combine: whether positions are concatenated to the content or added to it;
      adding needs as many channels.
  """

  positions: Positions | None = dataclasses.field(
    default_factory=FourierPositions
  )
  position_projection: int | None = None
  combine: Combine = Combine.CONCATENATE

  num_axes = 0

  @property
  def content_channels(self) -> int:
    """Channels of a token without its position."""
    raise TypeError(f'{type(self).__name__} must define content_channels.')

  @property
  def content_name(self) -> str:
    """What the content of a token is, in plural."""
    raise TypeError(f'{type(self).__name__} must define content_name.')

  @property
  def channel_sources(self) -> dict[str, int]:
    content = {self.content_name: self.content_channels}
    if self.positions is None:
      return content
    if self.combine is Combine.ADD:
      return {
        f'{self.content_name} and {self.positions.name}': self.content_channels
      }
    projected = '' if self.position_projection is None else 'projected '
    return content | {
      f'{projected}{self.positions.name}': self.num_position_channels
    }

  @property
  def positions_note(self) -> str:
    if self.positions is None:
      return ''
    note = self.positions.note(self.num_axes)
    if self.position_projection is None:
      return note
    return f'{note}, projected to {self.position_projection}'

  @property
  def num_position_channels(self) -> int:
    """Channels of the position features, projected if they are."""
    if self.positions is None:
      return 0
    if self.position_projection is not None:
      return self.position_projection
    return self.positions.channels(self.num_axes)

  def example_grid(self) -> tuple[int, ...]:
    """Returns the sizes of the smallest grid of tokens that is valid."""
    if isinstance(self.positions, LearnedPositions):
      return self.positions.grid
    return (1,) * self.num_axes

  def validate(self) -> None:
    super().validate()
    self._validate_at_least(1, 'position_projection')
    if self.positions is not None:
      self.positions.validate_axes(self.num_axes)
    content, position = self.content_channels, self.num_position_channels
    if self.combine is Combine.ADD and position not in (0, content):
      raise ValueError(
        f'positions that are added must have {content} channels like the '
        f'content, got {position}; set position_projection.'
      )
    if self.positions is None and self.position_projection is not None:
      raise ValueError(
        'position_projection must be None without positions, '
        f'got {self.position_projection}.'
      )

  def place(self, content: Float[Array, 'B *axes C']) -> Tokens:
    """Joins positions to content; parameters go to the current module."""
    if self.positions is None:
      return Tokens(content)
    axes = content.shape[1:-1]
    # A batch of one, without content, multiplies the positions out.
    empty = jnp.zeros((1, *axes, 0), content.dtype)
    entries = self.positions(axes)
    if self.position_projection is not None:
      project = Linear(self.position_projection, name='projection')
      entries = (project(Tokens(empty, entries).dense()[0]),)
    if self.combine is Combine.CONCATENATE:
      return Tokens(content, entries)
    dense = Tokens(empty, entries).dense()
    return Tokens(content + dense.reshape(1, *axes, -1))


class GridOutput(OutputConfig):
  """What the outputs on a grid have in common: queries by position.

  Raw queries are indices of elements of the grid, [O] or [B, O], the last axis
  running fastest; None stands for the whole grid. A subclass has the class
  attribute `num_axes` and the property `grid`.

  Attributes:
    positions: Fourier features of an element, which are its query.
    query_span: which coordinates the elements have.
  """

  positions: FourierPositions = dataclasses.field(
    default_factory=FourierPositions
  )
  query_span: GridSpan = GridSpan.EXCLUSIVE

  num_axes = 0

  @property
  def grid(self) -> tuple[int, ...]:
    """The sizes of the grid of queries."""
    raise TypeError(f'{type(self).__name__} must define grid.')

  @property
  def num_query_channels(self) -> int:
    return self.positions.channels(self.num_axes)

  def validate(self) -> None:
    super().validate()
    self.positions.validate_axes(self.num_axes)
    if min(self.grid) < 1:
      raise ValueError(f'the grid of outputs must be positive, got {self.grid}')


class GridOutputModality(OneHead):
  """Makes queries for elements of a grid; see `GridOutput`."""

  def __init__(self, config: GridOutput, name: str | None = None):
    super().__init__(name)
    self._config = config

  def num_queries(self, raw_queries: Indices | None) -> int:
    if raw_queries is None:
      return math.prod(self._config.grid)
    return raw_queries.shape[-1]

  @hk.transparent
  def queries(
    self, raw_queries: Indices | None, batch_size: int, num_channels: int
  ) -> Tokens:
    del num_channels  # Validated: it is that of the features.
    config = self._config
    if raw_queries is None:
      positions = config.positions(config.grid, config.query_span)
      return Tokens(jnp.zeros((batch_size, *config.grid, 0)), positions)
    self._check(raw_queries, batch_size)
    features = config.positions.at(raw_queries, config.grid, config.query_span)
    if features.ndim == 3:
      return Tokens(features)
    empty = jnp.zeros((batch_size, len(features), 0))
    return Tokens(empty, (features,))

  def _check(self, indices: Indices, batch_size: int) -> None:
    size = math.prod(self._config.grid)
    shape = list(indices.shape)
    if shape[:-1] not in ([], [batch_size]) or not all(shape):
      raise ValueError(
        f'queries must have shape [O] or [{batch_size}, O], got {shape}.'
      )
    if not jnp.issubdtype(indices.dtype, jnp.integer):
      raise TypeError(
        f'queries must be integer output indices, got {indices.dtype}.'
      )
    is_known = isinstance(indices, np.ndarray)
    if is_known and not (indices.min() >= 0 and indices.max() < size):
      raise ValueError(
        f'queries must be indices from 0 to {size - 1}, got some from '
        f'{indices.min()} to {indices.max()}.'
      )
