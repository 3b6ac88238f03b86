import itertools
import json
import logging
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from perceiver_jax.training import checkpoint, optimizers, schedules
from perceiver_jax.training.checkpoint import BestMode, CheckpointConfig

_CONFIG = '{"class": "TrainConfig", "model": {"num_latents": 8}}'


class _State(NamedTuple):
  step: jax.Array
  params: Any
  model_state: Any
  opt_state: Any
  rng: jax.Array
  ema: Any = None


def _optimizer():
  schedule = schedules.Constant(learning_rate=0.1)
  return optimizers.Lamb(schedule=schedule, weight_decay=0.1).make(
    lambda _: 0.1
  )


def _state(value=0.0, channels=4):
  """Returns a state full of `value`, replicated over all devices."""
  params = {
    'encoder/cross_attend/~/query': {
      'w': jnp.full((3, channels), value, jnp.float32),
      'b': jnp.full(channels, value, jnp.bfloat16),
    },
    'latents': {'embeddings': jnp.full((2, channels), value, jnp.float32)},
  }
  state = _State(
    step=jnp.int32(value),
    params=params,
    model_state={},
    opt_state=_optimizer().init(params),
    rng=jax.random.key(int(value)),
  )
  mesh = Mesh(np.array(jax.devices()), ('devices',))
  return jax.device_put(state, NamedSharding(mesh, PartitionSpec()))


def _make(workdir, read_only=False, **fields):
  return CheckpointConfig(**fields).make(workdir, _CONFIG, read_only=read_only)


def _save_steps(workdir, accuracies, **fields):
  """Saves steps 1, 2, ...; a step of accuracy None is not evaluated."""
  with _make(workdir, **fields) as checkpointer:
    for step, accuracy in enumerate(accuracies, start=1):
      metrics = None if accuracy is None else {'top_1_accuracy': accuracy}
      checkpointer.save(step, {'x': jnp.float32(step)}, metrics)


def _steps(workdir):
  return sorted(int(p.name) for p in (workdir / 'checkpoints').glob('[0-9]*'))


def _kill_save(workdir, step):
  """Turns a checkpoint into what SIGKILL during its save leaves."""
  final = workdir / 'checkpoints' / str(step)
  partial = final.with_suffix('.orbax-checkpoint-tmp')
  os.rename(final, partial)
  os.rename(partial / 'state', partial / 'state.orbax-checkpoint-tmp')
  (partial / 'commit_success.txt').unlink(missing_ok=True)
  return partial


def _assert_equal(actual, expected):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  for a, b in zip(
    jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
  ):
    assert (a.dtype, a.sharding) == (b.dtype, b.sharding)
    if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
      a, b = jax.random.key_data(a), jax.random.key_data(b)
    np.testing.assert_array_equal(np.float64(a), np.float64(b))


def test_a_state_comes_back_as_it_was_saved(tmp_path):
  state = _state(3.0)
  with _make(tmp_path) as checkpointer:
    checkpointer.save(3, state)
  with _make(tmp_path) as checkpointer:
    assert checkpointer.latest_step() == 3
    _assert_equal(checkpointer.restore(_state(0.0)), state)
    described = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
      _state(0.0),
    )
    _assert_equal(checkpointer.restore(described), state)


def test_saves_leave_the_sync_point_of_preemption_alone(tmp_path, monkeypatch):
  asked = []
  monkeypatch.setattr(
    multihost_utils, 'reached_preemption_sync_point', asked.append
  )
  _save_steps(tmp_path, [None, 0.5])
  assert _steps(tmp_path) == [1, 2]
  assert not asked


def test_a_state_restores_to_another_sharding(tmp_path):
  mesh = Mesh(np.array(jax.devices()), ('devices',))
  values = np.random.default_rng(0).normal(size=(8, 6, 16)).astype(np.float32)
  places = [
    NamedSharding(mesh, PartitionSpec(*axes))
    for axes in ((), ('devices',), (None, None, 'devices'))
  ]
  for number, (before, after) in enumerate(itertools.permutations(places, 2)):
    workdir = tmp_path / str(number)
    with _make(workdir) as checkpointer:
      checkpointer.save(1, {'x': jax.device_put(values, before)})
      target = jax.ShapeDtypeStruct(values.shape, np.float32, sharding=after)
      restored = checkpointer.restore({'x': target})['x']
    assert restored.sharding == after
    np.testing.assert_array_equal(restored, values)


def test_arrays_without_a_sharding_go_to_the_default_device(tmp_path):
  with _make(tmp_path) as checkpointer:
    checkpointer.save(3, _state(3.0))
    target = jax.eval_shape(_state)
    restored = checkpointer.restore(target)
  assert restored.params['latents']['embeddings'].devices() == {
    jax.devices()[0]
  }


def test_a_chosen_step_comes_back(tmp_path):
  _save_steps(tmp_path, [None, None])
  with _make(tmp_path) as checkpointer:
    target = {'x': jnp.float32(0)}
    assert checkpointer.restore(target)['x'] == 2
    assert checkpointer.restore(target, step=1)['x'] == 1
    with pytest.raises(ValueError, match=r'one of the checkpoints \[1, 2\] in'):
      checkpointer.restore(target, step=3)


def test_a_saved_state_may_be_donated_at_once(tmp_path):
  overwrite = jax.jit(lambda x: x - 1, donate_argnums=0)
  x = jnp.full((1000, 1000), 5.0)
  with _make(tmp_path) as checkpointer:
    checkpointer.save(1, {'x': x})
    for _ in range(3):
      x = overwrite(x)
    restored = checkpointer.restore({'x': x})
  np.testing.assert_array_equal(restored['x'], 5.0)


@pytest.mark.parametrize('in_pmap', [False, True])
def test_a_restored_state_does_not_compile_again(tmp_path, caplog, in_pmap):
  def step(state, batch):
    return state._replace(step=state.step + batch.astype(int).sum())

  state, batch = _state(), jnp.ones(())
  if in_pmap:
    batch = jnp.ones((jax.device_count(), 1))
    step = jax.pmap(
      step, 'devices', in_axes=(None, 0), out_axes=None, donate_argnums=0
    )
  else:
    step = jax.jit(step, donate_argnums=0)
  with _make(tmp_path) as checkpointer, jax.log_compiles():
    checkpointer.save(1, state)
    step(step(state, batch), batch)
    assert 'XLA compilation of' in caplog.text
    restored = checkpointer.restore(_state())
    caplog.clear()
    step(restored, batch)
  assert 'XLA compilation of' not in caplog.text


def test_a_new_workdir_has_no_checkpoint(tmp_path):
  with _make(tmp_path / 'new' / 'run') as checkpointer:
    assert checkpointer.latest_step() is None
    assert checkpointer.best_step() is None
    assert checkpointer.saved_config_json() is None
    assert checkpointer.restore(_state()) is None


def test_the_config_is_saved_with_the_state(tmp_path):
  _save_steps(tmp_path, [None])
  with _make(tmp_path) as checkpointer:
    assert json.loads(checkpointer.saved_config_json()) == json.loads(_CONFIG)


def test_the_last_and_the_best_are_kept(tmp_path):
  accuracies = [0.1, 0.9, 0.5, 0.2, 0.3]
  _save_steps(tmp_path, accuracies, keep_last=2, keep_best=1)
  assert _steps(tmp_path) == [2, 4, 5]
  with _make(tmp_path) as checkpointer:
    assert checkpointer.best_step() == 2


def test_the_best_of_an_earlier_start_is_kept(tmp_path):
  _save_steps(tmp_path, [0.1, 0.9, 0.5], keep_last=1)
  with _make(tmp_path, keep_last=1) as checkpointer:
    checkpointer.save(4, {'x': jnp.float32(4)}, {'top_1_accuracy': 0.6})
  assert _steps(tmp_path) == [2, 4]


def test_every_nth_is_kept_for_good(tmp_path):
  _save_steps(
    tmp_path, [None] * 7, every_steps=1, keep_every_steps=3, keep_last=1
  )
  assert _steps(tmp_path) == [3, 6, 7]


def test_the_smallest_value_can_be_the_best(tmp_path):
  accuracies = [0.1, 0.9, 0.5]
  _save_steps(tmp_path, accuracies, keep_last=1, best_mode=BestMode.MIN)
  assert _steps(tmp_path) == [1, 3]


def test_checkpoints_without_metrics_are_not_kept_as_best(tmp_path):
  accuracies = [None, 0.2, None, 0.1, None]
  _save_steps(tmp_path, accuracies, keep_last=1, keep_best=1)
  assert _steps(tmp_path) == [2, 5]


@pytest.mark.parametrize('mode', BestMode)
def test_nan_is_the_worst_value(tmp_path, mode):
  accuracies = [0.2, float('nan'), float('nan'), 0.1]
  _save_steps(tmp_path, accuracies, keep_last=1, keep_best=2, best_mode=mode)
  assert _steps(tmp_path) == [1, 4]


def test_no_best_needs_no_best_metric(tmp_path):
  with _make(tmp_path, keep_last=1, keep_best=0) as checkpointer:
    for step in (1, 2):
      checkpointer.save(step, {'x': jnp.zeros(1)}, {'loss': 1.0})
  assert _steps(tmp_path) == [2]


def test_metrics_must_have_the_best_metric(tmp_path):
  with (
    _make(tmp_path, best_metric='top_5') as checkpointer,
    pytest.raises(ValueError, match=r"of the metrics \['loss'\], got 'top_5'"),
  ):
    checkpointer.save(1, {'x': jnp.zeros(1)}, {'loss': 1.0})
  assert _steps(tmp_path) == []


def test_a_step_is_saved_once_and_never_backwards(tmp_path):
  _save_steps(tmp_path, [None, None])
  with _make(tmp_path) as checkpointer:
    checkpointer.save(2, {'x': jnp.float32(100)})
    assert checkpointer.restore({'x': jnp.float32(0)})['x'] == 2
    with pytest.raises(ValueError, match=r'step must be later than .* got 1'):
      checkpointer.save(1, {'x': jnp.float32(100)})


def test_a_save_that_was_killed_leaves_the_checkpoint_before(tmp_path, caplog):
  _save_steps(tmp_path, [None, None])
  partial = _kill_save(tmp_path, 2)
  with _make(tmp_path) as checkpointer:
    assert f'{partial} is only a part of a checkpoint' in caplog.text
    assert checkpointer.latest_step() == 1
    assert checkpointer.restore({'x': jnp.float32(0)})['x'] == 1
    checkpointer.save(3, {'x': jnp.float32(3)})
    assert checkpointer.restore({'x': jnp.float32(0)})['x'] == 3
  assert not partial.exists()


def test_a_step_whose_save_was_killed_can_be_saved_again(tmp_path):
  _save_steps(tmp_path, [None, None])
  _kill_save(tmp_path, 2)
  with _make(tmp_path) as checkpointer:
    checkpointer.save(2, {'x': jnp.float32(20)})
    assert checkpointer.restore({'x': jnp.float32(0)})['x'] == 20


def test_a_checkpoint_of_another_shape_is_refused(tmp_path):
  with _make(tmp_path) as checkpointer:
    checkpointer.save(7, _state())
    with pytest.raises(ValueError) as error:
      checkpointer.restore(_state(channels=5))
  message = str(error.value)
  assert 'must have the same opt_state and model as this run' in message
  assert f'step 7 in {tmp_path}' in message
  path = 'params/encoder/cross_attend/~/query/w'
  assert f'{path}: saved float32[3,4], now float32[3,5]\n' in message
  assert 'opt_state/1/mu/latents/embeddings' in message
  assert 'rng' not in message


def test_a_checkpoint_of_other_names_or_dtypes_is_refused(tmp_path):
  with _make(tmp_path) as checkpointer:
    checkpointer.save(1, {'a': jnp.zeros(2), 'c': jnp.zeros(2), 'e': None})
    target = {'b': jnp.zeros((), int), 'c': jnp.zeros(2, jnp.bfloat16)}
    with pytest.raises(ValueError) as error:
      checkpointer.restore(target)
  assert str(error.value).splitlines()[1:] == [
    '  a: saved float32[2], now nothing',
    '  c: saved float32[2], now bfloat16[2]',
    '  b: saved nothing, now int32[]',
  ]


@pytest.mark.parametrize('read_only', [False, True])
def test_a_workdir_that_is_a_file_is_refused(tmp_path, read_only):
  path = tmp_path / 'file'
  path.touch()
  with pytest.raises(OSError, match=f'workdir must be a directory.*{path}'):
    _make(path, read_only)


@pytest.mark.parametrize('parent', ['file', '/proc'])
def test_an_unwritable_workdir_is_refused(tmp_path, parent):
  (tmp_path / 'file').touch()
  workdir = tmp_path / parent / 'run'
  message = f'workdir must be a directory that can be written to, got {workdir}'
  with pytest.raises(OSError, match=message):
    _make(workdir)


def test_a_directory_that_refuses_files_is_refused(monkeypatch, tmp_path):
  def refuse(*_, **__):
    raise PermissionError(13, 'Permission denied')

  monkeypatch.setattr(
    type(checkpoint.epath.Path(tmp_path)), 'write_text', refuse
  )
  with pytest.raises(OSError, match=r'written to, got .*: Permission denied'):
    _make(tmp_path)


def test_a_writable_workdir_is_left_as_it_was(tmp_path):
  checkpoint.check_writable(tmp_path / 'run')
  assert list((tmp_path / 'run').iterdir()) == []


def test_reading_only_writes_nothing(tmp_path):
  with _make(tmp_path / 'absent', read_only=True) as checkpointer:
    assert checkpointer.restore({'x': jnp.float32(0)}) is None
  assert not (tmp_path / 'absent').exists()
  _save_steps(tmp_path, [0.5, None])
  partial = _kill_save(tmp_path, 2)
  with _make(tmp_path, read_only=True) as checkpointer:
    assert checkpointer.restore({'x': jnp.float32(0)})['x'] == 1
    assert checkpointer.best_step() == 1
  assert partial.exists()


def test_saving_says_nothing_unless_it_fails(tmp_path, caplog):
  with caplog.at_level(logging.DEBUG):
    _save_steps(tmp_path, [None])
    with _make(tmp_path, read_only=True) as checkpointer:
      checkpointer.restore({'x': jnp.float32(0)})
  assert [r for r in caplog.records if 'orbax' in r.pathname] == []


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('every_steps', 0),
    ('keep_last', 0),
    ('keep_best', -1),
    ('max_failures', -1),
  ],
)
def test_validate_refuses_nonsense(field, value):
  config = CheckpointConfig(**{field: value})
  message = f'{field} must be at least {value + 1}, got'
  with pytest.raises(ValueError, match=message):
    config.validate()


@pytest.mark.parametrize('period', [0, 5, 15])
def test_validate_refuses_a_period_at_which_nothing_is_saved(period):
  config = CheckpointConfig(every_steps=10, keep_every_steps=period)
  with pytest.raises(ValueError, match=r'multiple of every_steps 10, got'):
    config.validate()


def test_an_optimizer_goes_on_from_its_restored_state(tmp_path):
  optimizer = _optimizer()

  def update(params, opt_state):
    updates, opt_state = optimizer.update(params, opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  params, opt_state = {'a': {'w': jnp.arange(3.0)}}, None
  opt_state = optimizer.init(params)
  params, opt_state = update(params, opt_state)
  with _make(tmp_path) as checkpointer:
    checkpointer.save(1, (params, opt_state))
    restored = checkpointer.restore((params, opt_state))
  np.testing.assert_array_equal(
    update(*restored)[0]['a']['w'], update(params, opt_state)[0]['a']['w']
  )
