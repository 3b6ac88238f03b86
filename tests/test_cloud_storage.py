"""Runs in `gs://`, read and written by the clients that the cloud sees."""

import json
import pathlib
import re
import signal
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from cloud_storage import cloud_storage, download, make_bucket, upload
from etils import epath
from event_files import events
from fault_runs import differences, good_steps

from perceiver_jax.training import lasting_files
from perceiver_jax.training.checkpoint import CheckpointConfig
from perceiver_jax.training.metrics import MetricWriter, read_metrics
from perceiver_jax.training.store import check_writable

ROOT = pathlib.Path(__file__).parents[1]
_TIMEOUT_SECS = 170.0


@pytest.fixture(scope='module')
def storage(tmp_path_factory):
  """A storage that this process and those that it starts use."""
  with (
    cloud_storage(tmp_path_factory.mktemp('storage')) as here,
    pytest.MonkeyPatch.context() as patch,
  ):
    for name, value in here.environment().items():
      patch.setenv(name, value)
    yield here


@pytest.fixture
def bucket(storage, request):
  """A bucket of one test, empty."""
  storage.requests()
  yield make_bucket(storage, re.sub(r'\W|_', '-', request.node.name))
  storage.heal()


def test_a_bucket_is_left_as_it_was(bucket):
  check_writable(f'gs://{bucket.name}/runs/io')
  assert not list(bucket.list_blobs())


def _refusal(storage, workdir):
  with pytest.raises(OSError) as error:
    check_writable(workdir)
  assert len(storage.requests()) < 20
  (line,) = str(error.value).splitlines()
  assert line.startswith(
    f'workdir must be a directory that can be written to, got {workdir}: '
  )
  return line


def test_a_bucket_that_does_not_exist_is_refused(storage):
  storage.requests()
  assert ' 404 ' in _refusal(storage, 'gs://no-such-bucket/runs/io')


def test_a_bucket_that_refuses_files_is_refused(storage, bucket):
  storage.refuse('^POST', 403)
  assert ' 403 ' in _refusal(storage, f'gs://{bucket.name}/runs/io')


def test_a_bucket_that_cannot_be_reached_is_refused(storage, bucket):
  storage.refuse('', 503)
  assert ' 503 ' in _refusal(storage, f'gs://{bucket.name}/runs/io')


def _num_uploads(storage, name):
  """Returns how often a file was sent."""
  return sum(
    request.startswith('POST /upload') and request.endswith(f'name={name}')
    for request in storage.requests()
  )


def _losses(workdir):
  lines = read_metrics(workdir / 'metrics.jsonl')
  return {line['step']: line['loss'] for line in lines}


def test_metrics_are_sent_when_asked_for_and_not_at_each_line(
  storage, bucket, tmp_path
):
  workdir = epath.Path(f'gs://{bucket.name}/run')
  with MetricWriter(workdir) as writer:
    for step in range(1, 101):
      writer.write(step, 'train', {'loss': 0.5})
    assert _losses(workdir) == {}
    writer.flush()
    assert list(_losses(workdir)) == list(range(1, 101))
    writer.write(101, 'train', {'loss': 0.5})
  assert _losses(workdir)[101] == 0.5
  # As it was made, at the flush, and at the end.
  assert _num_uploads(storage, 'run/metrics.jsonl') == 3
  with MetricWriter(workdir, resume_step=100) as writer:
    writer.write(101, 'train', {'loss': 0.125})
  assert _losses(workdir) == dict.fromkeys(range(1, 101), 0.5) | {101: 0.125}
  download(bucket, 'run', tmp_path)
  seen = [v.simple_value for e in events(tmp_path) for v in e.summary.value]
  assert seen.count(0.5) == 101 and seen.count(0.125) == 1


def test_lines_are_sent_after_a_while(storage, bucket, monkeypatch):
  clock = [0.0]
  monkeypatch.setattr(lasting_files.time, 'monotonic', lambda: clock[0])
  path = epath.Path(f'gs://{bucket.name}/lines')
  lines = lasting_files.LineFile(path)
  lines.add('one\n')
  clock[0] = 9.0
  lines.add('two\n')
  assert path.read_text() == ''
  clock[0] = 11.0
  lines.add('three\n')
  assert path.read_text() == 'one\ntwo\nthree\n'
  send = type(path).write_bytes

  def send_slowly(self, data):
    clock[0] += 3.0
    return send(self, data)

  monkeypatch.setattr(type(path), 'write_bytes', send_slowly)
  lines.add('four\n')
  lines.flush()
  sent = clock[0]
  lines.add('five\n')
  for seconds, is_sent in (149.0, False), (151.0, True):
    clock[0] = sent + seconds
    lines.add('more\n')
    assert path.read_text().endswith('more\n') == is_sent


def test_lines_that_a_bucket_refuses_are_sent_later(storage, bucket, caplog):
  path = epath.Path(f'gs://{bucket.name}/lines')
  lines = lasting_files.LineFile(path)
  lines.add('one\n')
  lines.flush()
  for status in (403, 503):
    storage.refuse('^POST', status)
    for line in ('two\n', 'three\n'):
      lines.add(line)
      lines.flush()
    assert caplog.text.count(f'{path} cannot be written to') == 1
    assert path.read_text() == 'one\n'
    storage.heal()
    lines.flush()
    assert path.read_text() == 'one\ntwo\nthree\n'
    assert f'{path} can be written to again' in caplog.text
    caplog.clear()
    path.write_text('one\n')
    lines = lasting_files.LineFile(path)
  storage.refuse('^POST', 403)
  lines.add('four\n')
  lines.close()
  assert f'1 lines of {path} are lost' in caplog.text


def _make(workdir, **fields):
  return CheckpointConfig(**fields).make(workdir, '{}')


def _state(step):
  return {'x': jnp.arange(1000, dtype=jnp.float32) + step}


def _steps(bucket, directory='checkpoints'):
  """Returns the steps of which there is anything at all."""
  names = [blob.name for blob in bucket.list_blobs(prefix=f'run/{directory}/')]
  steps = {name.split('/')[2] for name in names} - {''}
  return sorted(map(int, steps))


@pytest.mark.slow
def test_checkpoints_are_kept_deleted_and_set_aside(storage, bucket, caplog):
  workdir = f'gs://{bucket.name}/run'
  with _make(workdir, keep_last=2, keep_best=0) as checkpointer:
    for step in (1, 2, 3):
      checkpointer.save(step, _state(step))
  assert _steps(bucket) == [2, 3]
  assert 'could not be deleted' not in caplog.text
  manifest = bucket.blob('run/checkpoints/3/manifest/manifest.json')
  manifest.upload_from_string(b'{}')
  with _make(workdir, keep_best=0) as checkpointer:
    restored = checkpointer.restore(_state(0))['x']
    np.testing.assert_array_equal(restored, _state(2)['x'])
  assert 'It is now' in caplog.text
  assert _steps(bucket) == [2]
  assert _steps(bucket, 'damaged_checkpoints') == [3]


def test_a_bucket_that_cannot_be_read_is_not_taken_for_damage(storage, bucket):
  workdir = f'gs://{bucket.name}/run'
  with _make(workdir) as checkpointer:
    checkpointer.save(1, _state(1))
  for pattern, status in (
    ('GET .*manifest.json', 403), ('GET .*/1/state', 403),
    ('GET .*manifest.json', 503),
  ):  # fmt: skip
    storage.refuse(pattern, status)
    with (
      pytest.raises(OSError, match=f' {status} '),
      _make(workdir) as checkpointer,
    ):
      checkpointer.restore(_state(0))
    storage.heal()
    assert _steps(bucket) == [1]
  with _make(workdir) as checkpointer:
    assert checkpointer.restore(_state(0)) is not None


def test_failed_saves_in_a_bucket_end_no_run(storage, bucket, caplog):
  with _make(f'gs://{bucket.name}/run', keep_best=0) as checkpointer:
    checkpointer.save(1, _state(1))
    assert checkpointer.latest_step() == 1
    storage.refuse('^POST', 403)
    checkpointer.save(2, _state(2))
    assert checkpointer.latest_step() == 1
    storage.heal()
    checkpointer.save(3, _state(3))
    assert checkpointer.latest_step() == 3
  assert 'Saving the state of step 2 failed' in caplog.text


class _Run:
  """Starts a training with a workdir, in its own process."""

  def __init__(self, directory):
    self._log = directory / 'log'

  def start(self, workdir, data_dir):
    command = [
      *(sys.executable, 'train.py', '--config=configs/digits.py:debug'),
      *(f'--workdir={workdir}', f'--config.data.data_dir={data_dir}'),
      *('--config.num_steps=8', '--config.checkpoint.every_steps=2'),
      '--config.checkpoint.keep_last=2',
    ]
    with self._log.open('w') as log:
      return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)

  def end(self, process):
    """Waits for the end; returns exit code and what was printed."""
    try:
      return process.wait(_TIMEOUT_SECS), self._log.read_text()
    finally:
      process.kill()


@pytest.mark.slow
@pytest.mark.usefixtures('fast_compilation')
def test_a_run_in_a_bucket_that_is_killed_comes_to_the_same_bits(
  storage, bucket, digits_dir, tmp_path
):
  run = _Run(tmp_path)
  status, text = run.end(run.start('gs://no-such-bucket/run', digits_dir))
  *_, line = text.splitlines()
  assert status == 1 and line.startswith('OSError: workdir must be a directory')
  assert 'Traceback' not in text

  status, text = run.end(run.start(tmp_path / 'uninterrupted', digits_dir))
  assert status == 0, text

  workdir = f'gs://{bucket.name}/run'
  data_dir = f'gs://{bucket.name}/data'
  upload(pathlib.Path(digits_dir), bucket, 'data')
  complete = r'^PUT .*name=run/checkpoints/{}/commit_success.txt'
  for pattern, number, code, steps in (
    # As soon as a checkpoint is complete, in a save, and for a preemption.
    (complete.format(2), signal.SIGKILL, -9, [2]),
    (r'^POST .*name=run/checkpoints/4/state/', signal.SIGKILL, -9, [2, 4]),
    (r'^PUT .*name=run/checkpoints/4/_CHECKPOINT', signal.SIGTERM, 0, None),
  ):
    process = run.start(workdir, data_dir)
    storage.send(pattern, process.pid, number)
    status, text = run.end(process)
    assert status == code, text
    if steps is not None:
      assert _steps(bucket) == steps
      lines = bucket.blob('run/metrics.jsonl').download_as_text().splitlines()
      # Those before a checkpoint are there when it is.
      assert {json.loads(line)['step'] for line in lines} >= {1, 2}
  status, text = run.end(run.start(workdir, data_dir))
  assert status == 0, text
  assert '"step": 8' in text

  download(bucket, 'run', tmp_path / 'killed')
  assert not differences(tmp_path / 'killed', tmp_path / 'uninterrupted')
  assert good_steps(tmp_path / 'killed') == good_steps(
    tmp_path / 'uninterrupted'
  )
  files = {path.name for path in (tmp_path / 'killed').iterdir()}
  assert files >= {'config.json', 'environment.json', 'log.txt', 'curves.png'}
  log = (tmp_path / 'killed' / 'log.txt').read_text()
  assert log.count('Goes on from step 2') == 2 and 'Ended.' in log
  assert log.count('/checkpoints/4 is only a part of a checkpoint') == 1
