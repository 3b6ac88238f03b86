"""The benchmarks of speed run, and compare what computes the same."""

import json
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# Of a machine with much else to do.
_TIMEOUT_SECS = 600


def _run(*arguments):
  ended = subprocess.run(
    [sys.executable, *arguments],
    cwd=ROOT / 'benchmarks',
    capture_output=True,
    text=True,
    timeout=_TIMEOUT_SECS,
  )
  assert ended.returncode == 0, ended.stderr
  return ended.stdout


@pytest.mark.slow
def test_training_steps_of_all_contenders_are_those_of_the_plain_one(tmp_path):
  pytest.importorskip('transformers')
  pytest.importorskip('perceiver_pytorch')
  path = tmp_path / 'rows.json'
  sizes = ['--image_size=24', '--num_blocks=2', '--num_latents=8']
  table = _run('train_step.py', *sizes, '--repeats=1', f'--json={path}')
  rows = json.loads(path.read_text())['rows']
  assert [(row['model'], row['contender']) for row in rows] == [
    ('perceiver', 'plain'),
    ('perceiver', 'ours'),
    ('perceiver', 'ours_cheap'),
    ('perceiver', 'ours_remat'),
    ('perceiver', 'lucidrains'),
    ('perceiver', 'lucidrains_published'),
    ('perceiver_io', 'plain'),
    ('perceiver_io', 'ours'),
    ('perceiver_io', 'ours_cheap'),
    ('perceiver_io', 'ours_remat'),
    ('perceiver_io', 'huggingface'),
  ]
  for row in rows:
    assert row['step_seconds'] > 0
    assert row['contender'] in table
    if row['contender'] == 'lucidrains':  # Another model.
      assert row['gradient_error'] is None
    else:
      assert row['logits_error'] < 1e-4
      assert row['gradient_error'] < 1e-3


@pytest.mark.slow
def test_memory_of_a_step_is_measured_in_a_process_for_each(tmp_path):
  pytest.importorskip('perceiver_pytorch')
  path = tmp_path / 'rows.json'
  contenders = ['ours', 'lucidrains', 'lucidrains_published']
  sizes = ['--image_size=24', '--num_blocks=2', '--num_latents=8']
  chosen = ['--models=perceiver', '--contenders', *contenders]
  _run('step_memory.py', *chosen, *sizes, f'--json={path}')
  ours, lucidrains, published = json.loads(path.read_text())
  # Parameters, two moments and the gradient; activations are small.
  state_bytes = 4 * 4 * 44_912_254
  for row in (ours, published):
    assert state_bytes < row['peak_bytes'] < 2 * state_bytes
  # Four times the state: wider MLPs, and two latent transformers.
  assert lucidrains['peak_bytes'] > 3 * published['peak_bytes']
  assert ours['program_bytes'] > 0 and published['program_bytes'] is None


@pytest.mark.slow
def test_memory_of_a_step_grows_less_than_that_of_the_plain_one(tmp_path):
  json_path, png_path = tmp_path / 'rows.json', tmp_path / 'curves.png'
  _run(
    'scaling.py',
    '--only=image_size',
    '--largest=64',
    '--repeats=1',
    f'--json={json_path}',
    f'--png={png_path}',
  )
  rows = json.loads(json_path.read_text())['rows']
  sizes = {(row['contender'], row['value']): row['mebibytes'] for row in rows}
  grown = {
    name: sizes[name, 64**2] - sizes[name, 32**2] for name in ('plain', 'ours')
  }
  assert 0 < grown['ours'] < grown['plain'] / 3
  assert png_path.read_bytes().startswith(b'\x89PNG')


@pytest.mark.slow
def test_speed_on_an_accelerator_is_measured(tmp_path):
  path = tmp_path / 'rows.json'
  sizes = ['--image_size=32', '--num_blocks=1', '--batch_size=2']
  presets = ['--presets', 'perceiver_io_conv']
  steps = ['--num_steps=1', f'--json={path}']
  table = _run('accelerator.py', *presets, *sizes, *steps)
  (row,) = json.loads(path.read_text())['rows']
  assert row['preset'] in table
  assert row['images_per_second'] == pytest.approx(2 * row['steps_per_second'])


@pytest.mark.slow
def test_clips_of_audioset_are_measured_beside_films(tmp_path):
  path = tmp_path / 'rows.json'
  small = ['--num_films=2', '--num_clips=8', '--num_decoded=2', '--repeats=1']
  table = _run('audioset_pipeline.py', *small, f'--json={path}')
  costs = json.loads(path.read_text())['cpu_ms']
  assert set(costs) == {
    'raw, mel',
    'video',
    'raw_video, mel_video',
    'FFmpeg, from the last key frame',
    'FFmpeg, from the beginning',
  }
  for name, cost in costs.items():
    assert cost > 0 and name in table


@pytest.mark.slow
def test_many_queries_are_decoded_in_less_memory_with_the_same_numbers(
  tmp_path,
):
  path = tmp_path / 'rows.json'
  flow = ['--cases=flow', '--fraction=46', '--repeats=1', '--chunk_sizes=992']
  _run('decoder.py', *flow, f'--json={path}')
  rows = json.loads(path.read_text())
  assert [row['algorithm'] for row in rows] == 2 * [
    'PLAIN',
    'CHUNKED',
    'ABSORBED',
  ]
  for plain, *others in (rows[:3], rows[3:]):
    for row in others:
      assert row['bytes'] < plain['bytes'] / 2
      assert row['error'] < 1e-4


@pytest.mark.slow
def test_decoders_that_need_too_much_memory_are_not_run(tmp_path):
  path = tmp_path / 'rows.json'
  video = ['--cases=video', '--fraction=16', '--repeats=1', '--max_gib=0.3']
  algorithms = ['--algorithms', 'PLAIN', 'ABSORBED']
  table = _run('decoder.py', *video, *algorithms, f'--json={path}')
  rows = json.loads(path.read_text())
  assert [row['algorithm'] for row in rows] == 2 * ['PLAIN', 'ABSORBED']
  for plain, absorbed in (rows[:2], rows[2:]):
    assert plain['seconds'] is None and plain['bytes'] > 0.3 * 2**30
    assert absorbed['seconds'] > 0 and absorbed['bytes'] < 0.3 * 2**30
  assert table.count('not run') == 2


@pytest.mark.slow
def test_commands_of_the_page_have_options_and_values_that_exist():
  page = (ROOT / 'docs' / 'performance.md').read_text()
  commands = re.findall(r'`python\s+benchmarks/([^`]+)`', page)
  scripts = set()
  for command in commands:
    script, *arguments = shlex.split(command)
    # Without the work: --help comes after the values have been read.
    text = _run(script, *arguments, '--help')
    for argument in arguments:
      if argument.startswith('--'):
        assert argument.split('=')[0] in text
    scripts.add(script)
  assert scripts == {
    'accelerator.py',
    'cross_attention.py',
    'decoder.py',
    'scaling.py',
    'step_memory.py',
    'train_step.py',
  }
