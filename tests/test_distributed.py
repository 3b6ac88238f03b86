"""A job of many processes: how they are started, and that they are one job."""

import json
import socket

import many_processes
import pytest
from absl import flags

from perceiver_jax.training import distributed

TINY = '--config=tests/tiny_job_config.py'

pytestmark = pytest.mark.usefixtures('fast_compilation')


def _flags(*arguments):
  flag_values = flags.FlagValues()
  distributed.define_flags(flag_values)
  flag_values(['train.py', *arguments])
  return flag_values


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--process_count=2'], r'process_count=2 must come with --distributed'),
    (
      ['--distributed', '--process_count=2', '--process_index=0'],
      r'together or not at all, got --process_count=2 --process_index=0\.',
    ),
    (
      [
        '--distributed',
        '--coordinator_address=host',
        '--process_count=2',
        '--process_index=0',
      ],
      r"must be HOST:PORT, got 'host'",
    ),
    (
      [
        '--distributed',
        '--coordinator_address=host:1234',
        '--process_count=2',
        '--process_index=2',
      ],
      r'must be in 0\.\.1, for --process_count is 2, got 2',
    ),
    (
      [
        '--distributed',
        '--coordinator_address=host:1234',
        '--process_count=0',
        '--process_index=0',
      ],
      r'process_count must be at least 1, got 0',
    ),
  ],
)
def test_flags_that_contradict_each_other_are_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    distributed.check_flags(_flags(*arguments))


@pytest.mark.parametrize(
  'arguments',
  [
    [],
    ['--distributed'],
    [
      '--distributed',
      '--coordinator_address=[::1]:1234',
      '--process_count=2',
      '--process_index=1',
    ],
  ],
)
def test_flags_that_fit_are_accepted(arguments):
  distributed.check_flags(_flags(*arguments))


def test_processes_that_cannot_meet_are_refused():
  with pytest.raises(ValueError, match='must come with --distributed where'):
    distributed.join(_flags('--distributed'))
  with socket.socket() as listener:
    listener.bind(('', 0))
    listener.listen()
    address = f'localhost:{listener.getsockname()[1]}'
    place = [f'--coordinator_address={address}', '--process_count=2']
    with pytest.raises(OSError, match=f'a port that is free .* {address}'):
      distributed.join(_flags('--distributed', *place, '--process_index=0'))


@pytest.mark.slow
def test_two_processes_prepare_data_train_and_evaluate_once(tmp_path):
  workdir = tmp_path / 'run'
  env = {'TFDS_DATA_DIR': str(tmp_path / 'data')}

  def run(*arguments):
    command = [*many_processes.TRAIN, TINY, f'--workdir={workdir}', *arguments]
    first, second = many_processes.run(
      command, num_processes=2, num_devices=2, env=env
    )
    for ended in (first, second):
      assert ended.returncode == 0, ended.stderr
    # Process 0 speaks for both.
    assert '{' not in second.stdout
    return first, second

  first, second = run()
  assert 'downloaded and prepared' in first.stderr
  assert 'step 6/6' in first.stderr
  assert not second.stderr
  trained = json.loads(first.stdout.splitlines()[-1])
  assert trained['num_examples'] == 355
  assert len(list(workdir.glob('events.*'))) == 1
  before = {*workdir.rglob('*')}
  first, _ = run('--mode=eval')
  assert json.loads(first.stdout.splitlines()[-1]) == trained
  report = workdir / 'evaluation'
  added = {*workdir.rglob('*')} - before
  assert added == {report, *report.iterdir()}
  first, _ = run('--mode=dry_run')
  assert '4 x cpu' in first.stdout
