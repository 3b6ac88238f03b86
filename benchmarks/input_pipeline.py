"""Compares the input pipeline for ImageNet with the published one's structure.

  python benchmarks/input_pipeline.py --json out.json

Both read the same TFRecord files of generated photos of 500x375 pixels and make
training images of 224x224. The published structure mixes images on the host;
ours leaves that to the devices and sends bytes. Times are CPU milliseconds of
this process for an image (time on the clock would measure the neighbours of a
shared machine): the least of several turns, since neighbours only add to it, of
one pipeline after the other, each once it has warmed up. Then where the time
goes, and how many cores feed how many accelerators.
"""

import argparse
import collections
import contextlib
import io
import itertools
import json
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import tensorflow_datasets as tfds
from published_pipeline import make_dataset
from sklearn import datasets

from perceiver_jax import presets
from perceiver_jax.data import base, crop
from perceiver_jax.data.imagenet import ImageNetData, decode_image
from perceiver_jax.data.resize import resize, resize_bytes
from perceiver_jax.flops import count_flops

BATCH_SIZE = 64
NUM_WARM_BATCHES = 6
NUM_PHOTOS = 128
# Which makes files of about 100 kB; those of ImageNet have 115 kB on average.
JPEG_QUALITY = 97
PUBLISHED = 'published: all of it'
OURS = 'ours: all of it'
# What of an accelerator's arithmetic a well-made training uses (assumed): an
# H100 or H200 has 989 TFLOP/s in bfloat16.
SUSTAINED_TFLOPS = 400
# Updates per second at batch 1,024 on 64 TPUv3 (arXiv 2107.14795, table 8),
# which has no speed of the original Perceiver with its eight cross-attends.
MODELS = {
  'Perceiver, Fourier': (presets.perceiver_imagenet_fourier, None),
  'Perceiver IO, Fourier': (presets.perceiver_io_imagenet_fourier, 4.85),
  'Perceiver IO, learned': (presets.perceiver_io_imagenet_learned, 4.14),
  'Perceiver IO, conv': (presets.perceiver_io_imagenet_conv, 5.58),
}


class GeneratedPhotos(tfds.core.GeneratorBasedBuilder):
  """Parts of the two photos inside scikit-learn, laid out as `imagenet2012`."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self) -> tfds.core.DatasetInfo:
    features = {
      'image': tfds.features.Image(encoding_format='jpeg'),
      'label': tfds.features.ClassLabel(num_classes=1000),
      'file_name': tfds.features.Text(),
    }
    return tfds.core.DatasetInfo(
      builder=self, features=tfds.features.FeaturesDict(features)
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    del dl_manager  # Nothing is downloaded.
    return {'train': self._generate_examples()}

  def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
    rng = np.random.default_rng(0)
    photos = datasets.load_sample_images().images
    for key in range(NUM_PHOTOS):
      photo = photos[key % 2]
      top = rng.integers(photo.shape[0] - 375 + 1)
      left = rng.integers(photo.shape[1] - 500 + 1)
      part = photo[top : top + 375, left : left + 500, ::-1]
      options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
      data = io.BytesIO(cv2.imencode('.jpg', part, options)[1].tobytes())
      name = f'{key}.JPEG'
      yield key, {'image': data, 'label': key, 'file_name': name}


def main() -> None:
  """Measures, and prints tables in Markdown."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--num_images', type=int, default=512)
  parser.add_argument('--repeats', type=int, default=3)
  parser.add_argument('--json', type=pathlib.Path)
  options = parser.parse_args()
  with tempfile.TemporaryDirectory() as data_dir:
    builder = GeneratedPhotos(data_dir=data_dir)
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(sys.stderr):
      builder.download_and_prepare(file_format='tfrecord')
    config = ImageNetData(
      name='generated_photos',
      data_dir=data_dir,
      batch_size=BATCH_SIZE,
      eval_batch_size=BATCH_SIZE,
      eval_split='train',
      num_threads=1,
    )
    pipelines = _pipelines(builder, config)
    costs = _measure(pipelines, options.num_images, options.repeats)
    stages = _stages(config, options.num_images, options.repeats)
  _print_costs(costs)
  _print_stages(stages)
  demands = _demands(costs)
  _print_demands(demands)
  if options.json:
    result = {'cpu_ms': costs, 'stages_cpu_ms': stages, 'demands': demands}
    options.json.write_text(json.dumps(result, indent=2))


def _pipelines(
  builder: tfds.core.DatasetBuilder, config: ImageNetData
) -> dict[str, Callable[[], Iterator[Any]]]:
  """Returns what makes endless batches of each pipeline, by name."""

  def published(augments: bool, mixes: bool) -> Iterator[Any]:
    yield from make_dataset(
      builder, BATCH_SIZE, augments=augments, mixes=mixes
    ).as_numpy_iterator()

  def ours(**fields: Any) -> Iterator[Any]:
    changed = config.copy()
    for name, value in fields.items():
      setattr(changed, name, value)
    return base.train_batches(changed, seed=0, start_step=0, shard=base.Shard())

  return {
    'published: decode, crop, resize': lambda: published(False, False),
    'published: and RandAugment': lambda: published(True, False),
    'published: and mixing, not RandAugment': lambda: published(False, True),
    PUBLISHED: lambda: published(True, True),
    'ours: decode, crop, resize': lambda: ours(randaugment=None),
    OURS: ours,
  }


def _measure(
  pipelines: dict[str, Callable[[], Iterator[Any]]],
  num_images: int,
  repeats: int,
) -> dict[str, float]:
  """Returns the CPU milliseconds of an image, by pipeline."""
  num_batches = -(-num_images // BATCH_SIZE)
  turns = {name: [] for name in pipelines}
  for _ in range(repeats):
    for name, make in pipelines.items():
      batches = make()
      # Builds what there is to build. From now on batches are taken as fast as
      # they are made, so that none are made ahead of the clock or behind it.
      for _ in itertools.islice(batches, NUM_WARM_BATCHES):
        pass
      start = time.process_time()
      for _ in itertools.islice(batches, num_batches):
        pass
      secs = time.process_time() - start
      batches.close()  # Only one pipeline may be at work.
      turns[name].append(secs * 1e3 / (num_batches * BATCH_SIZE))
  return {name: min(times) for name, times in turns.items()}


def _stages(
  config: ImageNetData, num_images: int, repeats: int
) -> dict[str, float]:
  """Returns the CPU milliseconds of each stage of our pipeline, an image."""
  turns = [_turn_of_stages(config, num_images) for _ in range(repeats)]
  return {name: min(turn[name] for turn in turns) for name in turns[0]}


def _turn_of_stages(config: ImageNetData, num_images: int) -> dict[str, float]:
  source = config.make_source('train')
  rng = np.random.default_rng(0)
  secs: collections.Counter[str] = collections.Counter()

  def timed(stage: str, function: Callable[..., Any], *args: Any) -> Any:
    start = time.thread_time()
    result = function(*args)
    secs[stage] += time.thread_time() - start
    return result

  def crop_and_flip(image: np.ndarray) -> np.ndarray:
    part = crop.random_window(*image.shape[:2], rng).of(image)
    return cv2.flip(part, 1) if rng.random() < 0.5 else part

  for index in range(num_images):
    example = timed('read', source.__getitem__, index % NUM_PHOTOS)
    image = timed('decode', decode_image, example['image'])
    part = timed('crop, flip', crop_and_flip, image)
    part = timed('RandAugment', config.randaugment, part, rng)
    timed('resize', resize_bytes, part, *config.image_size)
    centre = crop.centre_window(*image.shape[:2], config.eval_crop_fraction)
    exact = 'resize of an evaluation instead'
    timed(exact, resize, centre.of(image), *config.image_size)
  return {name: total * 1e3 / num_images for name, total in secs.items()}


def _demands(costs: dict[str, float]) -> list[dict[str, Any]]:
  """Returns how many images and cores each model needs."""
  rows = []
  for model, (preset, steps_per_sec) in MODELS.items():
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    flops = 3 * count_flops(preset(), images)
    assumed = SUSTAINED_TFLOPS * 1e12 / flops
    speeds = {f'{SUSTAINED_TFLOPS} TFLOP/s, assumed': assumed}
    if steps_per_sec:
      speeds['TPUv3, published'] = steps_per_sec * 1024 / 64
    for accelerator, images_per_sec in speeds.items():
      rows.append(
        {
          'model': model,
          'accelerator': accelerator,
          'images_per_sec': images_per_sec,
          'cores_ours': images_per_sec * costs[OURS] / 1e3,
          'cores_published': images_per_sec * costs[PUBLISHED] / 1e3,
        }
      )
  return rows


def _print_costs(costs: dict[str, float]) -> None:
  print('| pipeline | CPU ms / image | images / s / core | times published |')
  print('|---|---|---|---|')
  for name, cost in costs.items():
    ratio = costs[PUBLISHED] / cost
    print(f'| {name} | {cost:.2f} | {1e3 / cost:.0f} | {ratio:.1f} |')


def _print_stages(stages: dict[str, float]) -> None:
  print('\n| stage of ours | CPU ms / image |')
  print('|---|---|')
  for name, cost in stages.items():
    print(f'| {name} | {cost:.2f} |')


def _print_demands(rows: list[dict[str, Any]]) -> None:
  print(
    '\n| model | accelerator | images / s | cores, 1 | cores, 8 '
    '| cores, 8, published |'
  )
  print('|---|---|---|---|---|---|')
  for row in rows:
    ours = row['cores_ours']
    print(
      f'| {row["model"]} | {row["accelerator"]} | {row["images_per_sec"]:.0f} '
      f'| {ours:.2f} | {8 * ours:.1f} | {8 * row["cores_published"]:.0f} |'
    )


if __name__ == '__main__':
  main()
