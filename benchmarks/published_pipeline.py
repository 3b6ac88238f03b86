"""The structure of the papers' input pipeline, to compare ours with.

All in TensorFlow operations: every image goes through a chain of conditional
operations for RandAugment, becomes floats, is normalised, and is mixed with
another image that was decoded for that purpose alone, in batches that are then
taken apart and put together again.

Source: google-deepmind/deepmind-research, perceiver/train/dataset.py and
autoaugment.py @ 12971d9a, for the order of work, the operations and the
numbers. They are written anew here, without the libraries that have ceased.
"""

import math
import os
from collections.abc import Callable

import tensorflow as tf
import tensorflow_datasets as tfds

_MEAN = tf.constant([0.485, 0.456, 0.406]) * 255
_STD = tf.constant([0.229, 0.224, 0.225]) * 255
_GREY = tf.constant(128, tf.uint8)
_SIZE = (224, 224)
_NUM_LAYERS = 4
_MIXUP_ALPHA = 0.2


def make_dataset(
  builder: tfds.core.DatasetBuilder,
  batch_size: int,
  *,
  augments: bool,
  mixes: bool,
) -> tf.data.Dataset:
  """Returns endless batches for training.

  Args:
    builder: of a data set with features 'image' and 'label'.
    batch_size: of one device; a multiple of 2.
    augments: whether images go through RandAugment.
    mixes: whether half of a batch goes through MixUp and half through CutMix.
  """
  dataset = builder.as_dataset(
    split='train', decoders={'image': tfds.decode.SkipDecoding()}
  )
  options = tf.data.Options()
  options.threading.private_threadpool_size = os.cpu_count()
  options.threading.max_intra_op_parallelism = 1
  options.deterministic = False
  dataset = dataset.with_options(options).repeat()
  dataset = dataset.shuffle(10 * batch_size, seed=0)

  def preprocess(example):
    image = _random_crop(example['image'])
    image = tf.image.random_flip_left_right(image)
    if augments:
      image = _rand_augment(image)
    image = tf.image.resize(image, _SIZE, tf.image.ResizeMethod.BICUBIC)
    result = {
      'images': (image - _MEAN) / _STD,
      'labels': tf.cast(example['label'], tf.int32),
    }
    if mixes:
      mask = _cutmix_mask()
      gamma = tf.random.gamma([2], _MIXUP_ALPHA) + 1e-12
      result['mask'] = mask
      result['ratio'] = gamma[0] / tf.reduce_sum(gamma)
    return result

  dataset = dataset.map(preprocess, num_parallel_calls=tf.data.AUTOTUNE)
  if mixes:
    dataset = dataset.batch(2 * batch_size, drop_remainder=True)
    dataset = dataset.map(_mix, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.unbatch()
  dataset = dataset.batch(batch_size, drop_remainder=True)
  return dataset.prefetch(tf.data.AUTOTUNE)


def _random_crop(data: tf.Tensor) -> tf.Tensor:
  begin, size, _ = tf.image.sample_distorted_bounding_box(
    tf.image.extract_jpeg_shape(data),
    bounding_boxes=tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
    min_object_covered=0.1,
    aspect_ratio_range=(3 / 4, 4 / 3),
    area_range=(0.08, 1.0),
    max_attempts=10,
    use_image_if_no_bounding_boxes=True,
  )
  window = tf.concat([begin[:2], size[:2]], axis=0)
  return tf.image.decode_and_crop_jpeg(data, window, channels=3)


def _mix(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
  """Makes half as many images: half of them MixUp, the others CutMix."""
  images, labels = (tf.split(batch[k], 4) for k in ('images', 'labels'))
  ratio = tf.split(batch['ratio'], 4)[0][:, None, None, None]
  mask = tf.split(batch['mask'], 4)[2]
  mixed = ratio * images[0] + (1 - ratio) * images[1]
  cut = mask * images[2] + (1 - mask) * images[3]
  share = tf.reduce_mean(mask, axis=(1, 2, 3))
  return {
    'images': tf.concat([mixed, cut], axis=0),
    'labels': tf.concat([labels[0], labels[2]], axis=0),
    'mix_labels': tf.concat([labels[1], labels[3]], axis=0),
    'ratio': tf.concat([ratio[:, 0, 0, 0], share], axis=0),
  }


def _cutmix_mask() -> tf.Tensor:
  """Returns 1 inside a random rectangle and 0 outside, [Y, X, 1]."""
  share = tf.sqrt(1 - tf.random.uniform([]))
  sides = []
  for size in _SIZE:
    centre = tf.random.uniform([], 0, size, tf.int32)
    half = tf.cast(share * size, tf.int32) // 2
    place = tf.range(size)
    sides.append((place >= centre - half) & (place < centre + half))
  inside = sides[0][:, None, None] & sides[1][None, :, None]
  return tf.cast(inside, tf.float32)


def _rand_augment(image: tf.Tensor) -> tf.Tensor:
  for _ in range(_NUM_LAYERS):
    chosen = tf.random.uniform([], maxval=len(_OPERATIONS), dtype=tf.int32)
    for index, operation in enumerate(_OPERATIONS):
      image = tf.cond(
        tf.equal(chosen, index),
        lambda operation=operation, image=image: operation(image),
        lambda image=image: image,
      )
      image.set_shape([None, None, 3])
  return image


def _by_channel(
  function: Callable[[tf.Tensor], tf.Tensor], image: tf.Tensor
) -> tf.Tensor:
  return tf.stack([function(image[..., c]) for c in range(3)], axis=-1)


def _auto_contrast(levels: tf.Tensor) -> tf.Tensor:
  low = tf.cast(tf.reduce_min(levels), tf.float32)
  high = tf.cast(tf.reduce_max(levels), tf.float32)

  def stretch():
    scale = 255.0 / (high - low)
    stretched = tf.cast(levels, tf.float32) * scale - low * scale
    return tf.cast(tf.clip_by_value(stretched, 0.0, 255.0), tf.uint8)

  return tf.cond(high > low, stretch, lambda: levels)


def _equalize(levels: tf.Tensor) -> tf.Tensor:
  levels = tf.cast(levels, tf.int32)
  histogram = tf.histogram_fixed_width(levels, [0, 255], nbins=256)
  used = tf.boolean_mask(histogram, histogram > 0)
  step = (tf.reduce_sum(used) - used[-1]) // 255

  def even():
    table = (tf.cumsum(histogram, exclusive=True) + step // 2) // step
    return tf.gather(tf.clip_by_value(table, 0, 255), levels)

  even_levels = tf.cond(tf.equal(step, 0), lambda: levels, even)
  return tf.cast(even_levels, tf.uint8)


def _posterize(image: tf.Tensor) -> tf.Tensor:
  bits = tf.constant(6, tf.uint8)
  return tf.bitwise.left_shift(tf.bitwise.right_shift(image, bits), bits)


def _solarize_add(image: tf.Tensor) -> tf.Tensor:
  raised = tf.clip_by_value(tf.cast(image, tf.int64) + 55, 0, 255)
  return tf.where(image < 128, tf.cast(raised, tf.uint8), image)


def _moved(image: tf.Tensor, transform: list[tf.Tensor | float]) -> tf.Tensor:
  """Moves pixels; a fourth channel tells where none has come to."""
  marked = tf.concat([image, tf.ones_like(image[..., :1])], axis=-1)
  moved = tf.raw_ops.ImageProjectiveTransformV3(
    images=marked[None],
    transforms=tf.stack([tf.cast(t, tf.float32) for t in transform])[None],
    output_shape=tf.shape(image)[:2],
    interpolation='NEAREST',
    fill_mode='CONSTANT',
    fill_value=0.0,
  )[0]
  return tf.where(moved[..., 3:] == 0, _GREY, moved[..., :3])


def _sign() -> tf.Tensor:
  return tf.where(tf.random.uniform([]) < 0.5, 1.0, -1.0)


def _rotate(image: tf.Tensor) -> tf.Tensor:
  angle = _sign() * math.radians(15)
  cosine, sine = tf.cos(angle), tf.sin(angle)
  size = tf.cast(tf.shape(image), tf.float32)
  x, y = (size[1] - 1) / 2, (size[0] - 1) / 2
  across = x - (cosine * x - sine * y)
  down = y - (sine * x + cosine * y)
  return _moved(image, [cosine, -sine, across, sine, cosine, down, 0.0, 0.0])


def _shear_x(image: tf.Tensor) -> tf.Tensor:
  return _moved(image, [1.0, 0.15 * _sign(), 0.0, 0.0, 1.0, 0.0, 0.0, 0.0])


def _shear_y(image: tf.Tensor) -> tf.Tensor:
  return _moved(image, [1.0, 0.0, 0.0, 0.15 * _sign(), 1.0, 0.0, 0.0, 0.0])


def _translate_x(image: tf.Tensor) -> tf.Tensor:
  return _moved(image, [1.0, 0.0, 50 * _sign(), 0.0, 1.0, 0.0, 0.0, 0.0])


def _translate_y(image: tf.Tensor) -> tf.Tensor:
  return _moved(image, [1.0, 0.0, 0.0, 0.0, 1.0, 50 * _sign(), 0.0, 0.0])


def _cutout(image: tf.Tensor) -> tf.Tensor:
  sides = []
  for size in tf.unstack(tf.shape(image)[:2]):
    centre = tf.random.uniform([], 0, size, tf.int32)
    place = tf.range(size)
    sides.append((place >= centre - 20) & (place < centre + 20))
  inside = tf.tile((sides[0][:, None] & sides[1])[..., None], [1, 1, 3])
  return tf.where(inside, tf.ones_like(image) * _GREY, image)


# Magnitude 5. The last four are Color, Contrast, Brightness and Sharpness,
# which that magnitude makes identities, free of cost in the published code too.
_OPERATIONS = (
  lambda image: _by_channel(_auto_contrast, image),
  lambda image: _by_channel(_equalize, image),
  lambda image: 255 - image,
  _rotate,
  _posterize,
  lambda image: tf.where(image < 128, image, 255 - image),
  _shear_x,
  _shear_y,
  _translate_x,
  _translate_y,
  _cutout,
  _solarize_add,
  tf.identity,
  tf.identity,
  tf.identity,
  tf.identity,
)
