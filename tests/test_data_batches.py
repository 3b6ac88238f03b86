import itertools
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from perceiver_jax.data import base, pipeline
from perceiver_jax.data.digits import DigitsData


class NumbersData(base.DataConfig):
  """The numbers 0..n-1 with noise as augmentation; a split is n in digits."""

  batch_size: int = 8
  eval_batch_size: int = 8
  train_split: str = '23'
  eval_split: str = '23'
  num_threads: int = 2

  def make_source(self, split):
    return range(int(split))

  def preprocess(self, example, rng):
    noise = 0.0 if rng is None else rng.random()
    return {'number': np.int64(example + 100), 'noise': np.float64(noise)}


class MaskedData(NumbersData):
  def preprocess(self, example, rng):
    return {'mask': np.int64(example)}


class RaggedData(NumbersData):
  def preprocess(self, example, rng):
    return {'numbers': np.zeros(example % 2)}


def train(config, num_steps, *, seed=0, start_step=0, processes=1, devices=1):
  """Returns `num_steps` global batches, rows in order, leaves [B, ...]."""
  parts = []
  for index in range(processes):
    shard = base.Shard(index, processes, devices)
    iterator = base.train_batches(
      config, seed=seed, start_step=start_step, shard=shard
    )
    parts.append(list(itertools.islice(iterator, num_steps)))
    iterator.close()
  return [joined(step) for step in zip(*parts, strict=True)]


def joined(parts):
  return {
    name: np.concatenate(
      [part[name].reshape((-1, *part[name].shape[2:])) for part in parts]
    )
    for name in parts[0]
  }


def stream(batches, name):
  return np.concatenate([batch[name] for batch in batches])


def assert_same_batches(actual, expected):
  assert len(actual) == len(expected)
  for a, b in zip(actual, expected, strict=True):
    assert a.keys() == b.keys()
    for name in a:
      np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize(
  ('processes', 'devices'), [(1, 2), (1, 8), (2, 1), (2, 2), (4, 1), (4, 2)]
)
def test_global_batches_are_the_same_for_any_processes_and_devices(
  processes, devices
):
  expected = train(NumbersData(), 7)
  actual = train(NumbersData(), 7, processes=processes, devices=devices)
  assert_same_batches(actual, expected)


def test_leaves_have_axes_for_devices_and_rows():
  iterator = base.train_batches(
    NumbersData(), seed=0, start_step=0, shard=base.Shard(1, 2, 2)
  )
  assert next(iterator)['number'].shape == (2, 2)


def test_global_batches_are_the_same_with_worker_processes(digits_dir):
  config = DigitsData(data_dir=digits_dir, batch_size=700, max_shift=2)
  expected = train(config, 4, start_step=1)
  config.num_workers = 2
  config.freeze()
  shard = base.Shard(0, 1, 7)
  iterator = base.train_batches(config, seed=0, start_step=1, shard=shard)
  actual = [joined([batch]) for batch in itertools.islice(iterator, 4)]
  iterator.close()
  assert_same_batches(actual, expected)


def test_the_number_of_threads_does_not_change_batches():
  assert_same_batches(
    train(NumbersData(num_threads=4), 9), train(NumbersData(num_threads=1), 9)
  )


def test_every_epoch_has_each_example_once_in_an_order_of_its_own():
  numbers = stream(train(NumbersData(), 9), 'number')[: 3 * 23]
  epochs = numbers.reshape(3, 23)
  for epoch in epochs:
    np.testing.assert_array_equal(np.sort(epoch), np.arange(100, 123))
  assert not np.array_equal(epochs[0], epochs[1])
  assert not np.array_equal(epochs[1], epochs[2])
  assert not np.array_equal(epochs[0], np.sort(epochs[0]))


def test_a_batch_larger_than_the_data_set_runs_through_several_epochs():
  (batch,) = train(NumbersData(batch_size=46), 1)
  numbers, counts = np.unique(batch['number'], return_counts=True)
  assert len(numbers) == 23
  assert set(counts) == {2}


def test_starting_at_a_step_gives_the_rest_of_the_uninterrupted_stream():
  uninterrupted = train(NumbersData(), 10)
  resumed = train(NumbersData(), 6, start_step=4)
  assert_same_batches(resumed, uninterrupted[4:])


def test_seeds_give_different_orders_and_augmentations():
  first = stream(train(NumbersData(), 3), 'number')
  second = stream(train(NumbersData(), 3, seed=1), 'number')
  assert not np.array_equal(first, second)
  noise = [stream(train(NumbersData(), 3, seed=s), 'noise') for s in (0, 1)]
  assert not set(noise[0]) & set(noise[1])


def noise_by_number(size, batch_size, epoch):
  config = NumbersData(train_split=str(size), batch_size=batch_size)
  batches = train(config, (epoch + 1) * size // batch_size + 1)
  rows = slice(epoch * size, (epoch + 1) * size)
  numbers = stream(batches, 'number')[rows].tolist()
  noise = stream(batches, 'noise')[rows].tolist()
  return dict(zip(numbers, noise, strict=True))


def test_augmentation_depends_on_seed_epoch_and_example_only():
  epochs = [noise_by_number(23, 8, epoch) for epoch in (0, 1)]
  assert len({*epochs[0].values(), *epochs[1].values()}) == 2 * 23
  for epoch, expected in enumerate(epochs):
    assert noise_by_number(23, 5, epoch) == expected
    # In more data an example has another place but the same index.
    assert noise_by_number(30, 8, epoch).items() >= expected.items()


@pytest.mark.parametrize(
  ('processes', 'devices', 'batch_size'),
  [
    (1, 1, 8),
    (1, 3, 8),
    (2, 2, 8),
    (3, 1, 5),
    (7, 1, 8),
    (4, 8, 8),
    (1, 1, 23),
  ],
)
def test_evaluation_counts_every_example_once(processes, devices, batch_size):
  config = NumbersData(eval_batch_size=batch_size)
  parts = [
    list(base.eval_batches(config, shard=base.Shard(index, processes, devices)))
    for index in range(processes)
  ]
  assert len({len(part) for part in parts}) == 1
  shapes = {
    leaf.shape for part in parts for batch in part for leaf in batch.values()
  }
  assert len(shapes) == 1
  assert shapes.pop()[0] == devices
  batches = [joined(step) for step in zip(*parts, strict=True)]
  mask = stream(batches, 'mask')
  assert mask.dtype == bool
  numbers = stream(batches, 'number')
  np.testing.assert_array_equal(numbers[mask], np.arange(100, 123))
  np.testing.assert_array_equal(numbers[~mask], 0)
  np.testing.assert_array_equal(stream(batches, 'noise'), 0)
  assert len(mask) < 23 + len(batches[0]['mask'])


def test_evaluation_with_worker_processes_counts_every_example_once(digits_dir):
  config = DigitsData(data_dir=digits_dir, eval_batch_size=100)
  expected = list(base.eval_batches(config, shard=base.Shard()))
  config.num_workers = 1
  actual = list(base.eval_batches(config, shard=base.Shard()))
  assert_same_batches(actual, expected)
  assert sum(batch['mask'].sum() for batch in actual) == 355


def test_element_spec_fits_the_batches_and_jax(digits_dir):
  config = DigitsData(data_dir=digits_dir)
  spec = config.element_spec()
  batch = next(
    base.train_batches(config, seed=0, start_step=0, shard=base.Shard())
  )
  assert {k: (v.shape[2:], v.dtype) for k, v in batch.items()} == {
    k: (v.shape, v.dtype) for k, v in spec.items()
  }
  output = jax.eval_shape(lambda example: example['image'] * 2, spec)
  assert output.shape == (8, 8, 1)


def test_a_batch_that_does_not_divide_names_batch_processes_and_devices():
  with pytest.raises(
    ValueError, match=r'batch_size must be .* 3 \* 2 = 6, got 8'
  ):
    base.train_batches(
      NumbersData(), seed=0, start_step=0, shard=base.Shard(0, 3, 2)
    )


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('batch_size', 0),
    ('eval_batch_size', -1),
    ('num_workers', -1),
    ('num_threads', 0),
    ('train_split', ''),
    ('eval_split', ''),
  ],
)
def test_validate_names_field_and_value(field, value):
  config = NumbersData(**{field: value})
  with pytest.raises(ValueError, match=f'{field} must .* got {value!r}'):
    config.validate()


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'seed': -1}, 'seed must .* got -1'),
    ({'seed': 2**63}, 'seed must .* got 9223372036854775808'),
    ({'start_step': -1}, 'start_step must .* got -1'),
    ({'shard': base.Shard(0, 0, 1)}, 'counts must be at least 1, got'),
    ({'shard': base.Shard(2, 2, 1)}, 'process_index must be in 0..'),
  ],
)
def test_bad_arguments_are_refused_at_the_call(arguments, message):
  defaults = {'seed': 0, 'start_step': 0, 'shard': base.Shard()}
  with pytest.raises(ValueError, match=message):
    base.train_batches(NumbersData(), **defaults | arguments)


def test_an_empty_split_is_refused_at_the_call():
  config = NumbersData(train_split='0', eval_split='0')
  with pytest.raises(ValueError, match=r"train_split must have .* in '0'"):
    base.train_batches(config, seed=0, start_step=0, shard=base.Shard())
  with pytest.raises(ValueError, match=r"eval_split must have .* in '0'"):
    base.eval_batches(config, shard=base.Shard())
  with pytest.raises(ValueError, match=r"train_split must have .* in '0'"):
    config.element_spec()


def test_a_source_with_a_mask_of_its_own_is_refused():
  with pytest.raises(ValueError, match="must not have the key 'mask'"):
    base.eval_batches(MaskedData(), shard=base.Shard())


def test_examples_of_several_shapes_are_refused_by_name():
  batches = base.eval_batches(RaggedData(), shard=base.Shard())
  with pytest.raises(ValueError, match="'numbers' must have one shape"):
    next(batches)


_PARENT = """
import multiprocessing, os, signal, sys
from perceiver_jax.data import base
from perceiver_jax.data.digits import DigitsData
if __name__ == '__main__':
  config = DigitsData(data_dir=sys.argv[1], num_workers=1)
  batches = base.train_batches(
    config, seed=0, start_step=0, shard=base.Shard())
  next(batches)
  print(multiprocessing.active_children()[0].pid, flush=True)
  if sys.argv[2] == 'close':
    batches.close()
    print(len(multiprocessing.active_children()), flush=True)
  else:
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize('end', ['close', 'kill'])
def test_workers_end_with_their_iterator_and_their_parent(
  end, digits_dir, tmp_path
):
  script = tmp_path / 'parent.py'
  script.write_text(_PARENT)
  run = subprocess.run(
    [sys.executable, script, digits_dir, end],
    capture_output=True,  # Ends when the worker does: it has the pipe as well.
    text=True,
    timeout=30,
  )
  pid, *rest = run.stdout.split()
  if end == 'close':
    assert (run.returncode, rest) == (0, ['0']), run.stderr
  else:
    assert run.returncode == -signal.SIGKILL
  assert has_ended(int(pid))


_TOLD_TO_STOP = """
import multiprocessing, os, signal, sys, time
from perceiver_jax.data import base
from perceiver_jax.data.digits import DigitsData
if __name__ == '__main__':
  config = DigitsData(data_dir=sys.argv[1], num_workers=1)
  batches = base.eval_batches(config, shard=base.Shard())
  with base.prefetch(batches, lambda batch: batch) as prefetched:
    while not (workers := multiprocessing.active_children()):
      time.sleep(0.001)
    os.kill(workers[0].pid, signal.SIGTERM)
    num_examples = sum(batch['mask'].sum() for batch in prefetched)
    print(num_examples == config.num_eval_examples)
"""


def test_workers_that_are_starting_outlive_sigterm(digits_dir, tmp_path):
  script = tmp_path / 'parent.py'
  script.write_text(_TOLD_TO_STOP)
  run = subprocess.run(
    [sys.executable, script, digits_dir],
    capture_output=True,
    text=True,
    timeout=90,
  )
  assert (run.returncode, run.stdout) == (0, 'True\n'), run.stderr


def has_ended(pid, timeout_secs=10):
  deadline = time.monotonic() + timeout_secs
  while time.monotonic() < deadline:
    try:
      os.kill(pid, 0)
    except ProcessLookupError:
      return True
    time.sleep(0.1)
  return False


WEIGHTS = np.array([8.0, 4, 3, 3, 2, 1.5, 1, 0.5, 0.5, 0.5, 0])


class WeightedData(NumbersData):
  """The same numbers; the first comes most often, the last never."""

  def train_weights(self):
    return WEIGHTS[: int(self.train_split)]


def weighted_epochs(num_epochs, **fields):
  config = WeightedData(train_split='11', batch_size=11, **fields)
  return train(config, num_epochs)


def test_examples_come_as_often_as_their_weights_say():
  epochs = [batch['number'] - 100 for batch in weighted_epochs(200)]
  expected = 11 * WEIGHTS / WEIGHTS.sum()
  counts = np.array([np.bincount(epoch, minlength=11) for epoch in epochs])
  assert (counts >= np.floor(expected)).all()
  assert (counts <= np.ceil(expected)).all()
  np.testing.assert_allclose(counts.mean(axis=0), expected, atol=0.1)
  assert len({epoch.tobytes() for epoch in epochs}) == 200


def test_an_example_that_comes_again_in_an_epoch_is_augmented_anew():
  for batch in weighted_epochs(20):
    assert len(set(batch['noise'])) == 11
    assert len(set(batch['number'])) < 11


def test_weighted_batches_are_the_same_for_any_processes_and_after_a_resume():
  def data(**fields):
    return WeightedData(train_split='11', **fields)

  expected = train(data(), 9)
  assert_same_batches(train(data(), 9, processes=2, devices=2), expected)
  assert_same_batches(train(data(), 5, start_step=4), expected[4:])
  workers = train(data(num_workers=2), 9)
  assert_same_batches(workers, expected)


def test_equal_weights_give_every_example_once():
  order, repeats = pipeline.weighted_order(np.full(23, 0.1), 0, 0)
  np.testing.assert_array_equal(np.sort(order), np.arange(23))
  assert not repeats.any()


@pytest.mark.parametrize('step', [0, 2, 7])
@pytest.mark.parametrize('kind', [NumbersData, WeightedData])
def test_examples_of_a_batch_are_known_without_reading_it(kind, step):
  config = kind(train_split='11')
  (batch,) = train(config, 1, seed=3, start_step=step)
  indices = base.train_example_indices(config, seed=3, step=step)
  assert (batch['number'] - 100).tolist() == indices
