import os
import pathlib
import pickle
import resource
import struct
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from perceiver_jax.data import base, records
from perceiver_jax.data.images import TfdsImageData
from perceiver_jax.data.tfrecord import TFRecordFile

EXPRESSIONS = [
  'train',
  'test',
  'train[10:20]+train[25:]',
  'train[:25%]+test[3:5]',
  'train[-7:]',
]


class TinyDigits(tfds.core.GeneratorBasedBuilder):
  """37 and 11 little images, in several files a split."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(shape=(4, 5, 3)),
          'label': tfds.features.ClassLabel(names=['even', 'odd']),
          'number': np.int64,
        }
      ),
    )

  def _split_generators(self, dl_manager):
    return {
      'train': self._generate_examples(0, 37),
      'test': self._generate_examples(100, 11),
    }

  def _generate_examples(self, first, count):
    rng = np.random.default_rng(first)
    for number in range(first, first + count):
      image = rng.integers(0, 256, [4, 5, 3], np.uint8)
      yield (
        number,
        {'image': image, 'label': number % 2, 'number': number},
      )


def prepare(data_dir, file_format, num_shards=3):
  builder = TinyDigits(data_dir=str(data_dir))
  builder.download_and_prepare(
    file_format=file_format,
    download_config=tfds.download.DownloadConfig(num_shards=num_shards),
  )
  return builder


@pytest.fixture(scope='module')
def tfrecord_builder(tmp_path_factory):
  return prepare(tmp_path_factory.mktemp('tfrecord'), 'tfrecord')


@pytest.fixture(scope='module')
def array_record_builder(tmp_path_factory):
  return prepare(tmp_path_factory.mktemp('array_record'), 'array_record')


@pytest.fixture
def damaged_builder(tmp_path):
  """Returns a TFRecord data set of its own, to be damaged."""
  return prepare(tmp_path, 'tfrecord')


def first_file(builder, split='train'):
  return builder.info.splits[split].file_instructions[0].filename


def assert_same_examples(actual, expected):
  assert len(actual) == len(expected)
  for a, b in zip(actual, expected, strict=True):
    assert a.keys() == b.keys()
    for name in a:
      np.testing.assert_array_equal(a[name], b[name])


def read_all(builder, split, **kwargs):
  source = records.Records(builder, split, **kwargs)
  return [source[index] for index in range(len(source))]


@pytest.mark.parametrize('split', EXPRESSIONS)
def test_tfrecords_are_read_as_tfds_reads_them(tfrecord_builder, split):
  # TFDS mixes files unless told not to.
  read_config = tfds.ReadConfig(interleave_cycle_length=1)
  dataset = tfrecord_builder.as_dataset(split=split, read_config=read_config)
  assert_same_examples(
    read_all(tfrecord_builder, split), list(tfds.as_numpy(dataset))
  )


def test_the_data_sets_of_this_test_have_several_files(tfrecord_builder):
  assert len(tfrecord_builder.info.splits['train'].filenames) == 3


@pytest.mark.parametrize('split', EXPRESSIONS)
def test_array_records_and_tfrecords_give_the_same_examples(
  tfrecord_builder, array_record_builder, split
):
  assert_same_examples(
    read_all(array_record_builder, split), read_all(tfrecord_builder, split)
  )


@pytest.mark.parametrize('split', EXPRESSIONS)
def test_array_records_are_read_as_tfds_reads_them(array_record_builder, split):
  expected = array_record_builder.as_data_source(split)
  assert_same_examples(
    read_all(array_record_builder, split),
    [expected[index] for index in range(len(expected))],
  )


def test_a_decoder_can_leave_images_encoded(tfrecord_builder):
  source = records.Records(
    tfrecord_builder, 'test', decoders={'image': tfds.decode.SkipDecoding()}
  )
  encoded = source[3]['image']
  assert encoded.startswith(b'\x89PNG')
  np.testing.assert_array_equal(
    tfrecord_builder.info.features['image'].decode_example_np(encoded),
    records.Records(tfrecord_builder, 'test')[3]['image'],
  )


@pytest.mark.parametrize('index', [-1, 37])
def test_an_index_out_of_range_is_refused(tfrecord_builder, index):
  source = records.Records(tfrecord_builder, 'train')
  with pytest.raises(IndexError, match=rf'in 0\.\.36, got {index}'):
    source[index]


@pytest.mark.parametrize(
  'builder', ['tfrecord_builder', 'array_record_builder']
)
def test_records_can_be_pickled_before_and_after_reading(builder, request):
  source = records.Records(request.getfixturevalue(builder), 'train')
  fresh = pickle.loads(pickle.dumps(source))
  assert fresh[30]['number'] == source[30]['number']
  used = pickle.loads(pickle.dumps(source))
  assert used[31]['number'] == source[31]['number']


@pytest.mark.parametrize('split', ['trian', 'train[', 'train[:99]'])
def test_an_unknown_split_is_refused_and_the_splits_are_listed(
  tfrecord_builder, split
):
  with pytest.raises(ValueError, match=r'must be an expression') as error:
    records.Records(tfrecord_builder, split)
  assert "['train', 'test']" in str(error.value)
  assert f'got {split!r}' in str(error.value)


def damage(path, offset, change):
  """Replaces the byte at an offset from the start, or the end if negative."""
  data = bytearray(pathlib.Path(path).read_bytes())
  data[offset] = change(data[offset])
  pathlib.Path(path).write_bytes(data)


def test_corrupt_data_of_a_tfrecord_names_file_and_record(damaged_builder):
  path = first_file(damaged_builder)
  (length,) = struct.unpack_from('<Q', pathlib.Path(path).read_bytes())
  damage(path, 16 + length + 20, lambda byte: byte ^ 1)  # In record 1.
  source = records.Records(damaged_builder, 'train[1:]')
  with pytest.raises(ValueError, match='checksum of its data must') as error:
    source[0]
  assert f'record 1 of {path} (example 0 of' in str(error.value)
  source[1]  # The others can be read.


def test_a_corrupt_length_of_a_tfrecord_names_file_and_record(damaged_builder):
  path = first_file(damaged_builder)
  damage(path, 2, lambda byte: byte ^ 1)
  with pytest.raises(ValueError, match='checksum of its length') as error:
    records.Records(damaged_builder, 'train')[4]
  assert path in str(error.value)
  assert 'record 0: ' in str(error.value)


@pytest.mark.parametrize(
  'missing', ['one byte', 'one record', 'all but a header']
)
def test_a_truncated_tfrecord_file_is_named(damaged_builder, missing):
  path = first_file(damaged_builder)
  data = pathlib.Path(path).read_bytes()
  count = damaged_builder.info.splits['train'].shard_lengths[0]
  offsets = [0]
  for _ in range(count):
    (length,) = struct.unpack_from('<Q', data, offsets[-1])
    offsets.append(offsets[-1] + 16 + length)
  assert offsets[-1] == len(data)
  os.truncate(
    path,
    {
      'one byte': len(data) - 1,
      'one record': offsets[-2],
      'all but a header': offsets[-2] + 12,
    }[missing],
  )
  with pytest.raises(ValueError, match='truncated file') as error:
    records.Records(damaged_builder, 'train')[0]
  assert path in str(error.value)
  assert f'record {count - 1}: ' in str(error.value)


def test_a_tfrecord_file_that_is_too_long_is_named(damaged_builder):
  path = first_file(damaged_builder)
  with open(path, 'ab') as file:
    file.write(b'more')
  with pytest.raises(ValueError, match='the file must hold') as error:
    records.Records(damaged_builder, 'train')[0]
  assert path in str(error.value)


def test_a_file_that_shrinks_while_it_is_read_is_named(damaged_builder):
  path = first_file(damaged_builder)
  source = records.Records(damaged_builder, 'train')
  source[0]
  os.truncate(path, 20)
  with pytest.raises(ValueError, match='truncated file') as error:
    source[0]
  assert path in str(error.value)


@pytest.mark.parametrize('file_format', ['tfrecord', 'array_record'])
def test_a_missing_file_is_named(tmp_path, file_format):
  builder = prepare(tmp_path, file_format)
  path = first_file(builder)
  os.remove(path)
  # Not an UnreadableError: leaving out its examples would go unnoticed.
  with pytest.raises(
    OSError, match='must be readable, got .*No such file'
  ) as e:
    records.Records(builder, 'train')[0]
  assert path in str(e.value)


@pytest.mark.parametrize('file_format', ['tfrecord', 'array_record'])
def test_data_may_have_more_files_than_can_be_open(tmp_path, file_format):
  builder = prepare(tmp_path, file_format, num_shards=11)
  expected = [example['number'] for example in read_all(builder, 'train')]
  reading = f"""
import os
import resource
import tensorflow_datasets as tfds
from perceiver_jax.data import records
builder = tfds.builder_from_directory({str(builder.data_dir)!r})
source = records.Records(builder, 'train')
limit = len(os.listdir('/dev/fd')) + 8
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
for _ in range(2):
  print([int(source[index]['number']) for index in range(len(source))])
"""
  ended = subprocess.run(
    [sys.executable, '-c', reading], capture_output=True, text=True, check=False
  )
  assert ended.returncode == 0, ended.stderr
  assert ended.stdout == 2 * f'{[int(number) for number in expected]}\n'


def test_no_file_left_to_open_is_not_the_fault_of_a_record(
  array_record_builder, tfrecord_builder
):
  before = resource.getrlimit(resource.RLIMIT_NOFILE)
  resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
  try:
    for builder in (array_record_builder, tfrecord_builder):
      with pytest.raises(OSError, match='Too many open files'):
        records.Records(builder, 'train')[0]
  finally:
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_corrupt_data_of_an_array_record_names_file_and_record(tmp_path):
  builder = prepare(tmp_path, 'array_record')
  path = first_file(builder)
  size = os.path.getsize(path)
  with open(path, 'r+b') as file:
    file.seek(64)
    file.write(bytes(size // 2))
  with pytest.raises(ValueError, match='must be readable') as error:
    records.Records(builder, 'train')[0]
  assert f'record 0 of {path}' in str(error.value)


def tiny_config(data_dir, **fields):
  fields = {
    'name': 'tiny_digits',
    'batch_size': 37,
    'eval_batch_size': 6,
    'train_split': 'train',
    'eval_split': 'test',
  } | fields
  return TfdsImageData(data_dir=str(data_dir), **fields)


@pytest.mark.parametrize(
  'builder', ['tfrecord_builder', 'array_record_builder']
)
def test_a_tfds_image_data_set_trains_and_evaluates_by_its_name(
  builder, request
):
  builder = request.getfixturevalue(builder)
  config = tiny_config(builder.data_dir_root)
  config.validate()
  assert (config.num_train_examples, config.num_eval_examples) == (37, 11)
  assert (config.num_classes, config.class_names) == (2, ('even', 'odd'))
  spec = config.element_spec()
  assert (spec['image'].shape, spec['image'].dtype) == ((4, 5, 3), np.uint8)
  assert (spec['label'].shape, spec['label'].dtype) == ((), np.int32)
  batches = base.train_batches(config, seed=0, start_step=0, shard=base.Shard())
  expected = read_all(builder, 'train')
  images = next(batches)['image'][0]
  assert sorted(image.tobytes() for image in images) == sorted(
    example['image'].tobytes() for example in expected
  )
  evaluated = [
    label
    for batch in base.eval_batches(config, shard=base.Shard())
    for label in batch['label'][batch['mask']].tolist()
  ]
  assert evaluated == [e['label'] for e in read_all(builder, 'test')]


@pytest.mark.parametrize('name', ['tiny_digits', 'no_such_data'])
def test_a_data_set_that_is_not_prepared_is_named(tmp_path, name):
  config = tiny_config(tmp_path, name=name)
  with pytest.raises(ValueError, match=rf'{name!r} must be prepared') as error:
    base.train_batches(config, seed=0, start_step=0, shard=base.Shard())
  command = f'tfds build {name} --file_format=array_record'
  assert f'`{command} --data_dir={tmp_path}`' in str(error.value)


def test_an_empty_split_of_a_data_set_is_refused(tfrecord_builder):
  config = tiny_config(tfrecord_builder.data_dir_root, eval_split='test[:0]')
  with pytest.raises(ValueError, match=r"eval_split must have .* 'test\[:0\]'"):
    base.eval_batches(config, shard=base.Shard())


def test_an_unreadable_record_stops_a_run_with_its_name(damaged_builder):
  path = first_file(damaged_builder)
  damage(path, -1, lambda byte: byte ^ 1)
  config = tiny_config(damaged_builder.data_dir_root)
  batches = base.train_batches(config, seed=0, start_step=0, shard=base.Shard())
  with pytest.raises(ValueError, match='checksum of its data') as error:
    next(batches)
  assert path in str(error.value)


def test_a_format_without_random_access_is_refused(tfrecord_builder):
  builder = TinyDigits(data_dir=str(tfrecord_builder.data_dir_root))
  builder.info.set_file_format(
    'riegeli', override=True, override_if_initialized=True
  )
  with pytest.raises(
    ValueError, match=r"'array_record', 'tfrecord'.*, got 'riegeli'"
  ):
    records.Records(builder, 'train')


def test_tfrecords_in_a_bucket_are_refused():
  with pytest.raises(ValueError, match=r'mounted file system .* gs://bucket/x'):
    TFRecordFile('gs://bucket/x', 3)
