"""RandAugment: a few random operations, all of the same magnitude, one by one.

Operations work on 8-bit colours, most through a look-up table, and cost about
a tenth of a millisecond each on a photo.

Source: arXiv 1909.13719; operations and the meaning of a magnitude as the
papers' code has them (google-deepmind/deepmind-research,
perceiver/train/autoaugment.py @ 12971d9a), each of which stands for one of
Pillow's. That code's Contrast takes another mean than Pillow's; here it is
Pillow's. At magnitude 5 the operations Color, Contrast, Brightness and
Sharpness change nothing, here and there.
"""

from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import UInt8

from perceiver_jax.config import Config

_MAX_MAGNITUDE = 10.0
# What operations that move pixels leave where no pixel came.
_FILL = (128, 128, 128)
_CUTOUT_PIXELS = 40
_TRANSLATE_PIXELS = 100

Image = UInt8[np.ndarray, 'Y X 3']


class RandAugment(Config):
  """How many operations, and how strong.

  Attributes:
    num_layers: operations that each image goes through.
    magnitude: of each, in 0..10.
  """

  num_layers: int = 4
  magnitude: float = 5.0

  def validate(self) -> None:
    super().validate()
    self._validate_at_least(1, 'num_layers')
    if not 0 <= self.magnitude <= _MAX_MAGNITUDE:
      raise ValueError(
        f'magnitude must be in 0..{_MAX_MAGNITUDE:g}, got {self.magnitude}.'
      )

  def __call__(self, image: Image, rng: np.random.Generator) -> Image:
    """Returns an augmented image; the one given does not change."""
    for index in rng.integers(len(OPERATIONS), size=self.num_layers):
      image = OPERATIONS[index](image, self.magnitude / _MAX_MAGNITUDE, rng)
    return image


def auto_contrast(image: Image) -> Image:
  """Stretches the levels of each colour over the whole range."""
  levels = np.arange(256)
  # One axis after the other is many times as fast as both at once.
  lows = image.min(axis=0).min(axis=0).tolist()
  highs = image.max(axis=0).max(axis=0).tolist()
  tables = []
  for low, high in zip(lows, highs, strict=True):
    scale = 255.0 / max(high - low, 1)
    stretched = np.clip(levels * scale - low * scale, 0, 255)
    tables.append(levels if low == high else stretched)
  return _looked_up(image, tables)


def equalize(image: Image) -> Image:
  """Makes the levels of each colour about equally frequent."""
  tables = []
  for histogram in _histograms(image):
    last = histogram[np.flatnonzero(histogram)[-1]]
    step = (histogram.sum() - last) // 255
    below = np.cumsum(histogram) - histogram
    even = (below + step // 2) // max(step, 1)
    tables.append(np.arange(256) if step == 0 else np.minimum(even, 255))
  return _looked_up(image, tables)


def invert(image: Image) -> Image:
  """Turns light into dark."""
  return cv2.bitwise_not(image)


def posterize(image: Image, bits: int) -> Image:
  """Keeps the highest bits of each colour, so many."""
  return _looked_up(image, [np.arange(256) & (0xFF << 8 - bits)])


def solarize(image: Image, threshold: int) -> Image:
  """Inverts the levels from `threshold` on."""
  levels = np.arange(256)
  return _looked_up(image, [np.where(levels < threshold, levels, 255 - levels)])


def solarize_add(image: Image, addition: int) -> Image:
  """Adds to the levels below 128."""
  levels = np.arange(256)
  raised = np.minimum(levels + addition, 255)
  return _looked_up(image, [np.where(levels < 128, raised, levels)])


def color(image: Image, factor: float) -> Image:
  """Multiplies the distance of each pixel from its grey."""
  grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
  return _blended(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), image, factor)


def contrast(image: Image, factor: float) -> Image:
  """Multiplies the distance of each level from the image's mean grey."""
  mean = int(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0] + 0.5)
  levels = np.arange(256, dtype=np.float32)
  table = mean + np.float32(factor) * (levels - mean)
  return _looked_up(image, [np.clip(table, 0, 255)])


def brightness(image: Image, factor: float) -> Image:
  """Multiplies each level."""
  table = np.float32(factor) * np.arange(256, dtype=np.float32)
  return _looked_up(image, [np.clip(table, 0, 255)])


def sharpness(image: Image, factor: float) -> Image:
  """Multiplies the distance of each pixel from a smooth image."""
  kernel = np.ones((3, 3), np.float32)
  kernel[1, 1] = 5
  smooth = cv2.filter2D(image, -1, kernel / kernel.sum())
  # The border has no neighbours to be smoothed with.
  for border in (np.s_[:1], np.s_[-1:], np.s_[:, :1], np.s_[:, -1:]):
    smooth[border] = image[border]
  return _blended(smooth, image, factor)


def rotate(image: Image, degrees: float) -> Image:
  """Turns an image about its centre, anticlockwise."""
  height, width, _ = image.shape
  cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
  turn = np.array([[cosine, -sine], [sine, cosine]])
  centre = np.array([width, height]) / 2
  return _moved(image, np.column_stack([turn, centre - turn @ centre]))


def shear_x(image: Image, level: float) -> Image:
  """Moves each row left, by `level` times its distance from the top."""
  return _moved(image, np.array([[1.0, level, 0.0], [0.0, 1.0, 0.0]]))


def shear_y(image: Image, level: float) -> Image:
  """Moves each column up, by `level` times its distance from the left."""
  return _moved(image, np.array([[1.0, 0.0, 0.0], [level, 1.0, 0.0]]))


def translate_x(image: Image, pixels: float) -> Image:
  """Moves an image left."""
  return _moved(image, np.array([[1.0, 0.0, pixels], [0.0, 1.0, 0.0]]))


def translate_y(image: Image, pixels: float) -> Image:
  """Moves an image up."""
  return _moved(image, np.array([[1.0, 0.0, 0.0], [0.0, 1.0, pixels]]))


def cutout(image: Image, top: int, left: int, size: int) -> Image:
  """Greys a square, as much of it as is inside the image."""
  result = image.copy()
  rows = slice(max(top, 0), max(top + size, 0))
  result[rows, max(left, 0) : max(left + size, 0)] = _FILL
  return result


def _cutout(image: Image, share: float, rng: np.random.Generator) -> Image:
  """Greys a square whose centre is anywhere in the image."""
  half = int(share * _CUTOUT_PIXELS)
  height, width, _ = image.shape
  top, left = rng.integers(height) - half, rng.integers(width) - half
  return cutout(image, int(top), int(left), 2 * half)


def _enhanced(
  image: Image, share: float, enhance: Callable[[Image, float], Image]
) -> Image:
  factor = share * 1.8 + 0.1
  # Which changes nothing, but would cost as much as if it did.
  return image if factor == 1.0 else enhance(image, factor)


def _sign(rng: np.random.Generator) -> int:
  return 1 if rng.random() < 0.5 else -1


# Each takes an image, a share of the largest magnitude, and a generator.
OPERATIONS = (
  lambda image, share, rng: auto_contrast(image),
  lambda image, share, rng: equalize(image),
  lambda image, share, rng: invert(image),
  lambda image, share, rng: rotate(image, _sign(rng) * share * 30),
  lambda image, share, rng: posterize(image, int(share * 4)),
  lambda image, share, rng: solarize(image, int(share * 256)),
  lambda image, share, rng: _enhanced(image, share, color),
  lambda image, share, rng: _enhanced(image, share, contrast),
  lambda image, share, rng: _enhanced(image, share, brightness),
  lambda image, share, rng: _enhanced(image, share, sharpness),
  lambda image, share, rng: shear_x(image, _sign(rng) * share * 0.3),
  lambda image, share, rng: shear_y(image, _sign(rng) * share * 0.3),
  lambda image, share, rng: translate_x(
    image, _sign(rng) * share * _TRANSLATE_PIXELS
  ),
  lambda image, share, rng: translate_y(
    image, _sign(rng) * share * _TRANSLATE_PIXELS
  ),
  _cutout,
  lambda image, share, rng: solarize_add(image, int(share * 110)),
)


def _histograms(image: Image) -> list[np.ndarray]:
  """Returns how often each level of each colour occurs."""
  return [
    cv2.calcHist([image], [channel], None, [256], [0, 256])
    .ravel()
    .astype(np.int64)
    for channel in range(3)
  ]


def _looked_up(image: Image, tables: list[np.ndarray]) -> Image:
  """Replaces each level; there is a table for each colour, or one for all."""
  table = np.stack(tables, axis=-1).astype(np.uint8)
  return cv2.LUT(image, table[np.newaxis])


def _blended(start: Image, image: Image, factor: float) -> Image:
  """Goes from `start` towards an image, or beyond it if factor exceeds 1."""
  return cv2.addWeighted(image, factor, start, 1 - factor, 0)


def _moved(image: Image, inverse: np.ndarray) -> Image:
  """Returns an image whose pixel at p is the old one at `inverse @ (p, 1)`.

  Coordinates are x, y; pixel number i is the area from i to i + 1. What was
  nearest is taken, nothing is interpolated.
  """
  # OpenCV counts from the centre of the first pixel.
  inverse = inverse.copy()
  inverse[:, 2] += inverse[:, :2] @ [0.5, 0.5] - 0.5
  height, width, _ = image.shape
  return cv2.warpAffine(
    image,
    inverse,
    (width, height),
    flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
    borderMode=cv2.BORDER_CONSTANT,
    borderValue=_FILL,
  )
