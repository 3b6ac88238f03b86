"""A job of many processes: how they are started, and that they are one job."""

import json
import re
import shutil
import socket
import subprocess

import jax
import local_processes
import many_processes
import pytest
from absl import flags

from perceiver_jax.training import distributed

pytestmark = pytest.mark.usefixtures('fast_compilation')


def _flags(*arguments):
  flag_values = flags.FlagValues()
  distributed.define_flags(flag_values)
  flag_values(['train.py', *arguments])
  return flag_values


def _no_cluster(*_, **__):
  raise ValueError('coordinator_address should be defined.')


def _join(*arguments):
  distributed.join(heeds_sigterm=True, flag_values=_flags(*arguments))


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--stall_timeout_secs=9'], r'stall_timeout_secs must come with'),
    (
      ['--distributed', '--stall_timeout_secs=0'],
      r'stall_timeout_secs must be positive and finite, got 0',
    ),
    (['--heartbeat_timeout_secs=9'], r'heartbeat_timeout_secs must come with'),
    (
      ['--distributed', '--heartbeat_timeout_secs=0'],
      r'heartbeat_timeout_secs must be positive and finite, got 0',
    ),
    (['--process_count=2'], r'--process_count must come with --distributed'),
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


def test_processes_that_cannot_meet_are_refused(monkeypatch):
  # What JAX says outside of the clusters that it knows.
  monkeypatch.setattr(jax.distributed, 'initialize', _no_cluster)
  with pytest.raises(ValueError, match='must come with --distributed where'):
    _join('--distributed')
  with socket.socket() as listener:
    listener.bind(('', 0))
    listener.listen()
    address = f'localhost:{listener.getsockname()[1]}'
    place = [f'--coordinator_address={address}', '--process_count=2']
    with pytest.raises(OSError, match=f'a port that is free .* {address}'):
      _join('--distributed', *place, '--process_index=0')


@pytest.mark.slow
def test_commands_of_the_page_are_one_job(tmp_path, monkeypatch):
  for name in ('configs', 'train.py'):
    (tmp_path / name).symlink_to(many_processes.ROOT / name)
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'data'))
  page = (many_processes.ROOT / 'docs' / 'many_processes.md').read_text()
  (block,) = re.findall(r'```bash\n(.*?)```', page, re.DOTALL)

  def run(mode):
    port = str(local_processes.free_port())
    commands = block.replace('8476', port).replace(
      '$meet', f'$meet --mode={mode}'
    )
    ended = subprocess.run(
      # Ends all that the commands have started, too.
      ['timeout', '--signal=KILL', '170', 'bash', '-euc', commands],
      cwd=tmp_path,
      capture_output=True,
      text=True,
      check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout, ended.stderr

  def results(said):
    # What gloo says of both processes stands between, with lines mixed.
    return re.findall(r'\{"step": .*\}', said)

  said, log = run('train')
  (trained,) = results(said)
  assert log.count('downloaded and prepared') == 1
  assert log.count('step 4/4') == 1
  assert json.loads(trained)['num_examples'] == 355
  workdir = tmp_path / 'runs' / 'two'
  assert len(list(workdir.glob('events.*'))) == 1
  before = {*workdir.rglob('*')}
  shutil.rmtree(workdir / 'evaluation')
  assert results(run('eval')[0]) == [trained]
  assert {*workdir.rglob('*')} == before
  summary, _ = run('dry_run')
  assert re.search('^devices +8 x cpu$', summary, re.MULTILINE)
