"""ImageNet, and any other TFDS data set of photos, as in the papers.

The images are stored as they were published, mostly JPEG, and each is decoded
once. OpenCV cannot decode a part of a JPEG; TensorFlow can, but takes longer
over the part than OpenCV over the whole (docs/input_pipeline.md).

Source: arXiv 2107.14795, appendix A, and google-deepmind/deepmind-research,
perceiver/train/dataset.py @ 12971d9a. MixUp, CutMix and the normalisation of
colours follow on the devices.
"""

import dataclasses
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8

from perceiver_jax.data import crop, records
from perceiver_jax.data.base import UnreadableError
from perceiver_jax.data.labelled import LabelledData
from perceiver_jax.data.randaugment import RandAugment
from perceiver_jax.data.resize import resize, resize_bytes

# Split expressions for choosing hyper-parameters: the papers' code keeps the
# first 10,000 training images for that, and calls the validation split 'test'.
TRAIN_WITHOUT_MINIVAL = 'train[10000:]'
MINIVAL = 'train[:10000]'

# The pipeline has a thread or a process for every core already.
cv2.setNumThreads(1)


class ImageNetData(LabelledData):
  """Photos of any size, cropped and resized.

  Examples are `{'image': [Y, X, 3], 'label': int32 []}` with colours in 0..255:
  uint8 in training; in evaluation float32, not rounded, which overshoots that
  range a little.

  Attributes:
    name: as TFDS spells it; the data set must be prepared, as TFRecord files or
      as array_record, with features 'image' and 'label'.
    image_size: rows and columns of what the model sees.
    crop_area: of the random crop, least and most, as shares of the image. An
      image too long for such a crop is cropped as in evaluation.
    crop_ratio: width over height of the random crop, least and most.
    flip_prob: of the mirror image.
    randaugment: what happens to a crop before it is resized; None: nothing.
    eval_crop_fraction: side of the centre crop over the image's shorter side.
  """

  train_split: str = 'train'
  eval_split: str = 'validation'
  num_threads: int = 8
  name: str = 'imagenet2012'
  image_size: tuple[int, int] = (224, 224)
  crop_area: tuple[float, float] = (0.08, 1.0)
  crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
  flip_prob: float = 0.5
  randaugment: RandAugment | None = dataclasses.field(
    default_factory=RandAugment
  )
  eval_crop_fraction: float = 224 / 256

  def validate(self) -> None:
    super().validate()
    if min(self.image_size) < 1:
      raise ValueError(f'image_size must be positive, got {self.image_size}.')
    crop.validate(self.crop_area, self.crop_ratio, self.eval_crop_fraction)
    if not 0 <= self.flip_prob <= 1:
      raise ValueError(f'flip_prob must be in [0, 1], got {self.flip_prob}.')

  def builder(self) -> tfds.core.DatasetBuilder:
    return records.prepared_builder(self.name, self.data_dir)

  @property
  def class_names(self) -> tuple[str, ...]:
    """The name of each label, in order; in words for the 1,000 of ImageNet."""
    names = super().class_names
    is_imagenet = len(names) == 1000 and names[0] == 'n01440764'
    return tuple(_imagenet_names()) if is_imagenet else names

  def make_source(self, split: str) -> records.Records:
    encoded = {'image': tfds.decode.SkipDecoding()}
    return records.Records(self.builder(), split, encoded)

  def preprocess(
    self, example: dict[str, Any], rng: np.random.Generator | None
  ) -> dict[str, np.ndarray]:
    try:
      image = decode_image(example['image'])
    except UnreadableError as error:
      name = example.get('file_name', b'(without file_name)').decode()
      raise UnreadableError(f'{name}: {error}') from error
    height, width, _ = image.shape
    if rng is None:
      window = crop.centre_window(height, width, self.eval_crop_fraction)
      image = resize(window.of(image), *self.image_size)
    else:
      image = self._augmented(image, rng)
    return {'image': image, 'label': np.asarray(example['label'], np.int32)}

  def _augmented(
    self, image: UInt8[np.ndarray, 'y x 3'], rng: np.random.Generator
  ) -> UInt8[np.ndarray, 'Y X 3']:
    height, width, _ = image.shape
    window = crop.random_window(
      height, width, rng, area=self.crop_area, ratio=self.crop_ratio
    ) or crop.centre_window(height, width, self.eval_crop_fraction)
    image = window.of(image)
    if rng.random() < self.flip_prob:
      image = cv2.flip(image, 1)
    if self.randaugment is not None:
      image = self.randaugment(image, rng)
    return resize_bytes(image, *self.image_size)


def _imagenet_names() -> list[str]:
  """Returns what TFDS has for another data set of the same classes."""
  from tensorflow_datasets.datasets.siscore import labels

  return labels.IMAGENET_LABELS_LIST


def decode_image(data: bytes) -> UInt8[np.ndarray, 'y x 3']:
  """Decodes an image of any format, with any number of colours, into RGB.

  The orientation that a camera may have noted is ignored, as TensorFlow does.

  Raises:
    UnreadableError: the data is no image, or is truncated.
  """
  flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
  try:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
  except cv2.error:  # Such as when there is no data at all.
    image = None
  if image is None:
    raise UnreadableError(
      f'an image must be decodable, got {len(data)} bytes that are not: '
      f'{data[:8]!r}...'
    )
  return image
