"""Optical flow: two frames as inputs, how far each pixel moves as outputs."""

import dataclasses
from collections.abc import Sequence

import haiku as hk
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from perceiver_jax.arrays import ExampleRngs, Videos
from perceiver_jax.modalities.base import InputConfig, InputModality
from perceiver_jax.modalities.grid import (
  FourierPositions,
  GridInput,
  Positions,
)
from perceiver_jax.modalities.queried_by_inputs import (
  QueriedByInputs,
  QueriedByInputsModality,
)
from perceiver_jax.nn.attention import Linear
from perceiver_jax.nn.tokens import Tokens


class FlowInput(GridInput):
  """Two frames [B, 2, Y, X, C], floating point in [-1, 1], as inputs.

  There is a token for each pixel. It sees the pixels around it in both frames,
  black outside of them.

  Attributes:
    frame_channels: colours of a pixel.
    neighbourhood: rows and columns of pixels that a token sees; odd.
    embedding_channels: of a linear projection of these pixels; None: they are
      not projected.
    positions: see `GridInput`; the default has the frequencies of the
      published size of frames, 368 x 496, whatever the size of those at hand.

  Source: arXiv 2107.14795, section 4.2 and appendix H.
  """

  frame_channels: int = 3
  neighbourhood: int = 3
  embedding_channels: int | None = 64
  positions: Positions | None = dataclasses.field(
    default_factory=lambda: FourierPositions(
      num_bands=64, max_resolution=(368.0, 496.0)
    )
  )

  num_axes = 2

  @property
  def content_channels(self) -> int:
    if self.embedding_channels is not None:
      return self.embedding_channels
    return 2 * self.neighbourhood**2 * self.frame_channels

  @property
  def content_name(self) -> str:
    projected = '' if self.embedding_channels is None else 'projected '
    return f'{projected}pixels of both frames'

  def example(self) -> jax.ShapeDtypeStruct:
    shape = (1, 2, *self.example_grid(), self.frame_channels)
    return jax.ShapeDtypeStruct(shape, jnp.float32)

  def validate(self) -> None:
    super().validate()
    self._validate_at_least(1, 'frame_channels', 'embedding_channels')
    if self.neighbourhood < 1 or self.neighbourhood % 2 == 0:
      raise ValueError(
        f'neighbourhood must be odd and positive, got {self.neighbourhood}.'
      )

  def make(self, name: str) -> 'FlowModality':
    return FlowModality(self, name=name)


class FlowModality(hk.Module):
  """Turns pairs of frames into tokens; see `FlowInput`."""

  def __init__(self, config: FlowInput, name: str | None = None):
    super().__init__(name)
    self._config = config

  def __call__(
    self, inputs: Videos, *, is_training: bool, rngs: ExampleRngs | None = None
  ) -> Tokens:
    del is_training, rngs
    config = self._config
    channels = config.frame_channels
    fits = inputs.ndim == 5 and inputs.shape[1::3] == (2, channels)
    if not fits or not all(inputs.shape[2:4]):
      raise ValueError(
        f'frames must have shape [B, 2, Y, X, {channels}] and a pixel or more, '
        f'got {list(inputs.shape)}.'
      )
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
      raise TypeError(
        f'frames must be floating point in [-1, 1], got {inputs.dtype}.'
      )
    content = _neighbourhoods(jnp.asarray(inputs), config.neighbourhood)
    if config.embedding_channels is not None:
      embed = Linear(config.embedding_channels, name='embedding')
      content = embed(content)
    return config.place(content)


class FlowOutput(QueriedByInputs):
  """The motion of each pixel from the first frame to the second [B, Y, X, 2].

  Its queries are the input tokens; features [B, O, E] of a part of them give
  outputs [B, O, 2].

  Attributes:
    divisor: the outputs of the last layer are divided by it, so that they
      start small.
    flow_scale: and multiplied by it, in pixels; the targets of the published
      model were divided by it in training.
    use_zero_init: start the last layer at zero; else at a truncated normal of
      variance 1 / fan-in.

  Source: the published notebook `optical_flow` and its `FlowDecoder`.
  """

  divisor: float = 100.0
  flow_scale: float = 20.0
  use_zero_init: bool = True

  def validate(self) -> None:
    super().validate()
    for name in ('divisor', 'flow_scale'):
      if getattr(self, name) <= 0.0:
        raise ValueError(f'{name} must be positive, got {getattr(self, name)}.')

  def validate_fit(self, inputs: InputConfig, decoded_channels: int) -> None:
    del decoded_channels
    if not isinstance(inputs, FlowInput):
      raise ValueError(
        'the inputs of a FlowOutput must be a FlowInput, '
        f'got {type(inputs).__name__}.'
      )

  def make(self, name: str, inputs: InputModality) -> 'FlowOutputModality':
    del inputs
    return FlowOutputModality(self, name=name)


class FlowOutputModality(QueriedByInputsModality):
  """Makes flow of what the input tokens read; see `FlowOutput`."""

  @hk.name_like('__call__')
  def head(self, decoded: Float[Array, 'B O E']) -> Float[Array, 'B O 2']:
    config = self._config
    init = hk.initializers.Constant(0.0) if config.use_zero_init else None
    flow = Linear(2, w_init=init, name='flow')(decoded)
    return flow.astype(jnp.float32) * (config.flow_scale / config.divisor)

  def arrange(
    self,
    made: Sequence[Float[Array, 'B O 2']],
    raw_queries: Tokens | Float[Array, 'B O E'],
  ) -> Float[Array, 'B *grid 2']:
    (flow,) = made
    if isinstance(raw_queries, Tokens):
      return flow.reshape(len(flow), *raw_queries.axes, 2)
    return flow


def _neighbourhoods(
  frames: Float[Array, 'B T Y X C'], size: int
) -> Float[Array, 'B Y X P']:
  """Returns the pixels around each pixel, black outside of the frames.

  The channels of a pixel run over frames, then rows, columns and colours.
  """
  batch, _, height, width, _ = frames.shape
  margin = (size // 2, size // 2)
  padded = jnp.pad(frames, ((0, 0), (0, 0), margin, margin, (0, 0)))
  shifted = [
    padded[:, :, dy : dy + height, dx : dx + width]
    for dy in range(size)
    for dx in range(size)
  ]
  around = jnp.stack(shifted, axis=-2)
  return jnp.moveaxis(around, 1, 3).reshape(batch, height, width, -1)
