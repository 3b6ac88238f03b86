"""A whole job: devices agree, a killed run goes on, evaluation is exact."""

import contextlib
import logging
import os
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny_job

from perceiver_jax.data.base import Shard, eval_batches, train_batches
from perceiver_jax.training import loop, parallel
from perceiver_jax.training.evaluation import make_evaluator
from perceiver_jax.training.job import (
  abstract_state,
  device_batches,
  first_state,
  make_job,
  this_process,
  train_step,
)
from perceiver_jax.training.metrics import read_metrics
from perceiver_jax.training.step import step_rng

DEVICE_COUNTS = (1, 8)


pytestmark = pytest.mark.usefixtures('fast_compilation')


def _run(*arguments, num_devices=None):
  env = dict(os.environ)
  if num_devices is not None:
    env['XLA_FLAGS'] = (
      f'{env.get("XLA_FLAGS", "")} '
      f'--xla_force_host_platform_device_count={num_devices}'
    )
    env['JAX_PLATFORMS'] = 'cpu'
  return subprocess.run(
    [sys.executable, tiny_job.__file__, *map(str, arguments)],
    env=env,
    capture_output=True,
    text=True,
    timeout=170,
    check=False,
  )


@pytest.fixture(scope='module')
def steps(digits_dir, tmp_path_factory):
  """What some updates came to, by number of devices."""
  steps = {jax.device_count(): tiny_job.all_steps(digits_dir)}
  for count in DEVICE_COUNTS:
    if count not in steps:
      path = tmp_path_factory.mktemp('steps') / f'{count}.npz'
      ended = _run('steps', digits_dir, path, num_devices=count)
      assert ended.returncode == 0, ended.stderr
      steps[count] = dict(np.load(path))
  return steps


def _of(arrays, model, prefix=''):
  names = [n for n in arrays if n.startswith(f'{model}/{prefix}')]
  assert names
  return {name.removeprefix(f'{model}/'): arrays[name] for name in names}


@pytest.mark.parametrize('model', ['plain', 'synchronised', 'augmented'])
def test_numbers_are_the_same_on_one_and_on_many_devices(steps, model):
  one, *others = [_of(arrays, model) for arrays in steps.values()]
  assert others
  for other in others:
    assert one.keys() == other.keys()
    for name, array in one.items():
      np.testing.assert_allclose(
        other[name], array, rtol=2e-4, atol=2e-5, err_msg=name
      )


def test_batch_norm_of_each_device_on_its_own_differs(steps):
  losses = [
    steps[8][f'{model}/metrics_1/loss']
    for model in ('synchronised', 'unsynchronised')
  ]
  assert abs(losses[0] - losses[1]) > 1e-3


@pytest.mark.parametrize('num_devices', DEVICE_COUNTS)
@pytest.mark.parametrize(
  ('whole', 'parts'),
  [('mixed', 'accumulated'), ('augmented', 'augmented_in_parts')],
)
def test_gradients_accumulated_with_remat_are_those_of_the_whole_batch(
  steps, num_devices, whole, parts
):
  # What is random depends on the place of an example in the batch.
  whole = _of(steps[1], whole)
  parts = _of(steps[num_devices], parts)
  assert whole.keys() == parts.keys()
  for name, array in whole.items():
    np.testing.assert_allclose(
      parts[name], array, rtol=2e-4, atol=2e-5, err_msg=name
    )


def test_gradient_is_that_of_the_whole_batch(steps, digits_dir):
  config = tiny_job.tiny_config(digits_dir)
  job = make_job(config)
  state = first_state(job)
  batches = train_batches(config.data, seed=0, start_step=0, shard=Shard())
  with contextlib.closing(batches):
    batch = jax.tree.map(lambda array: array[0], next(batches))
  loss = jax.jit(job.task.loss)
  rngs = jax.random.split(jax.random.key(0), len(batch['label']))
  gradient = jax.grad(
    lambda params: loss(params, state.model_state, rngs, batch)[0]
  )(state.params)
  expected = {
    f'{module}/{name}': array
    for module, arrays in gradient.items()
    for name, array in arrays.items()
  }
  norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in expected.values()))
  for arrays in steps.values():
    first = _of(arrays, 'plain', 'params_0/')
    second = _of(arrays, 'plain', 'params_1/')
    for name, array in expected.items():
      update = second[f'params_1/{name}'] - first[f'params_0/{name}']
      np.testing.assert_allclose(
        -update / tiny_job.LEARNING_RATE, array, rtol=1e-4, atol=1e-5 * norm
      )
    reported = arrays['plain/metrics_1/gradient_norm']
    np.testing.assert_allclose(reported, norm, rtol=1e-4)


def test_no_update_draws_with_a_key_of_the_first_parameters():
  # Splitting a key is folding in 0, 1, 2, ..., as is what Haiku does.
  count = 3000
  firsts = jax.random.split(jax.random.key(7), count)
  updates = jax.vmap(lambda step: step_rng(7, step))(np.arange(count))
  keys = [
    set(map(tuple, np.asarray(jax.random.key_data(rngs)).tolist()))
    for rngs in (firsts, updates)
  ]
  assert [len(some) for some in keys] == [count, count]
  assert not keys[0] & keys[1]


class _Compilations(logging.Handler):
  """Collects the names of the functions that XLA compiles."""

  def __init__(self):
    super().__init__()
    self.names = []

  def emit(self, record):
    message = record.getMessage()
    if message.startswith('Compiling '):
      self.names.append(message.split()[1])


def _train(config, workdir):
  """Returns what a run printed, and what it compiled."""
  compilations = _Compilations()
  logger = logging.getLogger('jax')
  logger.addHandler(compilations)
  try:
    with jax.log_compiles():
      return loop.train(config, workdir), compilations
  finally:
    logger.removeHandler(compilations)


@pytest.fixture(scope='module')
def uninterrupted(digits_dir, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('uninterrupted')
  config = tiny_job.resumable_config(digits_dir)
  return workdir, *_train(config, workdir)


@pytest.fixture(scope='module')
def resumed(digits_dir, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('resumed')
  killed = _run('train_until_killed', digits_dir, workdir)
  assert killed.returncode == -signal.SIGKILL, killed.stderr
  steps = [line['step'] for line in _lines(workdir)]
  assert max(steps) == 5
  config = tiny_job.resumable_config(digits_dir)
  return workdir, *_train(config, workdir)


def _lines(workdir):
  """Returns the metrics of a run, but for its speed."""
  lines = read_metrics(workdir / 'metrics.jsonl')
  return [line for line in lines if line['split'] != 'speed']


def _final_state(workdir, digits_dir):
  config = tiny_job.resumable_config(digits_dir)
  with config.checkpoint.make(
    workdir, config.to_json(), read_only=True
  ) as checkpointer:
    assert checkpointer.latest_step() == config.num_steps
    return checkpointer.restore(abstract_state(make_job(config)))


def test_killed_run_goes_on_with_the_same_metrics(uninterrupted, resumed):
  expected, actual = (_lines(run[0]) for run in (uninterrupted, resumed))
  assert actual == expected
  assert [line['step'] for line in actual] == [1, 2, 3, 3, 4, 5, 6, 6]


def test_metrics_have_their_names_and_the_learning_rate_of_the_step(
  uninterrupted,
):
  train, test = (
    [line for line in _lines(uninterrupted[0]) if line['split'] == split]
    for split in ('train', 'test')
  )
  names = {'step', 'split', 'loss', 'top_1_accuracy', 'top_5_accuracy'}
  updates = names | {'learning_rate', 'gradient_norm'}
  updates |= {'skipped_updates', 'loss_spikes'}
  for line in train:
    assert line.keys() == updates
  for line in test:
    assert line.keys() == names | {'num_examples'}
  rates = [0.0, 0.25e-2, 0.5e-2, 0.75e-2, 1e-2, 1e-2]
  actual = [line['learning_rate'] for line in train]
  np.testing.assert_allclose(actual, rates, rtol=1e-6)


def test_speed_is_that_of_all_updates_but_the_one_that_compiles(uninterrupted):
  lines = read_metrics(uninterrupted[0] / 'metrics.jsonl')
  speed = [line for line in lines if line['split'] == 'speed']
  assert [line['step'] for line in speed] == [2, 3, 4, 5, 6]
  for line in speed:
    assert line['steps_per_sec'] > 0.0
    assert 0.0 <= line['data_wait_fraction'] <= 1.0
    assert line['flops_per_sec_per_device'] > 0.0
    assert line['host_memory_gib'] > 0.0


def test_killed_run_ends_with_the_same_state(
  uninterrupted, resumed, digits_dir
):
  expected, actual = (
    _final_state(run[0], digits_dir) for run in (uninterrupted, resumed)
  )
  jax.tree.map(np.testing.assert_array_equal, actual, expected)
  assert any(np.any(leaf) for leaf in jax.tree.leaves(actual.model_state))


def test_steps_compile_once_in_a_run(uninterrupted, resumed):
  for _, _, compilations in (uninterrupted, resumed):
    # What pmap calls all it compiles: here the train and the eval step.
    assert compilations.names.count('jit(_fun)') == 2, compilations.names


def test_evaluation_of_a_workdir_is_that_of_its_last_line(
  uninterrupted, digits_dir
):
  workdir, printed, _ = uninterrupted
  before = sorted(workdir.rglob('*'))
  metrics = loop.evaluate(tiny_job.resumable_config(digits_dir), workdir)
  last = _lines(workdir)[-1]
  assert last.pop('split') == 'test'
  assert metrics == last == printed
  assert sorted(workdir.rglob('*')) == before


def test_finished_run_is_only_evaluated_again(uninterrupted, digits_dir):
  workdir, printed, _ = uninterrupted
  lines = _lines(workdir)
  again, compilations = _train(tiny_job.resumable_config(digits_dir), workdir)
  assert again == printed
  assert compilations.names.count('jit(_fun)') == 1
  assert _lines(workdir) == lines
  config = tiny_job.resumable_config(digits_dir)
  config.num_steps = 4
  # Nor does it need the metrics of before, which someone may have removed.
  path = workdir / 'metrics.jsonl'
  text = path.read_text()
  path.unlink()
  assert loop.train(config, workdir) == printed
  path.write_text(text)


def test_workdir_of_another_model_is_refused(uninterrupted, digits_dir):
  workdir = uninterrupted[0]
  config = tiny_job.resumable_config(digits_dir)
  config.model.num_latents = 5
  for run in (loop.train, loop.evaluate):
    with pytest.raises(ValueError, match=r'num_latents: saved 4, now 5'):
      run(config.copy(), workdir)


@pytest.fixture(scope='module')
def first(digits_dir):
  """A job and its first state."""
  job = make_job(tiny_job.tiny_config(digits_dir))
  return job, first_state(job)


@pytest.fixture(scope='module')
def exact_metrics(first):
  """The metrics of the first state, computed in one piece."""
  job, state = first
  config = job.config.data.copy()
  config.eval_batch_size = 355
  (batch,) = eval_batches(config, shard=Shard())
  batch = jax.tree.map(lambda array: array[0], batch)
  evaluate = jax.jit(job.task.metrics)
  metrics, _ = evaluate(state.params, state.model_state, batch)
  return {name: values.mean() for name, values in metrics.items()}


@pytest.mark.parametrize('eval_batch_size', [7, 50, 1000])
def test_every_example_counts_once(
  first, exact_metrics, digits_dir, eval_batch_size
):
  config = tiny_job.tiny_config(digits_dir)
  config.data.eval_batch_size = eval_batch_size
  metrics = make_evaluator(make_job(config))(first[1])
  assert metrics.pop('num_examples') == 355
  assert metrics.keys() == exact_metrics.keys()
  for name, value in metrics.items():
    np.testing.assert_allclose(value, exact_metrics[name], rtol=1e-5)


def test_state_is_donated(digits_dir):
  config = tiny_job.tiny_config(digits_dir)
  job = make_job(config)
  state = first_state(job)
  update = parallel.parallel_train_step(train_step(job))
  batches = train_batches(
    config.data, seed=0, start_step=0, shard=this_process()
  )
  with device_batches(job, batches) as on_devices:
    new_state, _ = update(state, next(on_devices))
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
  assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(new_state))


@pytest.mark.slow
def test_training_learns(digits_dir, tmp_path):
  config = tiny_job.tiny_config(digits_dir, num_steps=150)
  config.data.batch_size = 64
  config.model.latent_channels = 32
  config.log_every_steps = config.evaluate_every_steps = 150
  config.checkpoint.every_steps = 150
  before = make_evaluator(make_job(config.copy()))(
    first_state(make_job(config.copy()))
  )
  after = loop.train(config, tmp_path)
  assert before['top_1_accuracy'] < 0.2
  assert after['top_1_accuracy'] > 0.5
  assert after['loss'] < before['loss'] - 0.5
