"""What models see and make, as pictures."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

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
      _show(cell, _brightened(image, map_, _full(map_)), title)
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


class Sound(NamedTuple):
  """What is drawn of sound.

  Attributes:
    log_mel: its spectrogram.
    frame_secs: how long a frame of it lasts.
    maps: for each cross-attend, where clips of it are looked at: on a grid of
      time, or of time and mel bins.
  """

  log_mel: Float[np.ndarray, 'frames mels']
  frame_secs: float
  maps: Sequence[Float[np.ndarray, 'K *axes']]


class Sights(NamedTuple):
  """What is drawn of video.

  Attributes:
    frames: of the whole.
    frame_secs: how long each lasts.
    maps: for each cross-attend, where clips of it are looked at.
  """

  frames: UInt8[np.ndarray, 'T Y X C']
  frame_secs: float
  maps: Sequence[Float[np.ndarray, 'K t y x']]


def listening_picture(
  sound: Sound | None,
  sights: Sights | None,
  starts_secs: Float[np.ndarray, ' K'],
  clip_secs: float,
  scores: Mapping[str, Float[np.ndarray, ' K']],
) -> Picture:
  """Draws a recording, where a model looks in it, and what it says when.

  Below the spectrogram, and below frames, is a row for each cross-attend, on
  which what is looked at glows; where clips overlap it is their mean.

  Args:
    sound: what is heard; None if nothing is.
    sights: what is seen; None if nothing is.
    starts_secs: when clips begin.
    clip_secs: how long a clip is.
    scores: of classes, in each clip.
  """
  times = _Times(starts_secs, clip_secs)
  heights = [1.5] * (1 + len(sound.maps)) if sound else []
  heights += [2.1] * (1 + len(sights.maps)) if sights else []
  figure = Figure(
    figsize=(2.1 * _SHOWN_FRAMES, sum(heights) + 2.3), layout='constrained'
  )
  grid = GridSpec(
    len(heights) + 1, _SHOWN_FRAMES, figure, height_ratios=[*heights, 1.9]
  )
  row = 0
  if sound:
    for title, image in _sound_rows(sound, times):
      axes = figure.add_subplot(grid[row, :])
      secs = len(sound.log_mel) * sound.frame_secs
      axes.imshow(image, aspect='auto', extent=(0, secs, 0, image.shape[0]))
      axes.set_title(title, loc='left', fontsize=9)
      axes.set_ylabel('mel bin', fontsize=8)
      axes.tick_params(labelsize=8)
      row += 1
  if sights:
    for titles, images in _sight_rows(sights, times):
      for column, (title, image) in enumerate(zip(titles, images, strict=True)):
        _show(figure.add_subplot(grid[row, column]), image, title)
      row += 1
  _plot_scores(figure.add_subplot(grid[row, :]), times, scores)
  return _drawn(figure)


class _Times(NamedTuple):
  """When clips begin, and how long each is."""

  starts_secs: Float[np.ndarray, ' K']
  clip_secs: float

  def at(
    self,
    maps: Float[np.ndarray, 'K T *axes'],
    moments: Float[np.ndarray, ' times'],
  ) -> Float[np.ndarray, 'times *axes']:
    """Returns maps at moments: the mean over the clips that have them."""
    total = np.zeros((len(moments), *maps.shape[2:]))
    counts = np.zeros(len(moments))
    for start, map_ in zip(self.starts_secs, maps, strict=True):
      places = np.floor((moments - start) / self.clip_secs * len(map_))
      inside = (places >= 0) & (places < len(map_))
      total[inside] += map_[places[inside].astype(int)]
      counts[inside] += 1
    shape = (-1,) + (1,) * (total.ndim - 1)
    return total / np.maximum(counts, 1).reshape(shape)


def _sound_rows(sound: Sound, times: _Times) -> Iterator[tuple[str, Image]]:
  """Yields titles and images: of the sound, and of the maps over it."""
  # Low pitches at the bottom.
  levels = sound.log_mel.T[::-1]
  span = max(np.ptp(levels), 1e-6)
  image = np.round(255 * (levels - levels.min()) / span).astype(np.uint8)
  image = np.repeat(image[..., None], 3, axis=-1)
  yield 'sound, log-mel spectrogram', image
  moments = (np.arange(len(sound.log_mel)) + 0.5) * sound.frame_secs
  for index, maps in enumerate(sound.maps):
    found = times.at(maps, moments)
    found = found.reshape(len(found), -1).T[::-1]
    glowing = _brightened(image, found, _full(found))
    yield _title(index, maps, 'sound'), glowing


def _sight_rows(
  sights: Sights, times: _Times
) -> Iterator[tuple[list[str], list[Image]]]:
  """Yields titles and images of a row: of frames, and of the maps over them."""
  count = min(_SHOWN_FRAMES, len(sights.frames))
  shown = np.linspace(0, len(sights.frames) - 1, count).round().astype(int)
  moments = (shown + 0.5) * sights.frame_secs
  frames = list(sights.frames[shown])
  yield [f'{moment:.2f} s' for moment in moments], frames
  for index, maps in enumerate(sights.maps):
    found = times.at(maps, moments)
    titles = [_title(index, maps, 'video')] + [''] * (count - 1)
    # One scale, for frames are looked at more or less, too.
    full = _full(found)
    yield (
      titles,
      [
        _brightened(frame, map_, full)
        for frame, map_ in zip(frames, found, strict=True)
      ],
    )


def _title(index: int, maps: np.ndarray, subject: str) -> str:
  share = maps.reshape(len(maps), -1).sum(axis=1).mean()
  return f'cross-attend {index + 1}: {share:.0%} on {subject}'


def _plot_scores(
  axes: Axes, times: _Times, scores: Mapping[str, Float[np.ndarray, ' K']]
) -> None:
  middles = times.starts_secs + times.clip_secs / 2
  for name, of_class in scores.items():
    axes.plot(middles, of_class, marker='.', linewidth=1, label=name)
  axes.set_title('scores of clips, at their middles', loc='left', fontsize=9)
  axes.set_xlim(0, times.starts_secs.max() + times.clip_secs)
  axes.set_ylim(-0.02, 1.02)
  axes.set_xlabel('seconds', fontsize=8)
  axes.tick_params(labelsize=8)
  axes.spines[['top', 'right']].set_visible(False)
  axes.legend(fontsize=8, frameon=False, loc='center left', ncols=1)


def _full(maps: Float[np.ndarray, '...']) -> float:
  """Returns what gets the full brightness.

  A few pixels may be looked at so much that the rest would stay dark.
  """
  return max(float(np.percentile(maps, _BRIGHTEST)), 1e-30)


def _brightened(
  image: Image, map_: Float[np.ndarray, 'y x'], full: float
) -> UInt8[np.ndarray, 'Y X 3']:
  """Returns the image in dim grey, with the map glowing on it."""
  rows, columns = (
    np.arange(n) * m // n for n, m in zip(image.shape, map_.shape, strict=False)
  )
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
