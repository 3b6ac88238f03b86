"""Every command and every line of Python in the README runs."""

import json
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()

COMMANDS = [
  command.strip()
  for block in re.findall(r'```bash\n(.*?)```', README, re.DOTALL)
  for line in block.splitlines()
  for command in line.split('&&')
]
pytestmark = pytest.mark.usefixtures('fast_compilation')

TRAIN_COMMANDS = [c for c in COMMANDS if c.startswith('python train.py')]


@pytest.fixture(autouse=True)
def _prepared_digits(digits_dir, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', digits_dir)


def _run(command, tmp_path):
  """Runs `python ...` in a directory that has what the command names."""
  for name in ('configs', 'train.py'):
    if not (tmp_path / name).exists():
      (tmp_path / name).symlink_to(ROOT / name)
  arguments = shlex.split(command)
  assert arguments[0] == 'python'
  return subprocess.run(
    [sys.executable, *arguments[1:]],
    cwd=tmp_path,
    check=True,
    capture_output=True,
    text=True,
  ).stdout


def test_readme_has_the_commands_that_ci_runs():
  installs = [c for c in COMMANDS if not c.startswith('python train.py')]
  assert installs == [
    "pip install -e '.[train]'",
    "pip install -e '.[test]'",
    'pytest',
  ]
  ci = (ROOT / '.ci' / 'run').read_text()
  assert "-e '.[test]'" in ci
  assert '\npytest\n' in ci
  # The first one, with what it installs, is taken from the README itself.
  assert "sed -n '/^```bash$/{n;p;q}' README.md" in ci
  assert README.split('```bash\n')[1].startswith(
    "pip install -e '.[train]' && python train.py --config=configs/digits.py "
  )


@pytest.mark.slow
def test_short_train_commands_of_the_readme_run(tmp_path):
  short = TRAIN_COMMANDS[1:]
  assert len(short) == 3
  outputs = [_run(command, tmp_path) for command in short]
  assert '"step": 50' in outputs[0]
  assert 'parameters' in outputs[1]
  assert outputs[2] == outputs[0]


def test_presets_of_the_readme_are_all_with_their_parameters():
  rows = re.findall(
    r'^\| `(perceiver_\w+)(\(.*\))?` \| ([\d,]+) \|', README, re.M
  )
  stated = {
    f'{name}.{arguments[1:-1]}'.rstrip('.'): int(count.replace(',', ''))
    for name, arguments, count in rows
  }
  golden = {
    path.stem: json.loads(path.read_text())['num_params']
    for path in (ROOT / 'tests' / 'golden').glob('*.json')
    # The same models with another decoder.
    if 'use_attention_decoder' not in path.stem
  }
  assert stated == golden


@pytest.mark.slow
def test_python_of_the_readme_runs_at_full_size():
  blocks = re.findall(r'```python\n(.*?)```', README, re.DOTALL)
  names = {}
  for block in blocks:
    exec(block, names)
  assert names['logits'].shape == (1, 1000)
