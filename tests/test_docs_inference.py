"""Every command and every line of Python in docs/inference.md runs."""

import json
import pathlib
import re
import shlex

import audioset_clips
import cv2
import jax
import numpy as np
import pytest
import tiny_models

import perceiver_jax
from perceiver_jax.predict import media
from perceiver_jax.predict.__main__ import main
from perceiver_jax.training.checkpoint import CheckpointConfig

_TEXT = (
  pathlib.Path(__file__).parents[1] / 'docs' / 'inference.md'
).read_text()
_COMMANDS = [
  shlex.split(line)
  for block in re.findall(r'```bash\n(.*?)```', _TEXT, re.DOTALL)
  for line in block.splitlines()
]


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  """A directory with all that the commands name, small."""
  directory = tmp_path_factory.mktemp('inference')
  for name, model in {
    'imagenet': tiny_models.images(),
    'language': tiny_models.text(),
    'flow': tiny_models.flow(24, 32),
    'autoencoder': tiny_models.autoencoder(),
    'audioset': tiny_models.tagger(),
  }.items():
    perceiver_jax.save_pretrained(directory / f'{name}.safetensors', *model)
  rng = np.random.default_rng(0)
  noise = rng.integers(0, 256, (30, 44, 3), np.uint8)
  photo = cv2.resize(noise, (88, 60), interpolation=cv2.INTER_CUBIC)
  for name in ('photo.jpg', 'other.png', 'frame1.png'):
    media.write_image(directory / name, photo)
  media.write_image(directory / 'frame2.png', np.roll(photo, 2, axis=1))
  (directory / 'classes.txt').write_text('ant\nbee\ncat\ndog\nelk\nfox\ngnu\n')
  video = np.stack([np.roll(photo, 3 * i, axis=1) for i in range(6)])
  sound = rng.uniform(-0.5, 0.5, (11_520, 1))
  media.write_video(directory / 'film.mp4', video, sound, 25, 48_000)
  audioset_clips.make_clip(directory / 'song.wav', size=None)
  rows = [f'{i},/m/{i:05},"Class, {i}"' for i in range(527)]
  text = '\n'.join(['index,mid,display_name', *rows])
  (directory / 'class_labels_indices.csv').write_text(text)
  _write_workdir(directory / 'runs' / 'audioset', tiny_models.tagger())
  return directory


def _write_workdir(workdir, model):
  """Writes the checkpoint of a run that did nothing."""
  config_json = json.dumps({'model': model.config.to_dict()})
  tree = {'params': model.params, 'model_state': model.state}
  with CheckpointConfig().make(workdir, config_json) as checkpointer:
    checkpointer.save(1, jax.tree.map(jax.numpy.asarray, tree))


@pytest.fixture
def run(files, monkeypatch, capsys):
  """Runs the command of a task and returns what it printed."""
  monkeypatch.chdir(files)

  def run(*beginning):
    outputs = []
    for command in _COMMANDS:
      assert command[:3] == ['python', '-m', 'perceiver_jax.predict']
      if command[3:][: len(beginning)] == list(beginning):
        main(command[3:])
        outputs.append(capsys.readouterr().out)
    return outputs

  return run


def _is_picture(path):
  image = media.read_image(path, 3)
  return min(image.shape[:2]) > 100 and len(np.unique(image)) > 50


def test_every_task_is_documented():
  assert {command[3] for command in _COMMANDS} == {
    'classify', 'attention', 'listen', 'fill_mask', 'flow', 'autoencode'
  }  # fmt: skip


def test_classify_prints_the_names(run):
  first, second = run('classify')
  of_photo = r'photo.jpg\n(  +\S+%  [a-z]{3}\n){3}'
  assert re.fullmatch(rf'{of_photo}other.png\n(.*\n){{3}}', first)
  assert second.count('\n') == 6


def test_attention_draws_a_picture(run):
  assert run('attention') == ['attention.png: 2 cross-attends of 3 latents\n']
  assert _is_picture('attention.png')


def test_listen_prints_classes_and_draws_a_picture(run):
  first, second = run('listen')
  line = r'  [01]\.\d{4}  Class, \d+\n'
  picture = 'listen.png: 2 cross-attends over the recording\n'
  assert re.fullmatch(rf'film.mp4\n({line}){{3}}{picture}', first)
  line = r'  [01]\.\d{4}  \d+\n'
  lacks = r'  \(without video, .*\)\n'
  assert re.fullmatch(rf'song.wav\n({line}){{5}}{lacks}{picture}', second)
  assert _is_picture('listen.png')


def test_fill_mask_prints_the_text(run):
  first, second = run('fill_mask')
  assert first.startswith('This is an incomplete sentence where some words are')
  assert first.count('0.') + first.count('1.000') >= 9
  assert second.startswith('A ')


def test_flow_draws_a_picture_and_saves_an_array(run):
  (output,) = run('flow')
  assert 'flow.png' in output
  assert _is_picture('flow.png')
  assert np.load('flow.npy').shape == (60, 88, 2)


def test_autoencode_draws_a_picture_and_makes_a_film(run):
  (output,) = run('autoencode')
  assert 'both.png: 2 clips above their reconstructions' in output
  assert _is_picture('both.png')
  assert len(media.read_video('made.mp4', (8, 8), 25, 9)) == 4
  assert len(media.read_audio('made.mp4', 48_000, 10_000)) >= 7680


def test_film_that_is_too_short_is_refused(files, monkeypatch):
  monkeypatch.chdir(files)
  video = np.zeros((1, 16, 16, 3), np.uint8)
  media.write_video('short.mp4', video, np.zeros((1920, 1)), 25, 48_000)
  with pytest.raises(SystemExit, match='short.mp4 must last for 0.08 s or'):
    main(['autoencode', 'autoencoder.safetensors', 'short.mp4'])


@pytest.mark.parametrize(
  ('command', 'message'),
  [
    (
      'classify imagenet.safetensors photo.jpg --class_names names.txt',
      'class_names must name 7 classes, got 0',
    ),
    (
      'autoencode autoencoder.safetensors film.mp4 --class_names names.txt',
      'class_names must name 3 classes, got 0',
    ),
    (
      'autoencode autoencoder.safetensors film.mp4 --clips 0',
      'clips must be at least 1, got 0',
    ),
    ('classify language.safetensors photo.jpg', 'ImageInput, got TextInput'),
    ('flow imagenet.safetensors a.png b.png', 'a FlowOutput, got LabelOutput'),
    ('flow flow.safetensors a b --output a.txt', 'a.txt must end in the name'),
    ('flow flow.safetensors a b --output no/a.png', 'no must be a directory'),
    ('attention imagenet.safetensors classes.txt', 'classes.txt must be an im'),
  ],
)
def test_command_that_cannot_work_is_refused(
  command, message, files, monkeypatch
):
  monkeypatch.chdir(files)
  (files / 'names.txt').write_text('')
  with pytest.raises(SystemExit, match=message):
    main(command.split())


@pytest.mark.usefixtures('same_precision')
def test_python_of_the_page_runs(files, monkeypatch, capsys):
  monkeypatch.chdir(files)
  names = {}
  for block in re.findall(r'```python\n(.*?)```', _TEXT, re.DOTALL):
    exec(block, names)
  assert names['first'].shape == (1, 1, 6, 50_176)
  assert names['last'].shape == (1, 1, 1, 6)
  assert names['flow'].shape == (60, 88, 2)
  assert 'pixels 3 + Fourier features 18 = 21' in capsys.readouterr().out
