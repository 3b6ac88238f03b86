"""Images as the published models want them."""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from perceiver_jax.data.crop import centre_window
from perceiver_jax.data.resize import resize_bytes

Image = UInt8[np.ndarray, 'Y X C']


class Colours(NamedTuple):
  """Statistics that pixels in [0, 1] are normalised with, for each colour."""

  mean: tuple[float, ...]
  std: tuple[float, ...]


IMAGENET = Colours((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Those of all published models for ImageNet."""

_CROPPED = 224 / (224 + 32)
"""The share of the shorter side that evaluation on ImageNet looks at."""


def check_image(
  subject: str, image: np.ndarray, num_channels: int
) -> np.ndarray:
  """Returns an image [Y, X, C] of bytes, or says what it is instead.

  Args:
    subject: what the message calls it.
    image: to check; of a single colour it may be [Y, X].
    num_channels: number C that it must have.

  Raises:
    ValueError: it has another shape, or no pixel.
    TypeError: it is not of bytes.
  """
  image = np.asarray(image)
  if image.ndim == 2 and num_channels == 1:
    image = image[..., None]
  if image.ndim != 3 or image.shape[2] != num_channels or not image.size:
    raise ValueError(
      f'{subject} must have shape [Y, X, {num_channels}] and a pixel or more, '
      f'got {list(image.shape)}.'
    )
  if image.dtype != np.uint8:
    raise TypeError(f'{subject} must be uint8, got {image.dtype}.')
  return image


def cropped(image: Image, size: tuple[int, int]) -> UInt8[np.ndarray, 'y x C']:
  """Crops a square of 7/8 of the shorter side of an image, and resizes it.

  Args:
    image: of any size.
    size: rows and columns of the result.

  Source: the published notebook `imagenet_classification`.
  """
  window = centre_window(*image.shape[:2], _CROPPED)
  resized = resize_bytes(window.of(image), *size)
  # OpenCV drops the axis of a single colour.
  return resized.reshape(*size, image.shape[2])


def normalised(image: Image, colours: Colours) -> Float[np.ndarray, 'Y X C']:
  """Returns what a model is given of an image.

  Raises:
    ValueError: there are statistics of another number of colours.
  """
  for name, values in colours._asdict().items():
    if len(values) not in (1, image.shape[2]):
      raise ValueError(
        f'the {name} of colours must have 1 or {image.shape[2]} numbers, got '
        f'{values}.'
      )
  mean, std = (np.asarray(values, np.float32) for values in colours)
  return (image.astype(np.float32) / 255.0 - mean) / std


def framed(image: Image, size: tuple[int, int]) -> UInt8[np.ndarray, 'y x C']:
  """Crops the largest square of an image, and resizes it.

  Args:
    image: of any size.
    size: rows and columns of the result.

  Source: the published notebook `video_autoencoding`.
  """
  square = centre_window(*image.shape[:2], 1.0).of(image)
  return cv2.resize(square, size[::-1], interpolation=cv2.INTER_LINEAR)
