"""Devices that divide the state of the optimizer come to the same numbers."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import many_processes
import numpy as np
import optax
import pytest
import sharded_job
from poisoned import PoisonedTask

from perceiver_jax.training import parallel
from perceiver_jax.training.dry_run import dry_run
from perceiver_jax.training.evaluation import make_evaluator
from perceiver_jax.training.initial_weights import InitialWeights
from perceiver_jax.training.job import (
  abstract_state,
  first_state,
  make_job,
  train_step,
)
from perceiver_jax.training.metrics import read_metrics
from perceiver_jax.training.optimizers import AdamW, Lamb, Sgd
from perceiver_jax.training.schedules import Constant
from perceiver_jax.training.sharding import shard_axis, share, unshare

pytestmark = pytest.mark.usefixtures('fast_compilation')

many_devices = pytest.mark.skipif(
  jax.device_count() != 8,
  reason='for XLA_FLAGS=--xla_force_host_platform_device_count=8',
)


@pytest.mark.parametrize(
  ('shape', 'num_devices', 'axis'),
  [
    ((8, 6), 8, 0),
    ((6, 16), 8, 1),
    ((3, 5, 24), 8, 2),
    ((6, 10), 8, None),
    ((4, 4), 8, None),
    ((0, 3), 8, None),
    ((), 8, None),
    ((8, 8), 1, None),
    ((6, 9), 3, 0),
  ],
)
def test_an_array_is_divided_along_its_first_even_axis(
  shape, num_devices, axis
):
  assert shard_axis(shape, num_devices) == axis


def test_shares_of_the_devices_make_up_the_array():
  count = jax.device_count()
  arrays = {
    'rows': jnp.arange(2.0 * count * 3).reshape(2 * count, 3),
    'columns': jnp.arange(3.0 * 5 * count).reshape(3, 5 * count),
    'whole': jnp.arange(7.0),
  }

  def divide(arrays, _):
    shares = share(arrays)
    return unshare(shares, like=arrays), shares

  whole, shares = parallel.parallel_eval_step(divide)(arrays, jnp.zeros(count))
  jax.tree.map(np.testing.assert_array_equal, whole, arrays)
  for name, axis in (('rows', 0), ('columns', 1)):
    parts = np.split(np.asarray(arrays[name]), count, axis)
    np.testing.assert_array_equal(shares[name], parts)
  assert shares['whole'].shape == (count, 7)


def _batches(config, poisoned):
  """Yields batches, of which one has a loss of NaN on one of the devices."""
  count = jax.local_device_count()
  shape = (count, config.data.batch_size // count)
  for number in range(4):
    rng = np.random.default_rng(number)
    images = rng.integers(0, 200, (*shape, 8, 8, 1)).astype(np.uint8)
    images[-1, 0, 0, 0, 0] = 255 * (number == poisoned)
    labels = rng.integers(0, 10, shape)
    yield parallel.put_batch({'image': images, 'label': labels})


@pytest.fixture(scope='module')
def trained(digits_dir):
  """A job, its state after updates, their metrics; by whether it is divided."""
  trained = {}
  for shard in (False, True):
    config = sharded_job.sharded_config(digits_dir, shard=shard)
    config.task = PoisonedTask()
    job = make_job(config)
    update = parallel.parallel_train_step(train_step(job))
    state, metrics = first_state(job), []
    for batch in _batches(config, poisoned=1):
      state, measured = update(state, batch)
      metrics.append(measured)
    trained[shard] = job, state, metrics
  return trained


def _assert_close(actual, expected, rtol=1e-5):
  def check(path, a, b):
    scale = np.max(np.abs(np.float64(b)), initial=0.0)
    np.testing.assert_allclose(
      np.float64(a), b, rtol=rtol, atol=0.1 * rtol * scale, err_msg=str(path)
    )

  jax.tree_util.tree_map_with_path(check, actual, expected)


def _assert_same_losses(lines, expected):
  """Compares two runs, of which one was started more than once."""
  assert lines[-1]['split'] == expected[-1]['split'] == 'test'
  np.testing.assert_allclose(lines[-1]['loss'], expected[-1]['loss'], rtol=1e-4)
  # An evaluation follows what ends each start.
  pairs = zip(
    *([x for x in s if x['split'] == 'train'] for s in (lines, expected)),
    strict=True,
  )
  for actual, line in pairs:
    assert actual['step'] == line['step']
    for name in ('loss', 'gradient_norm', 'learning_rate'):
      np.testing.assert_allclose(actual[name], line[name], rtol=1e-4)


def _tree(seed):
  rng = np.random.default_rng(seed)
  shapes = {
    'rows': {'w': (16, 3), 'b': (3,)},
    'columns': {'w': (3, 40)},
    'norm': {'scale': (8,), 'offset': (8,)},
  }
  return {
    module: {
      name: rng.normal(size=shape).astype(np.float32)
      for name, shape in arrays.items()
    }
    for module, arrays in shapes.items()
  }


@pytest.mark.parametrize(
  ('optimizer', 'fields'),
  [
    (Lamb, {}),
    (AdamW, {}),
    (Sgd, {}),
    (Sgd, {'use_nesterov': True}),
  ],
)
def test_every_optimizer_updates_shares_as_it_does_whole_arrays(
  optimizer, fields
):
  config = optimizer(
    schedule=Constant(learning_rate=0.1),
    weight_decay=0.1,
    max_grad_norm=1.0,
    **fields,
  )
  params, gradients = _tree(0), [_tree(1), _tree(2), _tree(3)]

  def train(update, params, state, share, unshare):
    for gradient in gradients:
      updates, state = update(gradient, share(state), params)
      state = unshare(state)
      params = optax.apply_updates(params, updates)
    return params, state

  whole, divided = (
    config.make(lambda _: 0.1, shard_state=shard) for shard in (False, True)
  )
  state = whole.init(params)
  expected = train(whole.update, params, state, lambda x: x, lambda x: x)

  def on_a_device(params, _):
    whole_again = functools.partial(unshare, like=state)
    return train(divided.update, params, state, share, whole_again), ()

  actual, _ = parallel.parallel_eval_step(on_a_device)(
    params, jnp.zeros(jax.device_count())
  )
  _assert_close(actual, expected)


@many_devices
def test_divided_state_comes_to_the_numbers_of_copies(trained):
  _, copies, measured = trained[False]
  _, divided, measured_divided = trained[True]
  _assert_close(parallel.as_global(divided), copies)
  _assert_close(measured_divided, measured)
  assert int(divided.watch.num_skipped) == 1
  assert np.isnan(measured[1]['loss'])
  assert float(divided.loss_scale.scale) == 2.0**15  # Halved, and doubled.


@many_devices
def test_mean_of_the_parameters_is_evaluated(trained):
  (job, copies, _), (_, divided, _) = (
    trained[shard] for shard in (False, True)
  )
  evaluate = make_evaluator(job)
  expected = evaluate(copies)
  _assert_close(evaluate(divided), expected)
  mean = copies._replace(params=copies.ema_params, ema_params={})
  assert evaluate(mean) == expected
  parameters = evaluate(copies._replace(ema_params={}))
  assert abs(parameters['loss'] - expected['loss']) > 1e-4


@many_devices
def test_each_device_holds_its_share(trained):
  _, copies, _ = trained[False]
  _, divided, _ = trained[True]
  for part in ('optimizer_state', 'ema_params'):
    whole = jax.tree.leaves(getattr(copies, part))
    shares = jax.tree.leaves(getattr(divided, part))
    num_divided = 0
    for one, of_it in zip(whole, shares, strict=True):
      held = [shard.data.size for shard in of_it.addressable_shards]
      is_even = shard_axis(one.shape, 8) is not None
      assert held == [one.size // 8 if is_even else one.size] * 8
      num_divided += is_even
    assert num_divided > len(whole) // 2
  for leaf in jax.tree.leaves((divided.params, divided.model_state)):
    assert leaf.sharding == parallel.replicated()


@pytest.mark.parametrize('saves', [False, True])
def test_a_checkpoint_is_read_with_and_without_division(
  trained, tmp_path, saves
):
  job, state, _ = trained[saves]
  saved = parallel.as_global(state)
  with job.config.checkpoint.make(tmp_path, '{}') as checkpointer:
    checkpointer.save(4, saved)
    for reader, like, _ in trained.values():
      restored = parallel.as_local(checkpointer.restore(abstract_state(reader)))
      assert [(a.shape, a.sharding) for a in jax.tree.leaves(restored)] == [
        (a.shape, a.sharding) for a in jax.tree.leaves(like)
      ]
      jax.tree.map(
        np.testing.assert_array_equal, parallel.as_global(restored), saved
      )


@many_devices
def test_weights_to_start_from_are_divided(trained, digits_dir, tmp_path):
  job, state, _ = trained[True]
  config = job.config.copy()
  with config.checkpoint.make(tmp_path, config.to_json()) as checkpointer:
    checkpointer.save(4, parallel.as_global(state))
  weights = InitialWeights(path=str(tmp_path))
  first = weights.load_into(parallel.as_global(first_state(job)), config.model)
  jax.tree.map(
    np.testing.assert_array_equal,
    (first.params, first.ema_params),
    (parallel.as_global(state).ema_params,) * 2,
  )
  assert [a.sharding for a in jax.tree.leaves(first)] == [
    a.sharding for a in jax.tree.leaves(abstract_state(job))
  ]


@many_devices
def test_dry_run_says_what_a_device_holds_of_the_state(trained):
  def stated(shard):
    (line,) = [
      line
      for line in dry_run(trained[shard][0].config).splitlines()
      if line.startswith('state per device')
    ]
    return line.split('  ')[-1]

  for shard, (_, state, _) in trained.items():
    held = sum(
      leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state)
    )
    assert stated(shard) == f'{held / 2**10:,.1f} KiB'


@pytest.mark.slow
def test_a_run_goes_on_with_any_devices_and_either_way(digits_dir, tmp_path):
  def train(workdir, num_devices, num_steps, switch):
    env = os.environ | {
      'JAX_PLATFORMS': 'cpu',
      'XLA_FLAGS': f'{os.environ.get("XLA_FLAGS", "")} '
      f'--xla_force_host_platform_device_count={num_devices}',
    }
    subprocess.run(
      [
        *(sys.executable, sharded_job.__file__, digits_dir),
        *(str(workdir), str(num_steps), switch),
      ],
      env=env,
      check=True,
      timeout=170,
    )
    return read_metrics(workdir / 'metrics.jsonl')

  straight = train(tmp_path / 'straight', 1, 8, 'off')
  parts = tmp_path / 'parts'
  for num_devices, num_steps, switch in (
    (8, 2, 'on'),
    (2, 4, 'on'),
    (1, 6, 'on'),
    (8, 8, 'off'),
  ):
    lines = train(parts, num_devices, num_steps, switch)
  _assert_same_losses(lines, straight)


@pytest.mark.slow
def test_processes_divide_among_the_devices_of_all(digits_dir, tmp_path):
  def train(workdir, num_processes, num_steps, switch):
    ended = many_processes.run(
      [
        *(*many_processes.TRAIN, '--config=tests/tiny_job_config.py'),
        *(f'--workdir={workdir}', f'--config.num_steps={num_steps}'),
        *('--config.ema_decay=0.5', f'--config.shard_optimizer_state={switch}'),
        # The first of the parts ends after two steps.
        '--config.optimizer.schedule.warmup_steps=2',
      ],
      num_processes=num_processes,
      num_devices=8 // num_processes,
      env={'TFDS_DATA_DIR': digits_dir},
    )
    assert [process.returncode for process in ended] == [0] * num_processes, (
      ended[0].stderr
    )
    return read_metrics(workdir / 'metrics.jsonl')

  straight = train(tmp_path / 'straight', 1, 6, False)
  parts = tmp_path / 'parts'
  for num_processes, num_steps, switch in (
    (1, 2, True),
    (2, 6, True),
  ):
    lines = train(parts, num_processes, num_steps, switch)
  _assert_same_losses(lines, straight)
