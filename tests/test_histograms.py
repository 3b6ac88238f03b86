"""Histograms count what is there, and looking changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_job
from event_files import events

from perceiver_jax.training import loop, parallel
from perceiver_jax.training.histograms import histograms, make_histograms
from perceiver_jax.training.job import first_state, make_job, train_step
from perceiver_jax.training.metrics import MetricWriter, read_metrics

pytestmark = pytest.mark.usefixtures('fast_compilation')

RNG = np.random.default_rng(0)


def _histograms(workdir):
  """Returns the histograms for TensorBoard by name and step."""
  return {
    (value.tag, event.step): value.histo
    for event in events(workdir)
    for value in event.summary.value
    if value.HasField('histo')
  }


def test_counts_are_those_of_numpy_over_all_arrays():
  arrays = {
    'w': RNG.normal(size=(30, 7)).astype(np.float32),
    'b': RNG.normal(size=11).astype(np.float32) - 1.0,
  }
  found = jax.device_get(jax.jit(histograms)({'m': arrays}))['m']
  values = np.concatenate([array.ravel() for array in arrays.values()])
  assert (found.edges[0], found.edges[-1]) == (values.min(), values.max())
  np.testing.assert_allclose(
    found.edges, np.linspace(values.min(), values.max(), 65), atol=1e-6
  )
  # In the same bins; between two, NumPy counts to the other side.
  expected, _ = np.histogram(-values, -found.edges[::-1])
  np.testing.assert_array_equal(found.counts, expected[::-1])
  assert found.counts.sum() == len(values)
  np.testing.assert_allclose(found.total, values.sum(), rtol=1e-5)
  np.testing.assert_allclose(found.squares, np.square(values).sum(), rtol=1e-5)


def test_numbers_that_are_not_finite_do_not_count():
  numbers = jnp.array([1.0, jnp.nan, 3.0, -jnp.inf, jnp.inf, 2.0])
  found = histograms({'m': {'a': numbers}})['m']
  assert (found.edges[0], found.edges[-1]) == (1.0, 3.0)
  assert found.counts.sum() == 3 and found.total == 6.0


def test_tensorboard_gets_what_can_be_drawn(tmp_path):
  numbers = {
    'some': np.array([0.0, 1.0, 1.0, 4.0], np.float32),
    'equal': np.full(5, 2.0, np.float32),
    'none': np.full(5, np.nan, np.float32),
  }
  with MetricWriter(tmp_path) as writer:
    found = histograms({name: {'a': a} for name, a in numbers.items()})
    writer.write_histograms(7, jax.device_get(found))
  written = _histograms(tmp_path)
  assert set(written) == {('some', 7), ('equal', 7)}
  some, equal = written['some', 7], written['equal', 7]
  assert (some.min, some.max, some.num, some.sum) == (0.0, 4.0, 4.0, 6.0)
  assert some.sum_squares == 18.0
  counts = dict(zip(some.bucket_limit, some.bucket, strict=True))
  assert {k: n for k, n in counts.items() if n} == {0.0625: 1, 1.0: 2, 4.0: 1}
  assert (list(equal.bucket_limit), list(equal.bucket)) == ([2.5], [5.0])


def test_histograms_are_those_of_the_update_that_follows(digits_dir):
  job = make_job(tiny_job.tiny_config(digits_dir))
  state = first_state(job)
  shape = (jax.device_count(), 16 // jax.device_count())
  images = RNG.integers(17, size=(*shape, 8, 8, 1)).astype(np.uint8)
  batch = parallel.put_batch(
    {'image': images, 'label': RNG.integers(10, size=shape, dtype=np.int32)}
  )
  look = make_histograms(job)
  before = jax.device_get(state.params)
  found = look(state, batch)
  state, metrics = parallel.parallel_train_step(train_step(job))(state, batch)
  modules = set(before)
  assert set(found) == {
    f'{kind}/{module}'
    for kind in ('gradient', 'update', 'parameter')
    for module in modules
  }
  norm = np.sqrt(sum(found[f'gradient/{name}'].squares for name in modules))
  np.testing.assert_allclose(norm, metrics['gradient_norm'], rtol=1e-5)
  for name in modules:
    total = sum(leaf.sum() for leaf in before[name].values())
    parameters = found[f'parameter/{name}']
    np.testing.assert_allclose(parameters.total, total, rtol=1e-4, atol=1e-5)
    squares = sum(
      np.square(after - before[name][key]).sum()
      for key, after in jax.device_get(state.params[name]).items()
    )
    np.testing.assert_allclose(
      found[f'update/{name}'].squares, squares, rtol=1e-3, atol=1e-8
    )


def test_run_writes_them_at_their_steps_and_comes_to_the_same(
  digits_dir, tmp_path
):
  for every in (None, 3):
    config = tiny_job.tiny_config(digits_dir, log_histograms_every_steps=every)
    loop.train(config, tmp_path / str(every))
  assert not _histograms(tmp_path / 'None')
  written = _histograms(tmp_path / '3')
  assert {step for _, step in written} == {3, 6}
  assert len(written) == 2 * len({name for name, _ in written})
  lines = [
    [
      line
      for line in read_metrics(tmp_path / name / 'metrics.jsonl')
      if line['split'] != 'speed'
    ]
    for name in ('None', '3')
  ]
  assert lines[0] == lines[1]
