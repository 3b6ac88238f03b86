"""What models see and make, as pictures."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec

from perceiver_jax.predict.autoencoding import Reconstruction

Image = UInt8[np.ndarray, 'Y X C']
Picture = UInt8[np.ndarray, 'height width 3']

_DPI = 100
_SHOWN_FRAMES = 6
_COLOR = '#0072B2'
_DIMMED = 0.35
_BRIGHTEST = 99.5
"""The percentile of pixels that gets the full brightness of a map."""


def flow_colours(
  flow: Float[np.ndarray, '... 2'], max_pixels: float
) -> UInt8[np.ndarray, '... 3']:
  """Returns the colour of each motion: its hue is the direction.

  To the right is red, down yellow to green, left cyan, up violet. No motion is
  white, motion of `max_pixels` or more has the full colour.
  """
  right, down = np.moveaxis(flow, -1, 0)
  hue = np.arctan2(down, right) / (2.0 * np.pi) % 1.0
  saturation = np.clip(np.hypot(right, down) / max_pixels, 0.0, 1.0)
  hsv = np.stack([hue, saturation, np.ones_like(hue)], axis=-1)
  return np.round(255.0 * colors.hsv_to_rgb(hsv)).astype(np.uint8)


def flow_picture(
  frame1: Image, frame2: Image, flow: Float[np.ndarray, 'Y X 2']
) -> Picture:
  """Draws two frames, the flow between them, and its wheel of colours."""
  max_pixels = max(float(np.hypot(*np.moveaxis(flow, -1, 0)).max()), 1e-3)
  ratio = flow.shape[0] / flow.shape[1]
  figure = Figure(figsize=(12.4, 3.6 * ratio + 0.5), layout='constrained')
  grid = GridSpec(1, 4, figure, width_ratios=[3, 3, 3, 1])
  for index, (title, image) in enumerate(
    [
      ('frame 1', frame1),
      ('frame 2', frame2),
      ('flow', flow_colours(flow, max_pixels)),
    ]
  ):
    _show(figure.add_subplot(grid[index]), image, title)
  axis = np.linspace(-max_pixels, max_pixels, 201)
  wheel = np.stack(np.meshgrid(axis, axis), axis=-1)
  picture = flow_colours(wheel, max_pixels)
  picture[np.hypot(*np.moveaxis(wheel, -1, 0)) > max_pixels] = 255
  title = f'up to {max_pixels:.3g} pixels'
  _show(figure.add_subplot(grid[3]), picture, title)
  return _drawn(figure)


def attention_picture(
  image: Image,
  maps: Sequence[Float[np.ndarray, 'latents y x']],
  latents: Sequence[int],
) -> Picture:
  """Draws where latents look, a row for each cross-attend, over the image.

  A pixel is as bright as it is looked at, compared with the most looked at ones
  of that map; the last column is the mean over the latents that are shown.

  Args:
    image: of the shape that the model saw.
    maps: what `image_attention` returned.
    latents: which ones they are.
  """
  columns = 2 + len(latents)
  figure = Figure(
    figsize=(1.6 * columns, 1.75 * len(maps) + 0.2), layout='constrained'
  )
  axes = figure.subplots(len(maps), columns, squeeze=False)
  for index, (row, found) in enumerate(zip(axes, maps, strict=True)):
    _show(row[0], image, f'cross-attend {index + 1}')
    titles = [f'latent {latent}' for latent in latents]
    shown = [*found, found.mean(axis=0)]
    for cell, map_, title in zip(
      row[1:], shown, [*titles, 'mean'], strict=True
    ):
      _show(cell, _brightened(image, map_), title)
  return _drawn(figure)


def autoencoding_picture(
  video: UInt8[np.ndarray, 'T Y X C'],
  audio: Float[np.ndarray, 'S c'],
  reconstruction: Reconstruction,
) -> Picture:
  """Draws frames and sound above what the model made of them."""
  count = min(_SHOWN_FRAMES, len(video))
  shown = np.linspace(0, len(video) - 1, count).round().astype(int)
  figure = Figure(figsize=(2.1 * count, 7.0), layout='constrained')
  grid = GridSpec(4, count, figure, height_ratios=[2.1, 2.1, 1, 1])
  rows = [('original', video), ('reconstruction', reconstruction.video)]
  for row, (name, frames) in enumerate(rows):
    for column, index in enumerate(shown):
      title = f'{name}, frame {index}' if column == 0 else f'{index}'
      _show(figure.add_subplot(grid[row, column]), frames[index], title)
  highest = max(np.abs(audio).max(), np.abs(reconstruction.audio).max(), 1e-3)
  sounds = [('original', audio), ('reconstruction', reconstruction.audio)]
  for row, (name, samples) in enumerate(sounds, start=2):
    axes = figure.add_subplot(grid[row, :])
    axes.plot(samples[:, 0], color=_COLOR, linewidth=0.6)
    axes.set_title(f'{name}, sound', loc='left', fontsize=9)
    axes.set_xlim(0, len(samples))
    axes.set_ylim(-highest, highest)
    axes.tick_params(labelsize=8)
    axes.spines[['top', 'right']].set_visible(False)
  axes.set_xlabel('sample', fontsize=8)
  return _drawn(figure)


def _brightened(
  image: Image, map_: Float[np.ndarray, 'y x']
) -> UInt8[np.ndarray, 'Y X 3']:
  """Returns the image in dim grey, with the map glowing on it."""
  rows, columns = (
    np.arange(n) * m // n for n, m in zip(image.shape, map_.shape, strict=False)
  )
  # A few pixels may be looked at so much that the rest would stay dark.
  full = max(np.percentile(map_, _BRIGHTEST), 1e-30)
  glow = np.clip(map_ / full, 0.0, 1.0)[rows[:, None], columns, None]
  grey = image.mean(axis=-1, keepdims=True) / 255.0 * _DIMMED
  # From black over red and yellow to white.
  heat = np.clip(3.0 * glow - np.arange(3), 0.0, 1.0)
  return np.round(255.0 * np.maximum(grey * (1 - glow), heat)).astype(np.uint8)


def _show(axes: Axes, image: Image, title: str) -> None:
  if image.shape[-1] == 1:
    image = np.repeat(image, 3, axis=-1)
  axes.imshow(image, interpolation='nearest')
  axes.set_title(title, loc='left', fontsize=9)
  axes.set_axis_off()


def _drawn(figure: Figure) -> Picture:
  canvas = FigureCanvasAgg(figure)
  figure.set_dpi(_DPI)
  canvas.draw()
  return np.asarray(canvas.buffer_rgba())[..., :3].copy()
