import collections
import json
import subprocess
import sys

import numpy as np
import pytest
from sklearn import datasets

from perceiver_jax.data import base
from perceiver_jax.data.digits import DigitsData, ScatteredDigitsData


def read_all(config, split):
  source = config.make_source(split)
  return [source[index] for index in range(len(source))]


def test_digits_are_those_of_scikit_learn_and_every_fifth_of_a_class_is_test(
  digits_dir,
):
  digits = datasets.load_digits()
  # Nearest integer to 255 v / 16; a half, at 8, goes up.
  scaled = np.floor(digits.images * (255 / 16) + 0.5).astype(np.uint8)
  expected = {'train': collections.Counter(), 'test': collections.Counter()}
  for label in range(10):
    for number, image in enumerate(scaled[digits.target == label]):
      split = 'test' if number % 5 == 4 else 'train'
      expected[split][image.tobytes(), label] += 1
  config = DigitsData(data_dir=digits_dir)
  for split in expected:
    examples = read_all(config, split)
    actual = collections.Counter(
      (example['image'].tobytes(), example['label']) for example in examples
    )
    assert actual == expected[split]


def test_digits_have_the_sizes_shapes_and_classes_they_should(digits_dir):
  config = DigitsData(data_dir=digits_dir)
  config.validate()
  assert (config.num_train_examples, config.num_eval_examples) == (1442, 355)
  assert config.num_classes == 10
  assert config.class_names == tuple('0123456789')
  spec = config.element_spec()
  assert {name: (s.shape, s.dtype) for name, s in spec.items()} == {
    'image': ((8, 8, 1), np.dtype('uint8')),
    'label': ((), np.dtype('int32')),
  }
  images = np.stack([e['image'] for e in read_all(config, 'train')])
  assert (images.min(), images.max()) == (0, 255)


def test_a_smaller_training_split_can_be_taken(digits_dir):
  config = DigitsData(
    data_dir=digits_dir, train_split='train[:1000]', eval_split='train[1000:]'
  )
  assert (config.num_train_examples, config.num_eval_examples) == (1000, 442)


def test_training_images_move_by_up_to_max_shift_and_zeros_move_in(digits_dir):
  config = DigitsData(data_dir=digits_dir, max_shift=2)
  example = config.make_source('train')[0]
  padded = np.pad(example['image'], ((2, 2), (2, 2), (0, 0)))
  windows = {
    padded[y : y + 8, x : x + 8].tobytes(): (y, x)
    for y in range(5)
    for x in range(5)
  }
  rng = np.random.default_rng(0)
  seen = {
    windows[config.preprocess(example, rng)['image'].tobytes()]
    for _ in range(400)
  }
  assert seen == {(y, x) for y in range(5) for x in range(5)}


@pytest.mark.parametrize(('max_shift', 'seed'), [(0, 3), (2, None)])
def test_images_do_not_move_in_evaluation_or_without_max_shift(
  max_shift, seed, digits_dir
):
  config = DigitsData(data_dir=digits_dir, max_shift=max_shift)
  rng = None if seed is None else np.random.default_rng(seed)
  example = config.make_source('train')[0]
  for _ in range(20):
    actual = config.preprocess(example, rng)
    np.testing.assert_array_equal(actual['image'], example['image'])
    assert actual['label'] == example['label']


def test_a_negative_shift_is_refused():
  with pytest.raises(ValueError, match=r'max_shift must .* got -1'):
    DigitsData(max_shift=-1).validate()


def test_a_shift_out_of_the_image_is_refused_at_the_first_example(digits_dir):
  DigitsData(data_dir=digits_dir, max_shift=7).element_spec()
  with pytest.raises(ValueError, match=r'images, which are 8 x 8, got 8\.'):
    DigitsData(data_dir=digits_dir, max_shift=8).element_spec()


_PREPARE = """
import json, sys
from perceiver_jax.data import base
from perceiver_jax.data.digits import DigitsData, ScatteredDigitsData
config = DigitsData(data_dir=sys.argv[1])
source = config.make_source('test')
numbers = [int(source[i]['label']) for i in range(len(source))]
print(json.dumps([sum(numbers), 'tensorflow' in sys.modules]))
"""


def test_processes_that_prepare_at_once_all_get_the_data(tmp_path):
  runs = [
    subprocess.Popen(
      [sys.executable, '-c', _PREPARE, tmp_path],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for _ in range(3)
  ]
  labels = datasets.load_digits().target.tolist()
  per_class = collections.Counter(labels)
  expected = sum(label * (n // 5) for label, n in per_class.items())
  for run in runs:
    output, errors = run.communicate(timeout=60)
    assert run.returncode == 0, errors
    # Nothing but our line on stdout, and TensorFlow is not needed.
    assert json.loads(output) == [expected, False]
  (version,) = (tmp_path / 'digits').iterdir()
  assert version.name == '1.0.0'


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
  blocked = tmp_path / 'file'
  blocked.write_text('')
  with pytest.raises(OSError, match=str(blocked)):
    DigitsData(data_dir=str(blocked)).builder()


def test_scattered_digits_are_whole_and_stay_where_they_are(digits_dir):
  fields = {'data_dir': digits_dir, 'eval_batch_size': 355}
  shard = base.Shard()
  (plain,) = base.eval_batches(DigitsData(**fields), shard=shard)
  config = ScatteredDigitsData(canvas_size=20, **fields)
  (first,) = base.eval_batches(config, shard=shard)
  (second,) = base.eval_batches(config, shard=shard)
  np.testing.assert_array_equal(first['image'], second['image'])
  places = set()
  for canvas, digit in zip(first['image'][0], plain['image'][0], strict=True):
    assert canvas.shape == (20, 20, 1)
    found = [
      (y, x)
      for y in range(13)
      for x in range(13)
      if np.array_equal(canvas[y : y + 8, x : x + 8], digit)
    ]
    assert found
    assert canvas.sum(dtype=int) == digit.sum(dtype=int)
    places.update(found)
  # All rows and columns come up among 355 digits.
  assert {y for y, _ in places} == {x for _, x in places} == set(range(13))
  with pytest.raises(ValueError, match='canvas_size must be at least 8, got 7'):
    ScatteredDigitsData(canvas_size=7).validate()


def test_scattered_digits_move_while_training(digits_dir):
  config = ScatteredDigitsData(data_dir=digits_dir)
  example = config.make_source('train')[0]
  images = {
    config.preprocess(example, np.random.default_rng(seed))['image'].tobytes()
    for seed in range(8)
  }
  assert len(images) > 4
