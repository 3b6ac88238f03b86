"""How far each pixel moves from one frame to the next."""

import itertools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from perceiver_jax.modalities.flow import FlowInput, FlowOutput
from perceiver_jax.modalities.grid import FourierPositions
from perceiver_jax.model import PerceiverConfig
from perceiver_jax.predict.compiled import compiled, in_batches
from perceiver_jax.predict.images import check_image
from perceiver_jax.weights.native import Pretrained


def estimate_flow(
  pretrained: Pretrained,
  frame1: np.ndarray,
  frame2: np.ndarray,
  *,
  min_overlap: int = 20,
  batch_size: int = 1,
) -> Float[np.ndarray, 'Y X 2']:
  """Estimates where each pixel of a frame is in the next one.

  Frames are cut into overlapping tiles of the size that the model was trained
  with. Where tiles overlap, flow is their average, weighted by the distance to
  the edge of a tile. Frames that are smaller than a tile are extended by their
  border pixels.

  Args:
    pretrained: a model of optical flow.
    frame1: uint8 [Y, X, C], of any size.
    frame2: of the same size.
    min_overlap: rows and columns that neighbouring tiles share at least.
    batch_size: tiles that go through the model at once.

  Returns:
    Motion to the right and down, in pixels.

  Raises:
    ValueError: the model does something else, or frames do not fit.
    TypeError: a frame is not of bytes.

  Source: the published notebook `optical_flow`.
  """
  config = pretrained.config
  inputs = flow_input(config)
  tile = tile_size(inputs)
  if not 0 <= min_overlap < min(tile):
    raise ValueError(
      f'min_overlap must be from 0 to {min(tile) - 1}, got {min_overlap}.'
    )
  frames = _checked(frame1, frame2, inputs.frame_channels)
  _, *size, _ = frames.shape
  margins = [(0, max(0, t - n)) for t, n in zip(tile, size, strict=True)]
  pixels = frames.astype(np.float32) / 255.0 * 2.0 - 1.0
  pixels = np.pad(pixels, [(0, 0), *margins, (0, 0)], mode='edge')
  starts = [
    tile_starts(n, t, min_overlap)
    for n, t in zip(pixels.shape[1:], tile, strict=False)
  ]
  corners = list(itertools.product(*starts))
  tiles = [
    pixels[:, top : top + tile[0], left : left + tile[1]]
    for top, left in corners
  ]
  apply = compiled(config).apply

  def flow_of_tiles(tiles):
    weights = pretrained.params, pretrained.state
    return apply(*weights, None, jnp.asarray(tiles))[0]

  flows = in_batches(flow_of_tiles, tiles, batch_size, unit='tiles')
  flow = _joined(flows, corners, pixels.shape[1:3])
  return flow[: size[0], : size[1]]


def _checked(
  frame1: np.ndarray, frame2: np.ndarray, num_channels: int
) -> UInt8[np.ndarray, '2 Y X C']:
  frames = [
    check_image(f'frame{number}', frame, num_channels)
    for number, frame in [(1, frame1), (2, frame2)]
  ]
  if frames[0].shape != frames[1].shape:
    raise ValueError(
      f'frame2 must have the shape of frame1, {list(frames[0].shape)}, got '
      f'{list(frames[1].shape)}.'
    )
  return np.stack(frames)


def flow_input(config: PerceiverConfig) -> FlowInput:
  """Returns what a model of optical flow says of its frames.

  Raises:
    ValueError: it is a model of something else.
  """
  # Only such inputs fit such outputs.
  if not isinstance(config.outputs, FlowOutput):
    raise ValueError(
      'the outputs of a model of optical flow must be a FlowOutput, got '
      f'{type(config.outputs).__name__}.'
    )
  return config.inputs


def tile_size(config: FlowInput) -> tuple[int, int]:
  """Returns the rows and columns of frames that a model was trained with.

  Raises:
    ValueError: the config does not tell.
  """
  positions = config.positions
  if isinstance(positions, FourierPositions):
    size = positions.max_resolution
  else:
    size = positions and positions.grid
  if not size:
    raise ValueError(
      'positions must tell the size of frames that the model was trained with, '
      f'by max_resolution, got {positions}.'
    )
  rows, columns = map(int, size)
  return rows, columns


def tile_starts(size: int, tile: int, min_overlap: int) -> list[int]:
  """Returns where the fewest tiles start that cover an axis.

  Args:
    size: of the axis, at least `tile`.
    tile: size of a tile.
    min_overlap: elements that neighbouring tiles share at least.
  """
  step = tile - min_overlap
  return [*range(0, size - tile, step), size - tile]


def _joined(
  flows: Float[np.ndarray, 'tiles y x 2'],
  corners: list[tuple[int, int]],
  size: tuple[int, int],
) -> Float[np.ndarray, 'Y X 2']:
  """Averages tiles, weighted by the distance to their nearest edge."""
  _, height, width, _ = flows.shape
  rows, columns = (
    1.0 + np.minimum(np.arange(n), np.arange(n)[::-1]) for n in (height, width)
  )
  weights = np.minimum(rows[:, None], columns)[..., None]
  total, weight = np.zeros((*size, 2)), np.zeros((*size, 1))
  for flow, (top, left) in zip(flows, corners, strict=True):
    place = np.s_[top : top + height, left : left + width]
    total[place] += weights * flow
    weight[place] += weights
  return (total / weight).astype(np.float32)
