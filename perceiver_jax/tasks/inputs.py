"""What a model gets of a batch: the arrays that its inputs are, as floats.

Data sources store and send bytes; they become floats here, on the device. A
model with one input gets the array that is named after what it takes, one with
several gets those with the names of its modalities.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from perceiver_jax.arrays import AnyArray
from perceiver_jax.modalities.audio import AudioInput, SpectrogramInput
from perceiver_jax.modalities.base import InputConfig
from perceiver_jax.modalities.image import ImageInput
from perceiver_jax.modalities.multimodal import MultimodalInput
from perceiver_jax.modalities.points import PointsInput
from perceiver_jax.modalities.video import VideoInput
from perceiver_jax.tasks.base import Batch

IMAGE = 'image'
VIDEO = 'video'
AUDIO = 'audio'
POINTS = 'points'


class Kind(NamedTuple):
  """How a kind of input is stored.

  Attributes:
    name: of the array of a model that has no other input.
    axes: of one example.
    integer: the type it is stored in, unless as floats; None: always floats.
  """

  name: str
  axes: str
  integer: type[np.integer] | None


# Colours are in 0..255, as floats too: a bicubic resize overshoots a little.
_COLOUR_SCALE = 255.0
# Samples are 16-bit integers of this full scale, or floats in [-1, 1].
_SAMPLE_SCALE = 2.0**15
_KINDS = {
  ImageInput: Kind(IMAGE, '[Y, X, C]', np.uint8),
  VideoInput: Kind(VIDEO, '[T, Y, X, C]', np.uint8),
  AudioInput: Kind(AUDIO, '[S, C]', np.int16),
  SpectrogramInput: Kind(AUDIO, '[S, C]', np.int16),
  PointsInput: Kind(POINTS, '[M, K]', None),
}
_COLOURED = (ImageInput, VideoInput)


def input_arrays(config: InputConfig) -> Mapping[str, InputConfig]:
  """Returns the names of arrays that a model takes, and what each of them is.

  Raises:
    ValueError: there is an input that cannot be taken from a batch.
  """
  is_one = not isinstance(config, MultimodalInput)
  parts = [config] if is_one else config.modalities.values()
  for part in parts:
    if type(part) not in _KINDS:
      raise ValueError(
        'the inputs of the model must be of '
        f'{[kind.__name__ for kind in _KINDS]}, got {type(part).__name__}.'
      )
  return {_KINDS[type(config)].name: config} if is_one else config.modalities


def validate_arrays(
  spec: Mapping[str, Any],
  config: InputConfig,
  colours: Mapping[str, tuple[float, ...]],
) -> None:
  """Checks the arrays of one example that a model is to take.

  Args:
    spec: by name, something with a `shape` and a `dtype`.
    config: the inputs of the model.
    colours: fields that have a number for each colour, or one for all.

  Raises:
    ValueError: an array is missing or does not suit.
  """
  arrays = input_arrays(config)
  missing = sorted(set(arrays) - set(spec))
  if missing:
    raise ValueError(
      f'a batch must have what the model takes, {sorted(arrays)}, got '
      f'{sorted(spec)}.'
    )
  for name, part in arrays.items():
    kind, array = _KINDS[type(part)], spec[name]
    if len(array.shape) != kind.axes.count(',') + 1:
      raise ValueError(
        f'{name!r} must have the axes {kind.axes}, got {array.shape}.'
      )
    if array.dtype != kind.integer and not np.issubdtype(
      array.dtype, np.floating
    ):
      integer = f'{kind.integer.__name__} or ' if kind.integer else ''
      raise ValueError(f'{name!r} must be {integer}floats, got {array.dtype}.')
    channels = array.shape[-1]
    for field, numbers in colours.items():
      if isinstance(part, _COLOURED) and len(numbers) not in (1, channels):
        raise ValueError(
          f'{field} must have 1 or {channels} numbers, one for each colour of '
          f'{name!r}, got {numbers}.'
        )


def model_inputs(
  batch: Batch,
  config: InputConfig,
  *,
  colour_mean: tuple[float, ...],
  colour_std: tuple[float, ...],
) -> Any:
  """Returns one array, or a dict of arrays, as the model takes them.

  Args:
    batch: examples.
    config: the inputs of the model.
    colour_mean: mean of each colour, or one for all, of pixels over 255.
    colour_std: standard deviation of each colour, or one for all.
  """

  def floats(stored: AnyArray, part: InputConfig) -> Float[Array, 'B ...']:
    array = jnp.asarray(stored)
    if isinstance(part, _COLOURED):
      mean, std = jnp.array(colour_mean), jnp.array(colour_std)
      return (array / _COLOUR_SCALE - mean) / std
    if jnp.issubdtype(array.dtype, jnp.integer):
      return array / _SAMPLE_SCALE
    return array

  arrays = {
    name: floats(batch[name], part)
    for name, part in input_arrays(config).items()
  }
  return arrays if isinstance(config, MultimodalInput) else arrays.popitem()[1]
