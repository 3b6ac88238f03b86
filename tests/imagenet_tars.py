"""Writes the archives that TFDS makes `imagenet2012` of, with a few images."""

import io
import pathlib
import tarfile

import numpy as np
from PIL import Image
from sklearn import datasets

# Real names of classes, as TFDS numbers them: 0, 1, 2.
SYNSETS = ('n01440764', 'n01443537', 'n01484850')
# (height, width) of the training images of each class, and of validation.
SIZES = [(375, 500), (500, 333), (90, 400), (64, 64), (33, 47), (260, 230)]
NUM_TRAIN = len(SYNSETS) * len(SIZES) + 4
NUM_VALIDATION = 11
# The odd ones. TFDS repairs 23 such images of the real archives by their names.
GREY = 'n01440764_100.JPEG'
CMYK = 'n01443537_101.JPEG'
PNG = 'n01484850_102.JPEG'
ROTATED = 'n01484850_103.JPEG'


def photo(number: int, height: int, width: int) -> np.ndarray:
  """Returns a part of a real photo, uint8 [Y, X, 3], of its own."""
  name = ('china.jpg', 'flower.jpg')[number % 2]
  whole = Image.fromarray(datasets.load_sample_image(name))
  scale = max(height / whole.height, width / whole.width, 0.2) * 1.2
  whole = whole.resize((int(whole.width * scale), int(whole.height * scale)))
  rng = np.random.default_rng(number)
  top = rng.integers(whole.height - height + 1)
  left = rng.integers(whole.width - width + 1)
  return np.asarray(whole)[top : top + height, left : left + width]


def jpeg(image: np.ndarray, mode: str = 'RGB', **options) -> bytes:
  return _encoded(Image.fromarray(image).convert(mode), 'JPEG', **options)


def png(image: np.ndarray) -> bytes:
  return _encoded(Image.fromarray(image), 'PNG')


def rotated_jpeg(image: np.ndarray) -> bytes:
  """Returns a JPEG whose camera was, as it says, turned by 90 degrees."""
  exif = Image.Exif()
  exif[0x0112] = 6
  return jpeg(image, exif=exif)


def train_images() -> dict[str, bytes]:
  """Returns the training images by their names."""
  images = {}
  for number in range(len(SYNSETS) * len(SIZES)):
    name = f'{SYNSETS[number % len(SYNSETS)]}_{number}.JPEG'
    images[name] = jpeg(photo(number, *SIZES[number // len(SYNSETS)]))
  return images | {
    GREY: jpeg(photo(100, 120, 80), 'L'),
    CMYK: jpeg(photo(101, 80, 120), 'CMYK', quality=95),
    PNG: png(photo(102, 70, 60)),
    ROTATED: rotated_jpeg(photo(103, 60, 90)),
  }


def validation_images() -> dict[str, bytes]:
  """Returns the validation images by their names."""
  return {
    f'ILSVRC2012_val_{1 + number:08}.JPEG': jpeg(
      photo(200 + number, *SIZES[number % len(SIZES)])
    )
    for number in range(NUM_VALIDATION)
  }


def write(
  directory: pathlib.Path,
  train: dict[str, bytes] | None = None,
  validation: dict[str, bytes] | None = None,
) -> None:
  """Writes the two archives; that for training has one for each class."""
  train = train_images() if train is None else train
  validation = validation_images() if validation is None else validation
  classes = {
    f'{synset}.tar': _tar({k: v for k, v in train.items() if synset in k})
    for synset in SYNSETS
  }
  (directory / 'ILSVRC2012_img_train.tar').write_bytes(_tar(classes))
  (directory / 'ILSVRC2012_img_val.tar').write_bytes(_tar(validation))


def prepare(data_dir: pathlib.Path, file_format: str, **archives) -> None:
  """Has TFDS prepare `imagenet2012` from archives written by `write`."""
  import tensorflow_datasets as tfds

  write(data_dir, **archives)
  builder = tfds.builder('imagenet2012', data_dir=str(data_dir))
  tfds.disable_progress_bar()
  builder.download_and_prepare(
    file_format=file_format,
    download_config=tfds.download.DownloadConfig(
      manual_dir=data_dir, num_shards=2
    ),
  )


def _encoded(image: Image.Image, file_format: str, **options) -> bytes:
  file = io.BytesIO()
  image.save(file, file_format, **options)
  return file.getvalue()


def _tar(files: dict[str, bytes]) -> bytes:
  archive = io.BytesIO()
  with tarfile.open(fileobj=archive, mode='w') as tar:
    for name, data in files.items():
      member = tarfile.TarInfo(name)
      member.size = len(data)
      tar.addfile(member, io.BytesIO(data))
  return archive.getvalue()
