"""ImageNet as TFDS prepares it, from archives with a few generated images."""

import io
import itertools
import logging
import pathlib
import re

import imagenet_tars
import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from perceiver_jax.data import base, imagenet, pipeline
from perceiver_jax.data.imagenet import ImageNetData
from perceiver_jax.data.randaugment import RandAugment


class NumberedData(ImageNetData):
  """Tells which image an example is, by the number in its file's name."""

  def preprocess(self, example, rng):
    number = re.search(r'_(\d+)\.', example['file_name'].decode())[1]
    return super().preprocess(example, rng) | {'number': np.int64(number)}


@pytest.fixture(scope='module')
def broken_dir(tmp_path_factory):
  """A directory with two images that cannot be decoded, of 22 and 11."""
  data_dir = tmp_path_factory.mktemp('broken')
  train = imagenet_tars.train_images()
  train['n01440764_3.JPEG'] = train['n01440764_3.JPEG'][:5000]
  train['n01484850_5.JPEG'] = b'no image at all'
  validation = imagenet_tars.validation_images()
  validation['ILSVRC2012_val_00000001.JPEG'] = b''
  validation['ILSVRC2012_val_00000007.JPEG'] = b'\xff\xd8\xff\xe0'
  imagenet_tars.prepare(
    data_dir, 'array_record', train=train, validation=validation
  )
  return str(data_dir)


def config_of(data_dir, cls=NumberedData, **fields):
  defaults = {'batch_size': 22, 'eval_batch_size': 4, 'image_size': (32, 32)}
  return cls(data_dir=data_dir, **defaults | fields)


def train(config, num_steps, shard=None, *, seed=0, start_step=0):
  batches = base.train_batches(
    config, seed=seed, start_step=start_step, shard=shard or base.Shard()
  )
  steps = list(itertools.islice(batches, num_steps))
  batches.close()
  return steps


def decoded(data):
  """Returns what Pillow makes of an image."""
  return np.asarray(Image.open(io.BytesIO(data)).convert('RGB'))


def evaluated(data, size):
  """Returns what the evaluation makes of an image, by Pillow and JAX."""
  image = decoded(data)
  height, width, _ = image.shape
  side = min(height, width) * 224 // 256
  top, left = (height - side + 1) // 2, (width - side + 1) // 2
  part = image[top : top + side, left : left + side].astype(np.float32)
  shape = (*size, 3)
  return np.asarray(jax.image.resize(part, shape, 'cubic', antialias=False))


def test_sizes_classes_and_spec_come_from_the_prepared_data(imagenet_dir):
  config = config_of(imagenet_dir, ImageNetData)
  config.validate()
  assert config.num_train_examples == imagenet_tars.NUM_TRAIN == 22
  assert config.num_eval_examples == imagenet_tars.NUM_VALIDATION == 11
  assert config.num_classes == 1000
  # In words, in the order in which TFDS numbers the WordNet ids.
  ids = config.builder().info.features['label'].names
  assert ids[:3] == list(imagenet_tars.SYNSETS)
  names = dict(zip(ids, config.class_names, strict=True))
  assert names['n01440764'] == 'tench, Tinca tinca'
  assert names['n02123045'] == 'tabby, tabby cat'
  assert names['n07753592'] == 'banana'
  assert config.element_spec() == {
    'image': base.ArraySpec((32, 32, 3), np.dtype(np.uint8)),
    'label': base.ArraySpec((), np.dtype(np.int32), 1000),
  }


def test_the_default_is_the_published_recipe():
  config = ImageNetData(batch_size=1024, eval_batch_size=1024)
  assert (config.train_split, config.eval_split) == ('train', 'validation')
  assert config.image_size == (224, 224)
  assert config.crop_area == (0.08, 1.0)
  assert config.crop_ratio == (0.75, 4 / 3)
  assert config.flip_prob == 0.5
  assert config.randaugment == RandAugment(num_layers=4, magnitude=5.0)


def test_minival_is_the_first_10000_images_of_train_and_no_others_have_it():
  train = tfds.core.SplitInfo(
    name='train',
    shard_lengths=[8000, 7000, 5003],
    num_bytes=0,
    filename_template=tfds.core.ShardedFileTemplate(
      data_dir='/data',
      dataset_name='imagenet2012',
      split='train',
      filetype_suffix='tfrecord',
    ),
  )
  splits = tfds.core.splits.SplitDict([train])

  def parts(split):
    instructions = splits[split].file_instructions
    return [(i.filename[-14:], i.skip, i.take) for i in instructions]

  names = [f'{i:05}-of-00003' for i in range(3)]
  assert parts(imagenet.MINIVAL) == [(names[0], 0, 8000), (names[1], 0, 2000)]
  rest = [(names[1], 2000, 5000), (names[2], 0, 5003)]
  assert parts(imagenet.TRAIN_WITHOUT_MINIVAL) == rest


def test_an_evaluation_preprocesses_as_pillow_and_jax_do(imagenet_dir):
  config = config_of(imagenet_dir, image_size=(64, 48))
  images = imagenet_tars.validation_images()
  seen, levels = [], []
  for batch in base.eval_batches(config, shard=base.Shard()):
    rows = zip(batch['number'][0], batch['image'][0], strict=True)
    for number, image in itertools.compress(rows, batch['mask'][0]):
      assert image.dtype == np.float32
      name = f'ILSVRC2012_val_{number:08}.JPEG'
      expected = evaluated(images[name], (64, 48))
      np.testing.assert_allclose(image, expected, atol=2e-2)
      seen.append(number)
      levels += [image.min(), image.max()]
  assert sorted(seen) == list(range(1, 12))
  assert min(levels) < -5 < 260 < max(levels)  # Not cut off.


def test_labels_are_those_of_the_archives(imagenet_dir):
  config = config_of(imagenet_dir)
  (batch,) = train(config, 1)
  names = imagenet_tars.train_images()
  expected = {
    int(re.search(r'_(\d+)', name)[1]): imagenet_tars.SYNSETS.index(name[:9])
    for name in names
  }
  actual = zip(batch['number'][0], batch['label'][0], strict=True)
  assert {int(number): int(label) for number, label in actual} == expected
  # TFDS numbers validation labels by the sorted names of the images.
  batches = list(base.eval_batches(config, shard=base.Shard()))
  labels = np.concatenate([b['label'][b['mask']] for b in batches])
  assert set(labels) <= set(range(1000))
  assert len(set(labels)) > 5


@pytest.mark.parametrize(
  ('data', 'within'),
  [
    (imagenet_tars.train_images()['n01440764_0.JPEG'], 0),
    (imagenet_tars.train_images()[imagenet_tars.GREY], 0),
    (imagenet_tars.train_images()[imagenet_tars.PNG], 0),
    # Pillow turns CMYK into RGB in another way.
    (imagenet_tars.train_images()[imagenet_tars.CMYK], 8),
    (imagenet_tars.png(imagenet_tars.photo(0, 9, 7)[..., 0]), 0),
  ],
  ids=['JPEG', 'grey JPEG', 'PNG', 'CMYK JPEG', 'grey PNG'],
)
def test_images_of_all_kinds_are_decoded_as_pillow_does(data, within):
  image = imagenet.decode_image(data)
  difference = np.abs(image.astype(int) - decoded(data))
  assert difference.max() <= within
  assert difference.mean() <= within / 4


def test_the_orientation_that_a_camera_notes_is_ignored_as_in_the_papers():
  data = imagenet_tars.train_images()[imagenet_tars.ROTATED]
  assert Image.open(io.BytesIO(data)).getexif()[0x0112] == 6
  np.testing.assert_array_equal(imagenet.decode_image(data), decoded(data))
  assert imagenet.decode_image(data).shape == (60, 90, 3)


@pytest.mark.parametrize('data', [b'', b'GIF', b'\xff\xd8\xff\xe0'])
def test_what_is_no_image_is_refused(data):
  with pytest.raises(base.UnreadableError, match=f'got {len(data)} bytes'):
    imagenet.decode_image(data)


def test_a_training_image_is_a_part_of_the_original():
  # A third of the area at ratio 1 is cut out of an image of 64 x 64 and not
  # resized, so that it must be found again, mirrored half of the times.
  side = 37
  share = side**2 / 64**2
  config = config_of(
    '',
    image_size=(side, side),
    crop_area=(share - 1e-3, share + 1e-3),
    crop_ratio=(1.0, 1.0),
    randaugment=None,
  )
  name = 'n01440764_9.JPEG'
  original = decoded(imagenet_tars.train_images()[name])
  assert original.shape == (64, 64, 3)
  parts = {
    original[y : y + side, x : x + side][:, ::sign].tobytes(): (y, x, sign)
    for y in range(64 - side + 1)
    for x in range(64 - side + 1)
    for sign in (1, -1)
  }
  example = {
    'image': imagenet_tars.train_images()[name],
    'label': 0,
    'file_name': name.encode(),
  }
  rng = np.random.default_rng(0)
  found = np.array(
    [
      parts[config.preprocess(example, rng)['image'].tobytes()]
      for _ in range(300)
    ]
  )
  assert found[:, :2].min() == 0
  assert found[:, :2].max() == 64 - side
  assert 0.4 < np.mean(found[:, 2] == -1) < 0.6


@pytest.mark.parametrize('flip_prob', [0.0, 1.0])
def test_flip_prob_is_the_share_of_mirror_images(flip_prob):
  # Nothing but the centre is left of an image that is too long to be cropped.
  config = config_of('', flip_prob=flip_prob, randaugment=None)
  image = imagenet_tars.photo(0, 30, 400)
  example = {'image': imagenet_tars.png(image), 'label': 0}
  example['file_name'] = b'x_1.JPEG'
  rng = np.random.default_rng(0)
  centre = image[2:28, 187:213][:, :: -1 if flip_prob else 1]
  expected = np.asarray(
    jax.image.resize(centre.astype(np.float32), (32, 32, 3), 'cubic')
  )
  for _ in range(5):
    actual = config.preprocess(example, rng)['image']
    assert np.abs(actual - np.clip(expected, 0, 255)).mean() < 3


def test_randaugment_works_on_the_crop_before_it_is_resized():
  seen = []

  class Recording(RandAugment):
    def __call__(self, image, rng):
      seen.append(image.shape)
      return np.full_like(image, 77)

  config = config_of('', randaugment=Recording())
  example = {'image': imagenet_tars.jpeg(imagenet_tars.photo(0, 375, 500))}
  example |= {'label': 0, 'file_name': b'x_1.JPEG'}
  result = config.preprocess(example, np.random.default_rng(0))
  assert (seen[0][0] > 32, seen[0][2]) == (True, 3)
  np.testing.assert_array_equal(result['image'], 77)
  evaluation = config.preprocess(example, None)['image']
  assert len(seen) == 1
  assert evaluation.std() > 1


def test_two_hosts_read_disjoint_and_complete_halves_of_an_epoch(imagenet_dir):
  config = config_of(imagenet_dir)
  halves = [train(config, 3, base.Shard(index, 2, 1)) for index in range(2)]
  whole = train(config, 3)
  for step in range(3):
    numbers = [half[step]['number'].ravel() for half in halves]
    assert not set(numbers[0]) & set(numbers[1])
    assert len({*numbers[0], *numbers[1]}) == imagenet_tars.NUM_TRAIN
    for name in whole[step]:
      joined = np.concatenate([half[step][name][0] for half in halves])
      np.testing.assert_array_equal(joined, whole[step][name][0])
  assert (whole[0]['number'] != whole[1]['number']).any()


def test_an_image_is_augmented_anew_each_epoch_and_the_same_after_a_resume(
  imagenet_dir,
):
  config = config_of(imagenet_dir)
  epochs = train(config, 2)
  images = [
    dict(zip(b['number'][0], map(bytes, b['image'][0]), strict=True))
    for b in epochs
  ]
  assert images[0].keys() == images[1].keys()
  # Operations of RandAugment can make one colour of any image.
  assert sum(images[0][n] != images[1][n] for n in images[0]) >= 20
  (resumed,) = train(config, 1, start_step=1)
  for name in resumed:
    np.testing.assert_array_equal(resumed[name], epochs[1][name])
  (other,) = train(config, 1, seed=1)
  assert (other['image'] != epochs[0]['image']).any()


def test_worker_processes_make_the_same_images(imagenet_dir):
  config = config_of(imagenet_dir, ImageNetData)
  (expected,) = train(config, 1)
  config.num_workers = 1
  (actual,) = train(config, 1)
  for name in expected:
    np.testing.assert_array_equal(actual[name], expected[name])


@pytest.mark.parametrize('num_devices', [1, 3, 8])
@pytest.mark.parametrize('num_hosts', [1, 2])
def test_an_evaluation_counts_every_image_once(
  imagenet_dir, num_devices, num_hosts
):
  config = config_of(imagenet_dir)
  counted, num_batches = [], set()
  for index in range(num_hosts):
    shard = base.Shard(index, num_hosts, num_devices)
    batches = list(base.eval_batches(config, shard=shard))
    num_batches.add(len(batches))
    for batch in batches:
      assert batch['mask'].shape[0] == num_devices
      counted += batch['number'][batch['mask']].tolist()
  assert sorted(counted) == list(range(1, 12))
  assert len(num_batches) == 1


def test_tfrecords_and_array_records_give_the_same_images(
  imagenet_dir, tmp_path
):
  imagenet_tars.prepare(tmp_path, 'array_record')
  assert list(pathlib.Path(tmp_path).rglob('*.array_record*'))
  assert list(pathlib.Path(imagenet_dir).rglob('*.tfrecord*'))
  batches = [train(config_of(str(d)), 1) for d in (imagenet_dir, tmp_path)]
  for name in batches[0][0]:
    np.testing.assert_array_equal(batches[0][0][name], batches[1][0][name])


def test_an_undecodable_image_stops_a_run_with_its_file_name(broken_dir):
  config = config_of(broken_dir)
  # Whichever comes first.
  names = r'n01440764_3\.JPEG|n01484850_5\.JPEG'
  with pytest.raises(base.UnreadableError, match=names) as error:
    train(config, 1)
  assert 'max_unreadable = 0' in str(error.value)
  with pytest.raises(base.UnreadableError, match=r'val_0000000(1|7)\.JPEG'):
    list(base.eval_batches(config, shard=base.Shard()))


def test_undecodable_images_are_logged_counted_and_replaced(broken_dir, caplog):
  config = config_of(
    broken_dir, max_unreadable=2, num_threads=1, randaugment=None
  )
  with caplog.at_level(logging.WARNING):
    batches = train(config, 3)
  first, second = caplog.messages  # Once each, in three epochs.
  assert '1 of at most 2' in first
  assert '2 of at most 2' in second
  for name in ('n01440764_3.JPEG', 'n01484850_5.JPEG'):
    assert (name in first) != (name in second)
  source = config.make_source('train')
  names = [source[i]['file_name'].decode() for i in range(len(source))]
  stored = [int(name.split('_')[1].removesuffix('.JPEG')) for name in names]
  for epoch, batch in enumerate(batches):
    numbers = batch['number'].ravel().tolist()
    assert set(numbers) == {*range(18), *range(100, 104)} - {3, 5}
    order = pipeline.epoch_order(22, 0, epoch).tolist()
    for place, number in enumerate(numbers):
      following = order[place:] + order[:place]
      index = next(i for i in following if stored[i] not in (3, 5))
      assert number == stored[index]
      rng = pipeline._generator(0, epoch, 1 + order[place])
      image = config.preprocess(source[index], rng)['image']
      np.testing.assert_array_equal(batch['image'][0, place], image)
    # Those that come twice are augmented in two ways.
    twice = {n for n in numbers if numbers.count(n) > 1}
    assert 1 <= len(twice) <= 2
    for number in twice:
      images = batch['image'][batch['number'] == number]
      assert len({bytes(image) for image in images}) == len(images)


def test_an_evaluation_does_not_count_undecodable_images(broken_dir):
  config = config_of(broken_dir, max_unreadable=2)
  batches = list(base.eval_batches(config, shard=base.Shard()))
  numbers = [b['number'][b['mask']] for b in batches]
  assert sorted(np.concatenate(numbers)) == [2, 3, 4, 5, 6, 8, 9, 10, 11]
  for batch in batches:
    np.testing.assert_array_equal(batch['image'][~batch['mask']], 0)


def test_one_undecodable_image_too_many_stops_a_run(broken_dir):
  config = config_of(broken_dir, max_unreadable=1)
  with pytest.raises(base.UnreadableError, match='max_unreadable = 1 example'):
    train(config, 1)


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('image_size', (0, 224)),
    ('crop_area', (0.5, 0.1)),
    ('crop_area', (0.0, 1.0)),
    ('crop_area', (0.1, 1.1)),
    ('crop_area', (0.05, 0.09)),
    ('crop_ratio', (2.0, 1.0)),
    ('crop_ratio', (0.0, 1.0)),
    ('flip_prob', 1.5),
    ('eval_crop_fraction', 0.0),
    ('eval_crop_fraction', 1.5),
    ('max_unreadable', -1),
  ],
)
def test_validate_names_field_and_value(field, value):
  config = config_of('', **{field: value})
  message = f'{field} must .* got {re.escape(str(value))}'
  with pytest.raises(ValueError, match=message):
    config.validate()


def test_an_archive_too_small_for_minival_is_refused(imagenet_dir):
  config = config_of(imagenet_dir, eval_split=imagenet.MINIVAL)
  with pytest.raises(ValueError, match=r"got 'train\[:10000\]'"):
    base.eval_batches(config, shard=base.Shard())
