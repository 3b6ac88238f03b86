"""No damage goes unnoticed, and none costs more than the checkpoint it hits."""

import errno
import json
import pathlib
import shutil
import threading

import jax.numpy as jnp
import numpy as np
import pytest

from perceiver_jax.training import store
from perceiver_jax.training.checkpoint import CheckpointConfig
from perceiver_jax.training.manifest import DamagedCheckpointError
from perceiver_jax.training.store import Store

# Orbax leaves behind the readings that one error makes futile.
pytestmark = pytest.mark.filterwarnings(
  'ignore::pytest.PytestUnraisableExceptionWarning'
)

_CONFIG = {'class': 'TrainConfig', 'model': {'num_latents': 8}}


def _make(workdir, read_only=False, **fields):
  return CheckpointConfig(**fields).make(
    workdir, json.dumps(_CONFIG), read_only=read_only
  )


def _state(step):
  # Orbax treats large arrays otherwise than small ones.
  rng = np.random.default_rng(step)
  return {
    'step': jnp.int32(step),
    'large': jnp.asarray(rng.normal(size=(30, 40)), jnp.float32),
    'small': jnp.asarray(rng.normal(size=3), jnp.bfloat16),
  }


def _save(workdir, *steps, **fields):
  with _make(workdir, **fields) as checkpointer:
    for step in steps:
      checkpointer.save(step, _state(step), {'top_1_accuracy': 1 / step})


def _assert_restores(checkpointer, step):
  restored = checkpointer.restore(_state(0))
  for name, array in _state(step).items():
    np.testing.assert_array_equal(restored[name], array, err_msg=name)
    assert restored[name].dtype == array.dtype


def _steps(workdir):
  return sorted(int(p.name) for p in (workdir / 'checkpoints').glob('[0-9]*'))


def _files(workdir, step):
  root = workdir / 'checkpoints' / str(step)
  return sorted(path for path in root.rglob('*') if path.is_file())


def _data_file(workdir, step):
  """Returns the file that holds the large array."""
  files = [p for p in _files(workdir, step) if 'ocdbt.process_0' in str(p)]
  return max(files, key=lambda path: path.stat().st_size)


def _flip(path, place=1000):
  data = bytearray(path.read_bytes())
  data[place] ^= 0b100
  path.write_bytes(data)


@pytest.fixture
def two(tmp_path):
  """A workdir with checkpoints of steps 1 and 2."""
  _save(tmp_path, 1, 2)
  return tmp_path


def test_no_flipped_byte_of_any_file_goes_unnoticed(two):
  rng = np.random.default_rng(0)
  num_noticed = 0
  files = _files(two, 2)
  assert len(files) > 10
  for path in files:
    data = path.read_bytes()
    places = rng.integers(len(data), size=3)
    for place in places:
      _flip(path, place)
      with _make(two, read_only=True) as checkpointer:
        step = int(checkpointer.restore(_state(0))['step'])
        _assert_restores(checkpointer, step)
        assert json.loads(checkpointer.saved_config_json()) == _CONFIG
      assert step in (1, 2)
      num_noticed += step == 1
      path.write_bytes(data)
  # Some files are not needed to restore, and text may say the same otherwise.
  assert num_noticed > 5


@pytest.mark.parametrize('damage', ['flip', 'cut', 'remove'])
def test_the_last_good_checkpoint_takes_the_place_of_a_damaged_one(
  two, damage, caplog
):
  path = _data_file(two, 2)
  if damage == 'flip':
    _flip(path)
  elif damage == 'cut':
    path.write_bytes(path.read_bytes()[:1000])
  else:
    path.unlink()
  expected = {p.name for p in (two / 'checkpoints' / '2').iterdir()}
  with _make(two) as checkpointer:
    _assert_restores(checkpointer, 1)
    assert checkpointer.latest_step() == checkpointer.best_step() == 1
    aside = two / 'damaged_checkpoints' / '2'
    assert {p.name for p in aside.iterdir()} == expected
    assert f'{two}/checkpoints/2 is damaged' in caplog.text
    assert str(aside) in caplog.text
    # The run comes to the same step again, which may be damaged again.
    checkpointer.save(2, _state(2))
  _flip(_data_file(two, 2))
  with _make(two) as checkpointer:
    _assert_restores(checkpointer, 1)
  assert sorted(p.name for p in aside.parent.iterdir()) == ['2', '2_2']
  assert _steps(two) == [1]


def test_what_a_damaged_manifest_says_is_not_believed(two):
  path = two / 'checkpoints' / '2' / 'manifest' / 'manifest.json'
  text = path.read_text()
  assert '"num_latents": 8' in text
  path.write_text(text.replace('"num_latents": 8', '"num_latents": 9'))
  with _make(two) as checkpointer:
    assert json.loads(checkpointer.saved_config_json()) == _CONFIG
    assert checkpointer.latest_step() == 1
  assert (two / 'damaged_checkpoints' / '2').exists()


def test_processes_that_see_other_checkpoints_are_told_before_they_act(
  two, monkeypatch
):
  seen = []

  def refuse(what, text):
    assert f'{two}/checkpoints' in what
    seen.append(text)
    raise ValueError('not the same')

  monkeypatch.setattr(store, 'check_same', refuse)
  newest = two / 'checkpoints' / '2'
  for change in (
    lambda: None,
    (newest / 'manifest' / 'manifest.json').unlink,
    lambda: shutil.rmtree(newest),
  ):
    change()
    with pytest.raises(ValueError, match='not the same'):
      _make(two)
  assert len(set(seen)) == 3
  assert not (two / 'damaged_checkpoints').exists()


def test_reading_only_reports_damage_and_leaves_it(two, caplog):
  _flip(_data_file(two, 2))
  with _make(two, read_only=True) as checkpointer:
    _assert_restores(checkpointer, 1)
  assert 'checkpoints/2 is damaged' in caplog.text
  assert _steps(two) == [1, 2]


def test_weights_are_taken_from_the_last_good_checkpoint(two):
  _flip(_data_file(two, 2))
  with _make(two, read_only=True) as checkpointer:
    assert checkpointer.restore_as_saved()['step'] == 1


def test_a_damaged_checkpoint_asked_for_by_step_is_refused(two):
  _flip(_data_file(two, 1))
  with (
    _make(two) as checkpointer,
    pytest.raises(DamagedCheckpointError, match='1 of 3 arrays .*: large'),
  ):
    checkpointer.restore(_state(0), step=1)


def test_a_run_that_is_all_damaged_is_not_taken_for_a_new_one(two):
  for step in (1, 2):
    _flip(_data_file(two, step))
  message = f'got damaged ones alone; .* move {two}/damaged_checkpoints away'
  for _ in range(2):
    with (
      _make(two) as checkpointer,
      pytest.raises(DamagedCheckpointError, match=message),
    ):
      checkpointer.restore(_state(0))
  with (
    _make(two) as checkpointer,
    pytest.raises(DamagedCheckpointError, match=message),
  ):
    checkpointer.saved_config_json()
  shutil.rmtree(two / 'damaged_checkpoints')
  with _make(two) as checkpointer:
    assert checkpointer.restore(_state(0)) is None


def test_another_model_is_not_damage_and_refused(two):
  target = _state(0) | {'small': jnp.zeros(4)}
  with _make(two) as checkpointer, pytest.raises(ValueError) as error:
    checkpointer.restore(target)
  assert not isinstance(error.value, DamagedCheckpointError)
  assert 'small: saved bfloat16[3], now float32[4]' in str(error.value)
  assert _steps(two) == [1, 2]


@pytest.mark.parametrize(
  'error',
  [
    PermissionError(errno.EACCES, 'Permission denied'),
    TimeoutError(errno.ETIMEDOUT, 'Connection timed out'),
    ConnectionResetError(errno.ECONNRESET, 'Connection reset by peer'),
    OSError(errno.ESTALE, 'Stale file handle'),
  ],
  ids=lambda error: errno.errorcode[error.errno],
)
def test_what_cannot_be_read_now_is_not_damage(two, monkeypatch, error):
  def refuse(*_, **__):
    raise error

  with _make(two) as checkpointer:
    monkeypatch.setattr(pathlib.Path, 'read_bytes', refuse)
    monkeypatch.setattr(
      'orbax.checkpoint.StandardCheckpointHandler.restore', refuse
    )
    with pytest.raises(type(error)) as raised:
      checkpointer.restore(_state(0))
    assert raised.value is error
  assert _steps(two) == [1, 2]


def test_the_last_good_checkpoint_stays_until_a_new_one_was_read_back(
  tmp_path, monkeypatch, caplog
):
  _save(tmp_path, 1, keep_last=1, keep_best=0)
  wait = Store.wait

  def wait_and_damage(self):
    wait(self)
    _flip(_data_file(tmp_path, 2))

  with _make(tmp_path, keep_last=1, keep_best=0) as checkpointer:
    with monkeypatch.context() as patch:
      patch.setattr(Store, 'wait', wait_and_damage)
      checkpointer.save(2, _state(2))
      assert checkpointer.latest_step() == 1
    assert 'Saving the state of step 2 failed' in caplog.text
    assert _steps(tmp_path) == [1]
    checkpointer.save(3, _state(3))
  assert _steps(tmp_path) == [3]
  assert (tmp_path / 'damaged_checkpoints' / '2').exists()


def _break(workdir):
  """Makes every save fail, for root as well."""
  shutil.move(workdir / 'checkpoints', workdir / 'kept')
  (workdir / 'checkpoints').write_text('a file in the place of a directory')


def _repair(workdir):
  (workdir / 'checkpoints').unlink()
  shutil.move(workdir / 'kept', workdir / 'checkpoints')


def test_failed_saves_are_reported_and_made_up_for(two, caplog):
  with _make(two, keep_last=2) as checkpointer:
    _break(two)
    for step in (3, 4):
      checkpointer.save(step, _state(step))
    assert checkpointer.latest_step() == 2
    assert 'Saving the state of step 3 failed' in caplog.text
    assert '2 saves in a row may fail, 2 did' in caplog.text
    assert 'last good checkpoint is that of step 2' in caplog.text
    _repair(two)
    checkpointer.save(5, _state(5))
    _assert_restores(checkpointer, 5)
  assert _steps(two) == [1, 2, 5]  # The first is the best.
  # Or the process would not end before they give up.
  assert not [t for t in threading.enumerate() if 'Signaling' in repr(t)]


def test_too_many_failed_saves_end_the_run_and_leave_the_last_good(two):
  with (
    pytest.raises(OSError, match='state of step 4 must .* that of step 2'),
    _make(two, max_failures=1) as checkpointer,
  ):
    _break(two)
    for step in range(3, 9):
      checkpointer.save(step, _state(step))
  assert step == 5
  _repair(two)
  with _make(two) as checkpointer:
    _assert_restores(checkpointer, 2)


def test_a_last_save_that_fails_is_an_error(two):
  checkpointer = _make(two, max_failures=9)
  _break(two)
  checkpointer.save(3, _state(3))
  with pytest.raises(OSError, match='state of step 3 must be saved in'):
    checkpointer.close()


def test_a_vanished_workdir_is_made_again(two, caplog):
  with _make(two, keep_last=1) as checkpointer:
    shutil.rmtree(two)
    checkpointer.save(3, _state(3))
    checkpointer.save(4, _state(4))
    _assert_restores(checkpointer, 4)
  assert _steps(two)[-1] == 4
