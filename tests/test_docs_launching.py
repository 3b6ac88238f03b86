"""What docs/tpu.md and docs/gpu.md tell to type is right, where it is ours."""

import functools
import importlib.util
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest
import yaml
from absl import flags

from perceiver_jax.training import command_line, distributed
from perceiver_jax.training.dry_run import dry_run

# How ml_collections loads a file.
pytestmark = pytest.mark.filterwarnings('ignore:the load_module')

ROOT = pathlib.Path(__file__).parents[1]
PAGES = {
  name: (ROOT / 'docs' / name).read_text() for name in ('tpu.md', 'gpu.md')
}
BLOCKS = [
  block
  for text in PAGES.values()
  for block in re.findall(r'```bash\n(.*?)```', text, re.DOTALL)
]
# Also within the quotes of `--command="..."`.
COMMANDS = sorted(
  {
    command.replace('$BUCKET', 'bucket')
    for block in BLOCKS
    for command in re.findall(r'python (train\.py [^"&>|\n]*)', block)
  }
)


def _parse(command, monkeypatch):
  """Returns the flags of a command, as `train.py` parses them."""
  argv = shlex.split(command)
  values = flags.FlagValues()
  spec = importlib.util.spec_from_file_location('train', ROOT / argv[0])
  # The program defines its flags when it is loaded, among those of all.
  monkeypatch.setattr(flags, 'FLAGS', values)
  for name in ('DEFINE_string', 'DEFINE_enum', 'DEFINE_bool', 'DEFINE_integer'):
    define = functools.partial(getattr(flags, name), flag_values=values)
    monkeypatch.setattr(flags, name, define)
  for module, name in (
    (command_line, 'define_config'),
    (command_line, 'define_profile_steps'),
    (command_line, 'define_preempted_exit_code'),
    (distributed, 'define_flags'),
  ):
    define = functools.partial(getattr(module, name), flag_values=values)
    monkeypatch.setattr(module, name, define)
  monkeypatch.setattr(sys, 'argv', argv)
  monkeypatch.chdir(ROOT)
  sys.modules.pop('config_config', None)
  spec.loader.exec_module(importlib.util.module_from_spec(spec))
  assert command_line.parse_flags(argv, values) == argv[:1]
  distributed.check_flags(values)
  return values


def test_there_are_commands():
  assert len(BLOCKS) >= 10
  assert len(COMMANDS) >= 9
  assert len(_IN_BACKGROUND) == 2
  text = '\n'.join(BLOCKS)
  for word in ('gs://$BUCKET/data', '--mode=eval', '--distributed'):
    assert word in text


@pytest.mark.parametrize('block', BLOCKS)
def test_blocks_are_of_bash(block):
  subprocess.run(['bash', '-n'], input=block, text=True, check=True)


_IN_BACKGROUND = sorted(
  set(re.findall(r'--command="(.* && \{ .* & \})"', PAGES['tpu.md']))
)


@pytest.mark.parametrize('command', _IN_BACKGROUND)
def test_what_goes_on_in_the_background_lets_the_shell_go(command, tmp_path):
  """As `ssh` does, this waits for all who may still write to the pipe."""
  for name in ('python', 'venv/bin/activate', 'perceiver_jax/train.py'):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text('')
  (tmp_path / 'python').write_text('#!/bin/sh\nsleep 60 & echo $!; wait\n')
  (tmp_path / 'python').chmod(0o755)
  subprocess.run(
    ['bash', '-c', command],
    env={'HOME': str(tmp_path), 'PATH': f'{tmp_path}:/usr/bin:/bin'},
    cwd=tmp_path,
    capture_output=True,
    check=True,
    timeout=30,
  )
  log = tmp_path / 'perceiver_jax' / 'train.log'
  while not (text := log.read_text()).endswith('\n'):
    time.sleep(0.01)
  os.kill(int(text), signal.SIGTERM)


@pytest.mark.parametrize('command', COMMANDS)
def test_flags_exist_and_suit(command, monkeypatch):
  values = _parse(command, monkeypatch)
  assert values['config'].value.data.data_dir.endswith(('data', 'tfds'))
  if values['mode'].value != 'dry_run':
    assert values['workdir'].value


def test_a_process_of_slurm_has_the_cpus_of_its_workers():
  (job,) = (block for block in BLOCKS if block.startswith('#!'))
  asked, given = re.findall(r'(?:#SBATCH|srun) --cpus-per-task=(\d+)', job)
  # `srun` does not take it from `sbatch`.
  assert asked == given
  (num_workers,) = re.findall(r'--config\.data\.num_workers=(\d+)', job)
  assert int(num_workers) < int(given)


def test_a_process_of_slurm_has_a_gpu():
  counts = re.findall(
    r'#SBATCH --(?:ntasks|gpus)-per-node=(\d+)', PAGES['gpu.md']
  )
  assert len(counts) == 2
  assert counts[0] == counts[1]


def test_manifest_starts_processes_that_meet(monkeypatch):
  (text,) = re.findall(r'```yaml\n(.*?)```', PAGES['gpu.md'], re.DOTALL)
  service, job = yaml.safe_load_all(text)
  spec = job['spec']
  pod = spec['template']['spec']
  (container,) = pod['containers']
  (script,) = container['args']
  subprocess.run(['bash', '-n'], input=script, text=True, check=True)
  name = job['metadata']['name']
  label = {'batch.kubernetes.io/job-name': name}
  assert service['spec']['selector'] == label
  assert service['metadata']['name'] == pod['subdomain']
  assert spec['completions'] == spec['parallelism']
  mounts = {m['name']: m['mountPath'] for m in container['volumeMounts']}
  assert mounts.keys() == {volume['name'] for volume in pod['volumes']}
  (command,) = re.findall(r'exec python (train\.py .*)', script)
  for index in range(spec['completions']):
    values = _parse(
      command.replace('$JOB_COMPLETION_INDEX', str(index)), monkeypatch
    )
    assert values['process_index'].value == index
  assert values['process_count'].value == spec['completions']
  host, _ = values['coordinator_address'].value.split(':')
  assert host == f'{name}-0.{pod["subdomain"]}'
  assert values['workdir'].value.startswith(mounts['shared'])
  rules = spec['podFailurePolicy']['rules']
  ignored = [rule['onExitCodes'] for rule in rules if 'onExitCodes' in rule]
  code = values['preempted_exit_code'].value
  assert code
  assert ignored == [{'operator': 'In', 'values': [code]}]
  assert pod['restartPolicy'] == 'Never'  # What such rules need.


@pytest.mark.slow
def test_jobs_of_the_pages_run_dry(imagenet_dir, monkeypatch):
  jobs = {}
  for command in COMMANDS:
    config = _parse(command, monkeypatch)['config'].value.copy()
    config.data.data_dir = imagenet_dir
    config.data.num_workers = 0
    jobs[config.to_json()] = config
  assert len(jobs) > 1
  for config in jobs.values():
    assert '48,440,627' in dry_run(config)


@pytest.mark.slow
def test_costs_are_those_that_are_computed():
  ended = subprocess.run(
    [sys.executable, 'costs.py'],
    cwd=ROOT / 'benchmarks',
    capture_output=True,
    text=True,
    check=True,
  )
  assert ended.stdout in PAGES['tpu.md']
