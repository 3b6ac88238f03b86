"""Loss scaling, the running mean of parameters, and norms by module."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_job

from perceiver_jax.data.base import train_batches
from perceiver_jax.model import Precision
from perceiver_jax.tasks.classification import ClassificationTask
from perceiver_jax.training import parallel
from perceiver_jax.training.evaluation import make_evaluator
from perceiver_jax.training.job import (
  device_batches,
  first_state,
  make_job,
  this_process,
  train_step,
)
from perceiver_jax.training.loss_scaling import LossScaling
from perceiver_jax.training.optimizers import Sgd
from perceiver_jax.training.schedules import Constant

pytestmark = pytest.mark.usefixtures('fast_compilation')


def _updates(config, count):
  """Returns the job, the last state, and copies of states and metrics."""
  config.optimizer = Sgd(schedule=Constant(learning_rate=0.1), momentum=0.0)
  job = make_job(config)
  update = parallel.parallel_train_step(train_step(job))
  batches = train_batches(
    config.data, seed=config.seed, start_step=0, shard=this_process()
  )
  state = first_state(job)
  copies = [(jax.tree.map(np.array, state), {})]
  with device_batches(job, batches) as on_devices:
    for _ in range(count):
      state, metrics = update(state, next(on_devices))
      copies.append(jax.tree.map(np.array, (state, metrics)))
  return job, state, copies


@pytest.fixture(scope='module')
def averaged(digits_dir):
  """A run with a running mean and norms by module."""
  config = tiny_job.tiny_config(digits_dir, log_norms_by_module=True)
  config.ema_decay = 0.15
  return _updates(config, 3)


def test_running_mean_of_the_parameters_is_that_computed_by_hand(averaged):
  _, _, copies = averaged
  states = [state for state, _ in copies]
  mean = states[0].params
  for count, state in enumerate(states[1:]):
    # The first decay is 1 / 10, the others would be 2 / 11 and 3 / 12.
    decay = min(0.15, (1 + count) / (10 + count))
    mean = jax.tree.map(
      lambda m, p, d=decay: d * m + (1 - d) * p, mean, state.params
    )
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
      state.ema_params,
      mean,
    )


def test_running_mean_is_what_is_evaluated(averaged):
  job, state, _ = averaged
  evaluate = make_evaluator(job)
  mean = evaluate(state)
  assert mean == evaluate(
    state._replace(params=state.ema_params, ema_params={})
  )
  parameters = evaluate(state._replace(ema_params={}))
  assert abs(mean['loss'] - parameters['loss']) > 1e-4


def test_norms_by_module_are_those_of_its_arrays(averaged):
  _, _, copies = averaged
  before, after = copies[1][0].params, copies[2][0].params
  metrics = copies[2][1]
  named = {
    kind: {
      name.removeprefix(f'{kind}/'): float(value)
      for name, value in metrics.items()
      if name.startswith(f'{kind}/')
    }
    for kind in ('gradient_norm', 'update_norm')
  }
  for norms in named.values():
    assert norms.keys() == before.keys()
  for module, arrays in before.items():
    change = [after[module][name] - array for name, array in arrays.items()]
    norm = np.sqrt(sum(np.sum(np.square(c, dtype=float)) for c in change))
    assert named['update_norm'][module] == pytest.approx(
      norm, rel=1e-3, abs=1e-6
    )
    # The update is the gradient times the learning rate.
    assert named['gradient_norm'][module] == pytest.approx(
      10 * named['update_norm'][module], rel=1e-4
    )
  total = np.sqrt(sum(norm**2 for norm in named['gradient_norm'].values()))
  assert metrics['gradient_norm'] == pytest.approx(total, rel=1e-5)


def test_scale_halves_after_an_overflow_and_doubles_after_a_period():
  config = LossScaling(initial_scale=4.0, period_steps=2)
  state, scales = config.init(), []
  for is_finite in (1, 1, 1, 0, 0, 0, 0, 1, 0, 1, 1):
    state = config.adjust(state, jnp.asarray(bool(is_finite)))
    scales.append(float(state.scale))
  assert scales == [4, 8, 8, 4, 2, 1, 1, 1, 1, 1, 2]


class FaintTask(ClassificationTask):
  """Has a loss so small that its gradients are below what float16 knows."""

  def make(self, model):
    task = super().make(model)

    def loss(params, state, rng, batch):
      value, rest = task.loss(params, state, rng, batch)
      return 1e-9 * value, rest

    return task._replace(loss=loss)


def _faint(digits_dir, scale, count):
  """Returns the metrics of updates in float16, and copies of the states."""
  config = tiny_job.tiny_config(digits_dir, task=FaintTask())
  config.model.precision = Precision.FLOAT16
  config.loss_scaling = LossScaling(initial_scale=scale)
  _, _, copies = _updates(config, count)
  return [metrics for _, metrics in copies[1:]], [state for state, _ in copies]


def test_scaled_loss_has_gradients_in_float16(digits_dir, averaged):
  _, _, copies = averaged
  exact = 1e-9 * copies[1][1]['gradient_norm']  # In float32.
  (unscaled,), _ = _faint(digits_dir, 1.0, 1)
  (scaled,), _ = _faint(digits_dir, 2.0**30, 1)
  assert scaled['skipped_updates'] == unscaled['skipped_updates'] == 0
  assert scaled['loss_scale'] == 2.0**30
  assert scaled['gradient_norm'] == pytest.approx(exact, rel=0.02)
  assert unscaled['gradient_norm'] < 0.5 * exact


def test_overflow_of_a_scaled_loss_is_skipped_until_it_fits(digits_dir):
  metrics, states = _faint(digits_dir, 2.0**56, 16)
  skipped = [int(m['skipped_updates']) for m in metrics]
  num_skipped = skipped[-1]
  assert 2 <= num_skipped <= 14
  assert skipped[:num_skipped] == list(range(1, num_skipped + 1))
  assert metrics[-1]['loss_scale'] == 2.0 ** (56 - num_skipped)
  assert all(np.isfinite(m['loss']) for m in metrics)
  jax.tree.map(
    np.testing.assert_array_equal, states[num_skipped].params, states[0].params
  )
  first, last = (states[i].params['encoder']['latents'] for i in (0, -1))
  assert np.any(last != first)
