"""A job comes to the same on two processes as on one, and survives them."""

import json
import re
import signal
import sys

import jax
import many_processes
import numpy as np
import pytest
import tiny_job_config
import tiny_runs
from fault_processes import MESSAGE

from perceiver_jax.training.job import abstract_state, make_job
from perceiver_jax.training.metrics import read_metrics

pytestmark = [
  pytest.mark.slow,
  pytest.mark.usefixtures('fast_compilation'),
]

# The order of sums in float32.
TOLERANCE = {'rtol': 2e-4, 'atol': 2e-5}
FOREVER = 1_000_000
SAVED_STEP = 30
# Longer than a start takes beside other tests; a test waits so long.
STALL_TIMEOUT_SECS = 60
HEARTBEAT_TIMEOUT_SECS = 20


def _run(data_dir, jobs, **kwargs):
  command = [sys.executable, tiny_runs.__file__, data_dir, *jobs]
  ended = many_processes.run(command, **kwargs)
  for process in ended:
    assert process.returncode == 0, process.stderr
  return ended


@pytest.fixture(scope='module')
def runs(digits_dir, tmp_path_factory):
  """Finished runs on one process of eight devices, on two of four, and both."""
  root = tmp_path_factory.mktemp('runs')
  one, two, back, forth = (
    root / name for name in ('one', 'two', 'back', 'forth')
  )
  # Weights and their average, of which each device has a part.
  started = f'started={one}/resumable:4'
  _run(
    digits_dir,
    [
      f'{one}/plain::6',
      f'{one}/resumable:resumable:6',
      f'{one}/started:{started}',
      f'{one}/resumable:resumable:eval:{one}/report',
      f'{forth}:resumable:4',
    ],
    num_devices=8,
  )
  ended = _run(
    digits_dir,
    [
      f'{two}/started:{started}',
      f'{two}/plain::6',
      f'{two}/resumable:resumable:6',
      f'{one}/resumable:resumable:eval:{two}/report',
      f'{forth}:resumable:6',
      f'{back}:resumable:4',
      f'{root}/at_odds::at_odds',
    ],
    num_processes=2,
    num_devices=4,
  )
  assert 'step 6/6' in ended[0].stderr
  assert 'step 6/6' not in ended[1].stderr
  for process in ended:
    assert 'workdir must be one directory for all' in process.stdout
    assert 'config must be the same in all processes' in process.stdout
    assert 'got 2 different ones' in process.stdout
  _run(digits_dir, [f'{back}:resumable:6'], num_devices=8)
  return root


def _lines(workdir, step=0):
  """Returns the metrics by step and split, but those of speed, after a step."""
  lines = read_metrics(workdir / 'metrics.jsonl')
  return {
    (line['step'], line['split']): line
    for line in lines
    if line['split'] != 'speed' and line['step'] > step
  }


def _state(workdir, digits_dir, variant):
  """Returns the newest state, and its step."""
  config = tiny_job_config.get_config(variant)
  config.data.data_dir = digits_dir
  with config.checkpoint.make(
    workdir, config.to_json(), read_only=True
  ) as checkpointer:
    state = checkpointer.restore(abstract_state(make_job(config)))
    return jax.device_get(state), checkpointer.latest_step()


def _assert_equal_lines(actual, expected):
  assert actual.keys() == expected.keys()
  for place, line in expected.items():
    assert actual[place].keys() == line.keys()
    for name, value in line.items():
      if name not in ('step', 'split'):
        np.testing.assert_allclose(
          actual[place][name], value, **TOLERANCE, err_msg=f'{place}/{name}'
        )


def _assert_close(actual, expected):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, **TOLERANCE), actual, expected
  )


@pytest.mark.parametrize('variant', ['', 'resumable'])
def test_two_processes_come_to_the_numbers_of_one(runs, digits_dir, variant):
  one, two = (runs / count / (variant or 'plain') for count in ('one', 'two'))
  assert len(_lines(one)) == 8
  _assert_equal_lines(_lines(two), _lines(one))
  for place, line in _lines(two).items():
    if place[1] == 'test':
      assert line['num_examples'] == 355
  states = [_state(workdir, digits_dir, variant) for workdir in (two, one)]
  assert [step for _, step in states] == [6, 6]
  _assert_close(states[0][0], states[1][0])


def test_two_processes_start_from_the_same_weights_as_one(runs):
  one, two = (_lines(runs / count / 'started') for count in ('one', 'two'))
  assert len(one) == 6
  _assert_equal_lines(two, one)
  # The weights are those of the end of another run.
  random = _lines(runs / 'one' / 'resumable')
  assert abs(one[1, 'train']['loss'] - random[1, 'train']['loss']) > 1e-3


def test_evaluation_sees_each_example_once_on_two_processes(runs):
  one, two = (runs / count / 'report' for count in ('one', 'two'))
  tables = [(where / 'per_class.csv').read_text() for where in (one, two)]
  assert tables[0] == tables[1]
  metrics = [
    json.loads((where / 'metrics.json').read_text()) for where in (one, two)
  ]
  assert metrics[0].keys() == metrics[1].keys()
  for name, value in metrics[0].items():
    np.testing.assert_allclose(metrics[1][name], value, rtol=1e-6)


def test_only_the_first_process_writes(runs):
  for workdir in (runs / 'two').iterdir():
    is_trained = (workdir / 'metrics.jsonl').exists()
    assert len(list(workdir.glob('events.*'))) == is_trained
    assert not [*workdir.glob('*.tmp'), *workdir.glob('.writable*')]


@pytest.mark.parametrize('direction', ['back', 'forth'])
def test_run_goes_on_with_another_number_of_processes(
  runs, digits_dir, direction
):
  whole, resumed = runs / 'one' / 'resumable', runs / direction
  lines = _lines(resumed)
  # That of the end of the first part.
  del lines[4, 'test']
  _assert_equal_lines(lines, _lines(whole))
  states = [
    _state(workdir, digits_dir, 'resumable') for workdir in (resumed, whole)
  ]
  _assert_close(states[0][0], states[1][0])


@pytest.fixture
def command(digits_dir, tmp_path):
  """A run without end, so long that it is seldom busy with a checkpoint."""
  return [
    *many_processes.TRAIN,
    '--config=tests/tiny_job_config.py:resumable',
    f'--config.data.data_dir={digits_dir}',
    f'--workdir={tmp_path / "run"}',
    f'--config.num_steps={FOREVER}',
    f'--config.checkpoint.every_steps={SAVED_STEP}',
    f'--config.evaluate_every_steps={SAVED_STEP}',
  ]


def test_killed_process_ends_the_others_and_nothing_is_lost(
  command, tmp_path, digits_dir
):
  checkpoint = tmp_path / 'run' / 'checkpoints' / str(SAVED_STEP)
  with many_processes.start(command, num_processes=2, num_devices=4) as job:
    many_processes.signal_when(job, 1, signal.SIGKILL, checkpoint)
    survivor, killed = job.wait(300)
  assert killed.returncode == -signal.SIGKILL
  assert survivor.returncode not in (0, -signal.SIGKILL)
  assert MESSAGE.search(survivor.stderr), survivor.stderr
  _, step = _state(tmp_path / 'run', digits_dir, 'resumable')
  assert step >= SAVED_STEP
  (ended,) = many_processes.run(
    [*command, f'--config.num_steps={step + 2}'], num_devices=8
  )
  assert ended.returncode == 0, ended.stderr
  assert json.loads(ended.stdout)['step'] == step + 2
  whole = _lines(tmp_path / 'run')
  trained = [step for step, split in whole if split == 'train']
  assert trained == list(range(1, step + 3))


def test_all_processes_name_the_operation_that_made_the_first_nan(
  digits_dir, tmp_path
):
  command = [
    *many_processes.TRAIN,
    '--config=tests/tiny_job_config.py:log_of_negative',
    f'--config.data.data_dir={digits_dir}',
    f'--workdir={tmp_path}',
    '--debug_nans',
  ]
  ended = many_processes.run(command, num_processes=2, num_devices=4)
  for process in ended:
    assert process.returncode not in (0, None), process.stderr
  # The other may be ended before it has said so, too.
  said = ''.join(process.stderr for process in ended)
  assert re.search(
    r'in step 3\. The first NaN on device \d+ of process 1 is of the operation '
    r'log, from .*poisoned\.py, line',
    said,
  )
  assert 'operation psum' not in said


def test_stopped_process_ends_the_others(command, tmp_path, digits_dir):
  checkpoint = tmp_path / 'run' / 'checkpoints' / str(SAVED_STEP)
  command += [f'--stall_timeout_secs={STALL_TIMEOUT_SECS}']
  with many_processes.start(command, num_processes=2, num_devices=4) as job:
    many_processes.signal_when(job, 1, signal.SIGSTOP, checkpoint)
    assert job.processes[0].wait(STALL_TIMEOUT_SECS + 90) == 1
    said = job.text(0)
  assert f'has ended for {STALL_TIMEOUT_SECS} s: this process or ano' in said
  # Where it was.
  assert 'loop.py' in said
  _, step = _state(tmp_path / 'run', digits_dir, 'resumable')
  assert step >= SAVED_STEP


def test_process_that_is_not_heard_of_ends_the_others(command, tmp_path):
  checkpoint = tmp_path / 'run' / 'checkpoints' / str(SAVED_STEP)
  command += [f'--heartbeat_timeout_secs={HEARTBEAT_TIMEOUT_SECS}']
  with many_processes.start(command, num_processes=2, num_devices=4) as job:
    many_processes.signal_when(job, 1, signal.SIGSTOP, checkpoint)
    # By JAX, whose own time-out is longer than this.
    assert job.processes[0].wait(60) == -signal.SIGABRT
    said = job.text(0)
  assert 'heartbeat' in said
  assert 'another task died' in said


@pytest.mark.parametrize('exit_code', [0, 42])
def test_sigterm_to_one_process_saves_the_same_step_on_all(
  command, tmp_path, digits_dir, exit_code
):
  workdir = tmp_path / 'run'
  checkpoint = workdir / 'checkpoints' / str(SAVED_STEP)
  if exit_code:
    command += [f'--preempted_exit_code={exit_code}']
  with many_processes.start(command, num_processes=2, num_devices=4) as job:
    many_processes.signal_when(job, 1, signal.SIGTERM, checkpoint)
    # A second one, as some clusters send it, changes nothing.
    job.processes[1].send_signal(signal.SIGTERM)
    ended = job.wait(100)
  for process in ended:
    assert process.returncode == exit_code, process.stderr
  said = json.loads(ended[0].stdout.splitlines()[-1])
  stopped = said.pop('step')
  assert not said
  for process in ended:
    assert f'Told to stop after step {stopped} of {FOREVER}' in process.stderr
  assert _state(workdir, digits_dir, 'resumable')[1] == stopped
  if exit_code:
    return
  # What goes on from there is bit by bit what was never stopped.
  whole = tmp_path / 'whole'
  jobs = [f'{place}:resumable:{stopped + 2}' for place in (workdir, whole)]
  _run(digits_dir, jobs, num_processes=2, num_devices=4)
  states = [
    _state(place, digits_dir, 'resumable')[0] for place in (workdir, whole)
  ]
  jax.tree.map(np.testing.assert_array_equal, *states)
  stopped, whole = (_lines(place) for place in (workdir, whole))
  for place, line in whole.items():
    # Evaluations were at other steps.
    assert place[1] == 'test' or stopped[place] == line
