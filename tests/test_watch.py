"""Updates that are not finite, spikes of the loss, and what is said of them."""

import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_job
from poisoned import PoisonedTask

from perceiver_jax.data.base import train_batches, train_example_indices
from perceiver_jax.modalities.image import ConvEmbedding
from perceiver_jax.tasks.classification import ClassificationTask
from perceiver_jax.training import loop, parallel
from perceiver_jax.training.job import (
  abstract_state,
  first_state,
  make_job,
  train_step,
)
from perceiver_jax.training.metrics import read_metrics
from perceiver_jax.training.watch import WatchConfig, init_watch, watch

pytestmark = pytest.mark.usefixtures('fast_compilation')


def _poisonable(digits_dir, **fields):
  """A job in which an update changes every part of the state."""
  config = tiny_job.tiny_config(
    digits_dir, ConvEmbedding(channels=4), ema_decay=0.9, **fields
  )
  config.task = fields.get('task', PoisonedTask())
  return config


def _batch(value):
  count = jax.local_device_count()
  shape = (count, 16 // count)
  labels = np.arange(16, dtype=np.int64).reshape(shape) % 10
  images = np.random.default_rng(0).integers(0, 200, (*shape, 8, 8, 1))
  images[0, 0, 0, 0, 0] = value  # One example, on one of the devices.
  return parallel.put_batch({'image': images.astype(np.uint8), 'label': labels})


def _copy(tree):
  return jax.tree.map(np.array, tree)


@pytest.mark.parametrize('has_finite_loss', [False, True])
def test_update_that_is_not_finite_changes_only_counters(
  digits_dir, has_finite_loss
):
  task = PoisonedTask(has_finite_loss=has_finite_loss)
  job = make_job(_poisonable(digits_dir, task=task))
  update = parallel.parallel_train_step(train_step(job))
  state, metrics = update(first_state(job), _batch(0))
  before = _copy(state)
  assert metrics['skipped_updates'] == 0
  state, metrics = update(state, _batch(255))
  after = _copy(state)
  assert np.isfinite(metrics['loss']) == has_finite_loss
  assert np.isfinite(metrics['gradient_norm']) != has_finite_loss
  assert metrics['skipped_updates'] == 1
  assert (after.step, before.step) == (2, 1)
  watch = before.watch._replace(
    num_skipped=1, num_skipped_in_a_row=1, last_skipped=2
  )
  jax.tree.map(
    np.testing.assert_array_equal,
    after,
    before._replace(step=after.step, watch=watch),
  )
  state, metrics = update(state, _batch(0))
  changed = jax.tree.map(lambda a, b: np.any(a != b), _copy(state), after)
  for part in ('params', 'ema_params', 'model_state', 'optimizer_state'):
    assert any(jax.tree.leaves(getattr(changed, part))), part
  assert metrics['skipped_updates'] == 1
  assert int(state.watch.num_skipped_in_a_row) == 0


def test_learning_rate_is_that_of_the_updates_made(digits_dir):
  config = _poisonable(digits_dir)
  config.optimizer.schedule.warmup_steps = 5
  job = make_job(config)
  update = parallel.parallel_train_step(train_step(job))
  state, rates = first_state(job), []
  for value in (0, 255, 0, 0):
    state, metrics = update(state, _batch(value))
    rates.append(float(metrics['learning_rate']))
  np.testing.assert_allclose(rates, [0.0, 2e-3, 2e-3, 4e-3], rtol=1e-6)


def _losses(losses, **fields):
  config, state = WatchConfig(**fields), init_watch()
  states = []
  for step, loss in enumerate(losses, start=1):
    state = watch(
      config,
      state,
      jnp.int32(step),
      jnp.float32(loss),
      jnp.isfinite(loss),
    )
    states.append(_copy(state))
  return states


def test_running_mean_and_variance_are_those_of_the_losses():
  losses = np.random.default_rng(0).normal(2.0, 0.5, size=50)
  state = _losses(losses, spike_deviations=None)[-1]
  np.testing.assert_allclose(state.loss_mean, losses.mean(), rtol=1e-5)
  np.testing.assert_allclose(state.loss_variance, losses.var(), rtol=1e-4)


def test_a_spike_is_counted_and_does_not_hide_the_next():
  rng = np.random.default_rng(0)
  losses = rng.normal(2.0, 0.1, size=120)
  losses[[30, 80, 90]] = 9.0  # The first before there is a mean.
  states = _losses(losses)
  assert [int(states[i].num_spikes) for i in (79, 80, 89, 90)] == [0, 1, 1, 2]
  assert states[-1].num_spikes == 2
  assert states[-1].last_spike == 91
  assert _losses(losses, spike_deviations=None)[-1].num_spikes == 0


def test_a_loss_that_has_risen_for_good_ends_to_be_a_spike():
  states = _losses([2.0] * 60 + [3.0] * 200)
  assert states[60].num_spikes == 1
  assert states[-1].num_spikes == states[-100].num_spikes < 100
  np.testing.assert_allclose(states[-1].loss_mean, 3.0, rtol=1e-2)


def test_losses_that_are_not_finite_leave_the_mean():
  states = _losses([2.0, np.nan, np.inf, 4.0])
  assert [int(s.num_skipped_in_a_row) for s in states] == [0, 1, 2, 0]
  assert states[-1].num_skipped == 2
  np.testing.assert_allclose(states[-1].loss_mean, 3.0)


def _num_updates(model_state):
  """Returns how often the statistics of batch norm were updated."""
  return model_state['inputs/stem/batch_norm/~/mean_ema']['counter']


class DyingTask(ClassificationTask):
  """Has a loss that is NaN after three updates."""

  def make(self, model):
    task = super().make(model)

    def loss(params, state, rng, batch):
      value, (new_state, metrics) = task.loss(params, state, rng, batch)
      is_over = _num_updates(state) >= 3
      return jnp.where(is_over, jnp.nan, value), (new_state, metrics)

    return task._replace(loss=loss)


def test_run_ends_with_the_batches_named_and_the_state_saved(
  digits_dir, tmp_path, caplog
):
  config = _poisonable(digits_dir, num_steps=20, log_every_steps=2)
  config.task = DyingTask()
  config.evaluate_every_steps = config.checkpoint.every_steps = 20
  config.watch.max_skipped_in_a_row = 2
  with (
    pytest.raises(FloatingPointError) as error,
    caplog.at_level(logging.WARNING, logger='absl'),
  ):
    loop.train(config.copy(), tmp_path)
  message = str(error.value)
  assert 'at most 2 updates' in message and 'got 3 in a row' in message
  indices = train_example_indices(config.data, seed=0, step=3)
  names = ', '.join(map(str, indices))
  assert f"Step 4 saw the examples of 'train' with the indices {names}." in (
    message
  )
  assert 'Skipped 1 updates' in caplog.text and 'lastly step 4' in caplog.text
  lines = [
    line
    for line in read_metrics(tmp_path / 'metrics.jsonl')
    if line['split'] == 'train'
  ]
  assert [(line['step'], line['skipped_updates']) for line in lines] == [
    (2, 0), (4, 1), (6, 3),
  ]  # fmt: skip
  assert json.loads((tmp_path / 'config.json').read_text())['watch']
  with config.checkpoint.make(
    tmp_path, config.to_json(), read_only=True
  ) as checkpointer:
    assert checkpointer.latest_step() == 6
    saved = checkpointer.restore(abstract_state(make_job(config.copy())))
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(saved))
  # What is saved is what three updates made.
  assert _num_updates(saved.model_state) == 3


@pytest.mark.parametrize(('end', 'ends'), [(6, False), (7, True), (50, True)])
def test_run_ends_though_nothing_was_logged_or_it_went_on_well(
  digits_dir, tmp_path, monkeypatch, end, ends
):
  def poisoned_batches(data, *, seed, start_step, shard):
    batches = train_batches(data, seed=seed, start_step=start_step, shard=shard)
    for step, batch in enumerate(batches, start=start_step + 1):
      value = 255 if 4 <= step < end else 0
      yield batch | {'image': np.full_like(batch['image'], value)}

  monkeypatch.setattr(loop, 'train_batches', poisoned_batches)
  config = _poisonable(digits_dir, num_steps=12, log_every_steps=50)
  config.evaluate_every_steps = config.checkpoint.every_steps = 50
  config.watch.max_skipped_in_a_row = 2
  if not ends:
    assert loop.train(config, tmp_path)['step'] == 12
    return
  with pytest.raises(FloatingPointError) as error:
    loop.train(config, tmp_path)
  assert 'got 3 in a row, from step 4 on' in str(error.value)
  assert 'Step 4 saw the examples' in str(error.value)
  with config.checkpoint.make(
    tmp_path, config.to_json(), read_only=True
  ) as checkpointer:
    # With the update that was under way.
    assert checkpointer.latest_step() == 7
    saved = checkpointer.restore(abstract_state(make_job(config.copy())))
  assert _num_updates(saved.model_state) == 3 + (end == 7)
  assert int(saved.watch.num_skipped) == 3 + (end > 7)


def test_limits_are_checked():
  for field in ('max_skipped_in_a_row', 'spike_deviations'):
    with pytest.raises(ValueError, match=f'{field} must be at least 0, got -1'):
      WatchConfig(**{field: -1}).validate()
