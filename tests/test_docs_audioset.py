"""Every command and every line of Python in docs/audioset.md runs."""

import importlib.util
import json
import pathlib
import re
import shlex

import audioset_clips
import pytest

from perceiver_jax.data.audioset import clips, cluster
from perceiver_jax.data.audioset.__main__ import main
from perceiver_jax.data.audioset.builder import Preparation

_TEXT = (pathlib.Path(__file__).parents[1] / 'docs' / 'audioset.md').read_text()
_COMMANDS = [
  shlex.split(line)
  for block in re.findall(r'```bash\n(.*?)```', _TEXT, re.DOTALL)
  for line in block.splitlines()
]


@pytest.fixture(scope='module')
def directory(tmp_path_factory):
  """A directory in which all commands of the page, in order, have been run."""
  directory = tmp_path_factory.mktemp('audioset')
  manual_dir = directory / 'MANUAL'
  audioset_clips.write_classes(manual_dir)
  ids = [f'--{number}gqARaEJE' for number in range(3)]
  audioset_clips.write_list(
    manual_dir, 'eval', [(video_id, 0, 2, [1, 3]) for video_id in ids]
  )
  for video_id in ids[:2]:
    audioset_clips.make_clip(manual_dir / 'clips' / f'{video_id}_0.000.mp4')
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(directory)
    for command in _COMMANDS:
      assert command[:3] == ['python', '-m', 'perceiver_jax.data.audioset']
      if _can_run(command):
        main(command[3:])
  return directory


def _can_run(command):
  is_beam = any(part.startswith('--beam_options') for part in command)
  return not is_beam or importlib.util.find_spec('apache_beam')


def test_commands_of_the_page_make_what_they_name(directory):
  for command in filter(_can_run, _COMMANDS):
    (data_dir,) = (p[11:] for p in command if p.startswith('--data_dir='))
    report = directory / data_dir / 'audioset' / '1.0.0' / 'report.json'
    counts = json.loads(report.read_text())['eval']
    listed = {'PART1': (2, 1), 'PART2': (1, 1)}.get(data_dir, (3, 2))
    assert (counts['listed'], counts['prepared']) == listed
    # The page says what each of the counts is.
    table = _TEXT.split('| count | |')[1].split('\n\n')[0]
    assert re.findall(r'^\| `(\w+)` \|', table, re.M) == list(counts)


def test_clusters_of_the_page_have_flags_that_beam_knows():
  pytest.importorskip('apache_beam')
  flags = re.findall(r"--beam_options='([^']*)'", _TEXT)
  assert len(flags) == 4
  for each in flags:
    cluster.pipeline_options(shlex.split(each))


def test_python_of_the_page_runs(directory, monkeypatch, capsys):
  monkeypatch.chdir(directory)
  for block in re.findall(r'```python\n(.*?)```', _TEXT, re.DOTALL):
    exec(block, {})
  assert capsys.readouterr().out.splitlines() == [
    "b'--0gqARaEJE' ['Music', 'Male speech, man speaking']",
    '2.0 2.0',
  ]


def test_file_names_and_defaults_of_the_page_are_true(tmp_path):
  table = _TEXT.split('| name | made so by |')[1].split('\n\n')[0]
  names = re.findall(r'`(\S+\.\w+)`', table)
  assert len(names) == 7
  for name in names:
    assert clips._NAME.fullmatch(pathlib.Path(name).stem)['id'] == (
      '--4gqARaEJE'
    )
  default = Preparation().segments_per_shard
  assert f'--segments_per_shard={default}`' in _TEXT
  formats = ', '.join(suffix[1:] for suffix in clips.SUFFIXES[:-1])
  assert f'{formats} or {clips.SUFFIXES[-1][1:]} files' in _TEXT
