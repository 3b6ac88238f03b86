"""Which part of an image is looked at.

Source of both functions: TensorFlow's `sample_distorted_bounding_box`, which
the papers' training code calls, and the evaluation of the same code
(google-deepmind/deepmind-research, perceiver/train/dataset.py @ 12971d9a).
"""

import math
from typing import NamedTuple

import numpy as np

_MAX_ATTEMPTS = 10
# Of the image's area. The published code asks for it beside its range of areas,
# of whose smallest values it thereby makes no use.
MIN_COVERED = 0.1


class Window(NamedTuple):
  """A rectangle of whole pixels inside an image."""

  top: int
  left: int
  height: int
  width: int

  def of(self, image: np.ndarray) -> np.ndarray:
    """Returns this part of an image `[Y, X, ...]`, not copied."""
    rows = slice(self.top, self.top + self.height)
    return image[rows, self.left : self.left + self.width]


def validate(
  area: tuple[float, float], ratio: tuple[float, float], eval_fraction: float
) -> None:
  """Checks the fields of a data source that say how it crops.

  Raises:
    ValueError: one of `crop_area`, `crop_ratio` and `eval_crop_fraction` is out
      of range.
  """
  least, most = area
  if not (0 < least <= most <= 1 and most >= MIN_COVERED):
    raise ValueError(
      'crop_area must be two shares in (0, 1], the smaller first and the '
      f'larger at least {MIN_COVERED}, got {area}.'
    )
  if not 0 < ratio[0] <= ratio[1]:
    raise ValueError(
      'crop_ratio must be two positive numbers, the smaller first, got '
      f'{ratio}.'
    )
  if not 0 < eval_fraction <= 1:
    raise ValueError(
      f'eval_crop_fraction must be in (0, 1], got {eval_fraction}.'
    )


def random_window(
  height: int,
  width: int,
  rng: np.random.Generator,
  *,
  area: tuple[float, float] = (0.08, 1.0),
  ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Window | None:
  """Draws a part of an image as Inception was trained on.

  The aspect ratio is uniform in `ratio`; the height is uniform among all that
  keep the window inside the image and its area inside `area`; the place is
  uniform. At least a tenth of the image is covered, whatever `area` says.

  Args:
    height: of the image, in pixels.
    width: of the image, in pixels.
    rng: decides.
    area: of the window, least and most, as shares of the image's.
    ratio: width over height of the window, least and most.

  Returns:
    The window, or None if ten aspect ratios allowed none, as in an image that
    is very long.
  """
  for _ in range(_MAX_ATTEMPTS):
    size = _random_size(height, width, rng, area, rng.uniform(*ratio))
    if size is not None and size[0] * size[1] >= MIN_COVERED * height * width:
      return Window(
        int(rng.integers(height - size[0] + 1)),
        int(rng.integers(width - size[1] + 1)),
        *size,
      )
  return None


def centre_window(height: int, width: int, fraction: float) -> Window:
  """Returns the square in the middle of an image.

  Args:
    height: of the image, in pixels.
    width: of the image, in pixels.
    fraction: side of the square over the image's shorter side, at most 1.
  """
  size = max(int(fraction * min(height, width)), 1)
  return Window((height - size + 1) // 2, (width - size + 1) // 2, size, size)


def _random_size(
  height: int,
  width: int,
  rng: np.random.Generator,
  area: tuple[float, float],
  ratio: float,
) -> tuple[int, int] | None:
  """Draws height and width of a window of one aspect ratio."""
  least, most = (share * height * width for share in area)
  lowest = round(math.sqrt(least / ratio))
  highest = min(round(math.sqrt(most / ratio)), height)
  while round(highest * ratio) > width:
    highest = min(highest - 1, int((width + 0.5) / ratio))
  rows = int(rng.integers(lowest, highest + 1)) if lowest < highest else highest
  # Rounding may have left the range of areas by a pixel.
  if rows * round(rows * ratio) < least:
    rows += 1
  if rows * round(rows * ratio) > most:
    rows -= 1
  columns = round(rows * ratio)
  fits = 0 < rows <= height and 0 < columns <= width
  return (rows, columns) if fits and least <= rows * columns <= most else None
