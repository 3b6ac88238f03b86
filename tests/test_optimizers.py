import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from perceiver_jax.training import optimizers, schedules

_RATE = 0.01


def _params():
  rng = np.random.default_rng(0)
  shapes = {
    'encoder/cross_attend/query': {'w': (3, 4), 'b': (4,)},
    'encoder/layer_norm': {'scale': (4,), 'offset': (4,)},
    'encoder/latents': {'embeddings': (2, 4)},
  }
  return {
    module: {
      name: rng.normal(size=shape).astype(np.float32)
      for name, shape in arrays.items()
    }
    for module, arrays in shapes.items()
  }


def _gradients(seed):
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: rng.normal(size=x.shape).astype(np.float32), _params()
  )


def _make(cls, **fields):
  schedule = schedules.Constant(learning_rate=_RATE)
  return cls(schedule=schedule, **fields).make(lambda _: _RATE)


def _train(optimizer, gradients):
  """Returns the parameters after an update with each of `gradients`."""
  params = _params()
  state = optimizer.init(params)
  update = jax.jit(optimizer.update)
  for gradient in gradients:
    updates, state = update(gradient, state, params)
    params = optax.apply_updates(params, updates)
  return params


def _decays(path):
  return path[-1].key in ('w', 'embeddings')


def _adam_directions(gradients, eps):
  """Yields Adam's bias-corrected direction of each step, in float64."""
  mean, square = 0.0, 0.0
  for step, gradient in enumerate(gradients, start=1):
    gradient = np.float64(gradient)
    mean = 0.9 * mean + 0.1 * gradient
    square = 0.999 * square + 0.001 * gradient**2
    yield (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + eps)


def _assert_trained(optimizer, gradients, step_by_hand):
  """Compares with `step_by_hand(param, gradients of it, decays)` per array."""
  trained = _train(optimizer, gradients)

  def check(path, actual, param, *grads):
    expected = step_by_hand(np.float64(param), grads, _decays(path))
    np.testing.assert_allclose(
      actual, expected, rtol=2e-5, atol=1e-7, err_msg=str(path)
    )

  jax.tree_util.tree_map_with_path(check, trained, _params(), *gradients)


def test_decay_mask_leaves_out_biases_and_norms_alone():
  assert optimizers.decay_mask(_params()) == {
    'encoder/cross_attend/query': {'w': True, 'b': False},
    'encoder/layer_norm': {'scale': False, 'offset': False},
    'encoder/latents': {'embeddings': True},
  }


def test_lamb_follows_the_published_chain():
  def by_hand(param, gradients, decays):
    for direction in _adam_directions(gradients, eps=1e-6):
      if decays:
        direction = direction + 0.1 * param
      ratio = np.linalg.norm(param) / np.linalg.norm(direction)
      param = param - _RATE * ratio * direction
    return param

  optimizer = _make(optimizers.Lamb, weight_decay=0.1)
  _assert_trained(optimizer, [_gradients(1), _gradients(2)], by_hand)


def test_first_lamb_update_moves_each_array_by_the_rate_times_its_norm():
  params = _params()
  trained = _train(_make(optimizers.Lamb, weight_decay=0.1), [_gradients(1)])
  for before, after in zip(
    jax.tree.leaves(params), jax.tree.leaves(trained), strict=True
  ):
    moved = np.linalg.norm(after - before)
    assert moved == pytest.approx(_RATE * np.linalg.norm(before), rel=1e-4)


def test_lamb_moves_an_array_of_zeros():
  optimizer = _make(optimizers.Lamb, weight_decay=0.1)
  params = {'linear': {'w': jnp.zeros(2)}}
  gradient = {'linear': {'w': jnp.array([3.0, -4.0])}}
  updates, _ = optimizer.update(gradient, optimizer.init(params), params)
  # Adam's first direction is the sign, and a norm of 0 is not scaled to.
  np.testing.assert_allclose(updates['linear']['w'], [-_RATE, _RATE], rtol=1e-5)


def test_adamw_decays_apart_from_the_gradient():
  def by_hand(param, gradients, decays):
    for direction in _adam_directions(gradients, eps=1e-8):
      param = param - _RATE * (direction + 0.1 * param * decays)
    return param

  optimizer = _make(optimizers.AdamW, weight_decay=0.1)
  _assert_trained(optimizer, [_gradients(1), _gradients(2)], by_hand)


@pytest.mark.parametrize('use_nesterov', [False, True])
def test_sgd_gathers_momentum_of_the_decayed_gradient(use_nesterov):
  def by_hand(param, gradients, decays):
    velocity = 0.0
    for gradient in gradients:
      gradient = gradient + 0.1 * param * decays
      velocity = 0.8 * velocity + gradient
      ahead = gradient + 0.8 * velocity
      param = param - _RATE * (ahead if use_nesterov else velocity)
    return param

  optimizer = _make(
    optimizers.Sgd, weight_decay=0.1, momentum=0.8, use_nesterov=use_nesterov
  )
  _assert_trained(optimizer, [_gradients(1), _gradients(2)], by_hand)


def test_gradients_above_the_maximal_norm_are_scaled_down_to_it():
  optimizer = _make(optimizers.Sgd, max_grad_norm=1.0, momentum=0.0)
  params = {'a': {'w': jnp.zeros(1)}, 'c': {'w': jnp.zeros(1)}}
  gradient = {'a': {'w': jnp.array([3.0])}, 'c': {'w': jnp.array([-4.0])}}
  updates, _ = optimizer.update(gradient, optimizer.init(params), params)
  np.testing.assert_allclose(updates['a']['w'], [-0.6 * _RATE], rtol=1e-6)
  np.testing.assert_allclose(updates['c']['w'], [0.8 * _RATE], rtol=1e-6)
  small = jax.tree.map(lambda x: x / 50, gradient)
  updates, _ = optimizer.update(small, optimizer.init(params), params)
  np.testing.assert_allclose(updates['a']['w'], [-0.06 * _RATE], rtol=1e-6)


@pytest.mark.parametrize(
  'cls', [optimizers.Lamb, optimizers.AdamW, optimizers.Sgd]
)
def test_every_optimizer_follows_the_schedule(cls):
  schedule = schedules.StepDecay(
    learning_rate=1.0, decay_epochs=(1.0,), factor=0.0
  )
  optimizer = cls(schedule=schedule, max_grad_norm=1.0).make(
    schedule.make(batch_size=1, steps_per_epoch=1, num_steps=2)
  )
  once = _train(optimizer, [_gradients(1)])
  twice = _train(optimizer, [_gradients(1), _gradients(2)])
  jax.tree.map(np.testing.assert_array_equal, once, twice)
  assert not np.allclose(once['encoder/latents']['embeddings'], 0.0)
  moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), once, _params())
  assert min(jax.tree.leaves(moved)) > 1e-3


@pytest.mark.parametrize(
  'cls', [optimizers.Lamb, optimizers.AdamW, optimizers.Sgd]
)
def test_optimizer_state_is_float32_and_keeps_its_structure(cls):
  states = [
    _make(cls, **fields).init(_params())
    for fields in ({}, {'weight_decay': 0.1, 'max_grad_norm': 1.0})
  ]
  assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])
  dtypes = {x.dtype for x in jax.tree.leaves(states[0])}
  assert dtypes == {jnp.dtype('float32'), jnp.dtype('int32')}


@pytest.mark.parametrize(
  ('cls', 'fields', 'message'),
  [
    (optimizers.Lamb, {'weight_decay': -0.1}, 'Lamb.weight_decay must be fin'),
    (optimizers.Sgd, {'max_grad_norm': 0.0}, 'must be positive or None, got 0'),
    (optimizers.Lamb, {'b1': 1.0}, r'Lamb.b1 must be in \[0, 1\), got 1.0'),
    (optimizers.AdamW, {'b2': -1.0}, r'AdamW.b2 must be in \[0, 1\), got -1'),
    (optimizers.AdamW, {'eps': 0.0}, 'AdamW.eps must be positive, got 0.0'),
    (optimizers.Sgd, {'momentum': 1.0}, r'Sgd.momentum must be in \[0, 1\)'),
  ],
)
def test_validate_refuses_nonsense(cls, fields, message):
  schedule = schedules.Constant(learning_rate=1.0)
  with pytest.raises(ValueError, match=message):
    cls(schedule=schedule, **fields).validate()


def test_validate_reaches_the_schedule():
  schedule = schedules.Constant(learning_rate=-1.0)
  with pytest.raises(ValueError, match=r'Constant\.learning_rate'):
    optimizers.Lamb(schedule=schedule).validate()


def test_make_refuses_the_base_class():
  with pytest.raises(TypeError, match='must be one of Lamb'):
    _make(optimizers.Optimizer)
