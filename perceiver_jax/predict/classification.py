"""What is on an image."""

import csv
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from perceiver_jax.modalities.image import ImageInput, LearnedPositions
from perceiver_jax.modalities.label import LabelOutput
from perceiver_jax.model import PerceiverConfig
from perceiver_jax.predict.compiled import compiled, in_batches
from perceiver_jax.predict.images import (
  IMAGENET,
  Colours,
  Image,
  check_image,
  cropped,
  normalised,
)
from perceiver_jax.weights.native import Pretrained


class Prediction(NamedTuple):
  """A class, and how probable it is.

  Attributes:
    label: the number of the class.
    name: its name, or its number if there are no names.
    prob: its probability.
  """

  label: int
  name: str
  prob: float


def classify(
  pretrained: Pretrained,
  images: Sequence[np.ndarray] | np.ndarray,
  *,
  class_names: Sequence[str] | None = None,
  top_k: int = 5,
  size: tuple[int, int] | None = None,
  colours: Colours = IMAGENET,
  batch_size: int = 8,
) -> list[list[Prediction]]:
  """Says what is on images.

  Args:
    pretrained: a model from images to a label.
    images: uint8 [Y, X, C], each of any size; at least one.
    class_names: the name of each class, in order; None: their numbers.
    top_k: how many classes to name, the most probable first.
    size: rows and columns that images are cropped and resized to; None: those
      that the model was made for.
    colours: statistics to normalise pixels with.
    batch_size: images that go through the model at once, at most; for another
      number of them it is compiled anew.

  Returns:
    `top_k` predictions for each image, the most probable first.

  Raises:
    ValueError: the model does something else, an argument is out of range, or
      an image has no pixel.
    TypeError: an image is not of bytes.
  """
  config = pretrained.config
  if not isinstance(config.outputs, LabelOutput):
    raise ValueError(
      'the outputs of a model that classifies must be a LabelOutput, got '
      f'{type(config.outputs).__name__}.'
    )
  num_classes = config.outputs.num_classes
  check_top_k(top_k, num_classes)
  names = checked_names(class_names, num_classes)
  examples = [
    normalised(image, colours) for image in crop_images(config, images, size)
  ]
  apply = compiled(config).apply

  def probabilities(batch):
    weights = pretrained.params, pretrained.state
    return jax.nn.softmax(apply(*weights, None, jnp.asarray(batch))[0])

  batch_size = min(batch_size, len(examples))
  probs = in_batches(probabilities, examples, batch_size, unit='images')
  return [top_predictions(row, names, top_k) for row in probs]


def check_top_k(top_k: int, num_classes: int) -> None:
  """Checks that there are so many classes.

  Raises:
    ValueError: there are not.
  """
  if not 1 <= top_k <= num_classes:
    raise ValueError(f'top_k must be from 1 to {num_classes}, got {top_k}.')


def top_predictions(
  probs: Float[np.ndarray, ' V'], names: Sequence[str], top_k: int
) -> list[Prediction]:
  """Returns the most probable classes, the most probable first."""
  return [
    Prediction(int(label), names[label], float(probs[label]))
    for label in np.argsort(-probs, kind='stable')[:top_k]
  ]


def crop_images(
  config: PerceiverConfig,
  images: Sequence[np.ndarray] | np.ndarray,
  size: tuple[int, int] | None,
) -> list[Image]:
  """Returns the part of images that a model sees; see `classify`."""
  inputs = image_input(config)
  if (isinstance(images, np.ndarray) and images.ndim < 4) or not len(images):
    raise ValueError('images must be one or more in a list, got none or one.')
  size = size or image_size(inputs)
  if min(size) < 1:
    raise ValueError(f'size must be positive, got {size}.')
  return [
    cropped(check_image(f'image {index}', image, inputs.image_channels), size)
    for index, image in enumerate(images)
  ]


def image_input(config: PerceiverConfig) -> ImageInput:
  """Returns what a model of images says of them.

  Raises:
    ValueError: it is a model of something else.
  """
  if not isinstance(config.inputs, ImageInput):
    raise ValueError(
      'the inputs of the model must be an ImageInput, got '
      f'{type(config.inputs).__name__}.'
    )
  return config.inputs


def image_size(config: ImageInput) -> tuple[int, int]:
  """Returns the rows and columns of images that a model was made for.

  Raises:
    ValueError: it was made for any.
  """
  positions, embedding = config.positions, config.embedding
  if isinstance(positions, LearnedPositions):
    return embedding.image_size(positions.grid)
  if positions is None or positions.max_resolution is None:
    raise ValueError(
      'size must be given for a model whose positions do not tell the size of '
      'its images, got None.'
    )
  # The stem of PyTorch's version gives a token less along each axis, of images
  # of the same size and with the same frequencies.
  once, twice = (embedding.image_size((n, n)) for n in (1, 2))
  rows, columns = (
    int(resolution) * (large - small)
    for resolution, large, small in zip(
      positions.max_resolution, twice, once, strict=True
    )
  )
  return rows, columns


def checked_names(
  class_names: Sequence[str] | None, num_classes: int
) -> list[str]:
  """Returns the names of classes, or their numbers if there are no names.

  Raises:
    ValueError: there are names for another number of classes.
  """
  if class_names is None:
    return list(map(str, range(num_classes)))
  if len(class_names) != num_classes:
    raise ValueError(
      f'class_names must name {num_classes} classes, got {len(class_names)}.'
    )
  return list(class_names)


def read_class_names(path: str | os.PathLike[str]) -> list[str]:
  """Reads the names of classes from a text file with one on each line.

  AudioSet's own list, `class_labels_indices.csv`, will do as well.
  """
  lines = pathlib.Path(path).read_text(encoding='utf-8').splitlines()
  if lines[:1] == ['index,mid,display_name']:
    return [row['display_name'] for row in csv.DictReader(lines)]
  return lines
