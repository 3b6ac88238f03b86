"""Random changes of colour, the same in all frames of a video."""

import math

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from perceiver_jax.config import Config

# Of brightness in red, green and blue: Rec. 601, as in TensorFlow.
_LUMA = np.array([0.299, 0.587, 0.114])


class ColourJitter(Config):
  """Changes brightness, saturation, contrast and hue, in this order.

  All four are affine maps of a pixel's colour, so that a clip gets one. Where
  TensorFlow's operations go through HSV, saturation here moves colours towards
  or away from their grey, and hue turns them about the axis of grey. Contrast
  is about the mean colour of the clip. The result is cut off at 0 and 255.

  Attributes:
    prob: with which anything is changed at all.
    max_brightness: added, at most, as a share of 255.
    max_saturation: saturation is multiplied by 1 plus at most this.
    max_contrast: contrast is multiplied by 1 plus at most this.
    max_hue: turn of the hue, at most, as a share of the whole circle.

  Source: the order and the numbers are the default of DeepMind's library for
  video, google-deepmind/dmvr, `color_default_augm`; the papers give none.
  """

  prob: float = 0.8
  max_brightness: float = 32 / 255
  max_saturation: float = 0.4
  max_contrast: float = 0.4
  max_hue: float = 0.2

  def validate(self) -> None:
    super().validate()
    for name in ('prob', 'max_saturation', 'max_contrast'):
      if not 0.0 <= getattr(self, name) <= 1.0:
        raise ValueError(f'{name} must be in [0, 1], got {getattr(self, name)}')
    self._validate_at_least(0.0, 'max_brightness', 'max_hue')

  def __call__(
    self, video: UInt8[np.ndarray, 'T Y X 3'], rng: np.random.Generator
  ) -> UInt8[np.ndarray, 'T Y X 3']:
    """Returns a clip in other colours, or the same one."""
    if rng.random() >= self.prob:
      return video
    # A sum of bytes is exact, and many times as fast as a mean of floats.
    sums = video.reshape(-1, 3).sum(axis=0, dtype=np.int64)
    matrix, offset = self._map(sums / (video.size // 3), rng)
    # OpenCV wants an image: the frames one below the other.
    rows = video.reshape(-1, *video.shape[2:])
    changed = cv2.transform(rows, np.column_stack([matrix, offset]))
    return changed.reshape(video.shape)

  def _map(
    self, mean: Float[np.ndarray, '3'], rng: np.random.Generator
  ) -> tuple[Float[np.ndarray, '3 3'], Float[np.ndarray, '3']]:
    """Draws a matrix and what is added after it.

    Args:
      mean: colour of the clip.
      rng: decides.
    """
    brighter, saturation, contrast, turn = rng.uniform(-1.0, 1.0, 4) * [
      255 * self.max_brightness,
      self.max_saturation,
      self.max_contrast,
      2 * math.pi * self.max_hue,
    ]
    saturate = (1 + saturation) * np.eye(3) - saturation * _LUMA
    matrix = _hue_turn(turn) @ saturate
    # Contrast keeps the mean of what comes before it in its place.
    offset = matrix @ (np.full(3, brighter) - contrast * mean)
    return (1 + contrast) * matrix, offset


def _hue_turn(angle: float) -> Float[np.ndarray, '3 3']:
  """Returns the rotation by an angle about the axis of greys."""
  axis = np.full(3, 1 / math.sqrt(3))
  cross = np.cross(np.eye(3), axis)
  return (
    math.cos(angle) * np.eye(3)
    + math.sin(angle) * cross
    + (1 - math.cos(angle)) * np.outer(axis, axis)
  )
