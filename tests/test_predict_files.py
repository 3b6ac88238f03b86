"""Files are read and written as they are meant, by other programs too."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tiny_models
from PIL import Image

import perceiver_jax
from perceiver_jax.predict import media
from perceiver_jax.predict.__main__ import main


def _colours(seed=0):
  return np.random.default_rng(seed).integers(0, 256, (6, 9, 3), np.uint8)


def test_image_is_read_as_pillow_wrote_it(tmp_path):
  Image.fromarray(_colours()).save(tmp_path / 'a.png')
  np.testing.assert_array_equal(
    media.read_image(tmp_path / 'a.png', 3), _colours()
  )
  Image.fromarray(_colours()[..., 0]).save(tmp_path / 'grey.png')
  np.testing.assert_array_equal(
    media.read_image(tmp_path / 'grey.png', 1), _colours()[..., :1]
  )


def test_photo_is_turned_as_its_camera_says(tmp_path):
  image = np.zeros((40, 60, 3), np.uint8)
  image[:, :20, 0] = 255
  exif = Image.Exif()
  exif[0x0112] = 6  # To be turned clockwise.
  Image.fromarray(image).save(tmp_path / 'a.jpg', exif=exif, quality=95)
  read = media.read_image(tmp_path / 'a.jpg', 3).astype(int)
  assert read.shape == (60, 40, 3)
  assert np.abs(read - np.rot90(image, -1)).mean() < 5


def test_image_is_written_as_pillow_reads_it(tmp_path):
  media.write_image(tmp_path / 'a.png', _colours())
  with Image.open(tmp_path / 'a.png') as image:
    np.testing.assert_array_equal(np.asarray(image), _colours())


def _film(seconds):
  """Returns frames at 50 Hz that get brighter, and a tone at 24,000 Hz."""
  count = int(50 * seconds)
  video = np.zeros((count, 32, 48, 3), np.uint8)
  video[:, :, 8:40] = np.linspace(0, 250, count).astype(np.uint8)[
    :, None, None, None
  ]
  times = np.arange(int(24_000 * seconds)) / 24_000
  tone = 0.5 * np.sin(2 * np.pi * 600 * times).astype(np.float32)
  return video, np.stack([tone, 0 * tone], axis=1)


def test_video_and_sound_survive_a_file_at_another_rate(tmp_path):
  video, audio = _film(1.0)
  path = tmp_path / 'film.mp4'
  media.write_video(path, video, audio, 50, 24_000)
  frames = media.read_video(path, (16, 16), 25, 100)
  assert frames.shape == (25, 16, 16, 3)
  # The middle square, every second frame.
  expected = video[::2, 0, 20, 0].astype(int)
  assert np.abs(frames[:, 8, 8, 0] - expected).max() < 12
  assert np.abs(frames[:, 8, 1, 0] - expected).max() < 12
  assert len(media.read_video(path, (16, 16), 25, 7)) == 7
  sound = media.read_audio(path, 48_000, 100_000)
  assert abs(len(sound) - 48_000) < 3000 and sound.shape[1] == 1
  assert len(media.read_audio(path, 48_000, 777)) == 777
  # The first channel alone, at its loudness and pitch.
  middle = sound[12_000:36_000, 0]
  assert middle.std() == pytest.approx(0.5 / np.sqrt(2), rel=0.1)
  assert np.abs(np.fft.rfft(middle)).argmax() * 2 == 600


@pytest.mark.parametrize(
  'read',
  [
    lambda path: media.read_image(path, 3),
    lambda path: media.read_video(path, (4, 4), 25, 1),
    lambda path: media.read_audio(path, 48_000, 9),
  ],
)
def test_what_is_no_medium_is_refused(read, tmp_path):
  with pytest.raises(FileNotFoundError):
    read(tmp_path / 'missing')
  for text in ('', 'not a medium'):
    (tmp_path / 'notes.txt').write_text(text)
    with pytest.raises(ValueError, match=r'notes.txt must (be|have)'):
      read(tmp_path / 'notes.txt')


def test_film_without_sound_is_refused(tmp_path):
  Image.fromarray(_colours()).save(tmp_path / 'still.png')
  with pytest.raises(ValueError, match='still.png must have sound'):
    media.read_audio(tmp_path / 'still.png', 48_000, 9)


def test_unknown_kinds_of_files_are_refused(tmp_path):
  with pytest.raises(ValueError, match='must end in the name of a kind of ima'):
    media.write_image(tmp_path / 'a.unknown', _colours())
  video, audio = _film(0.1)
  with pytest.raises(ValueError, match='must end in the name of a kind of vid'):
    media.write_video(tmp_path / 'a.unknown', video, audio, 50, 24_000)


@pytest.mark.parametrize('suffix', ['unknown', 'wav', 'gif'])
def test_video_that_is_not_written_over_a_file_is_an_error(suffix, tmp_path):
  path = tmp_path / f'a.{suffix}'
  path.write_bytes(b'old')
  message = 'must end in .* kind of video, .* got: .+'
  with pytest.raises(ValueError, match=message) as error:
    media.write_video(path, *_film(0.1), 50, 24_000)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('command', 'message'),
  [
    ('flow MODEL a.png b.png --array out', 'out must end in .npy'),
    ('flow MODEL a.png b.png --array no/o.npy', 'no must be a directory'),
    ('flow MODEL a.png b.png --output no/o.png', 'no must be a directory'),
    ('flow MODEL a.png b.png --output o.foo', 'o.foo must end in .* image'),
    (
      'autoencode MODEL film.mp4 --reconstruction made.foo',
      'made.foo must end in .* video',
    ),
    (
      'autoencode MODEL film.mp4 --reconstruction no/made.mp4',
      'no must be a directory',
    ),
    ('attention MODEL a.png --output o.foo', 'o.foo must end in .* image'),
  ],
)
def test_outputs_are_checked_before_the_model_is_read(
  command, message, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(SystemExit, match=message):
    main(command.split())


def test_all_that_can_be_written_passes_the_check(tmp_path):
  media.check_array_path(tmp_path / 'a.npy')
  media.check_image_path(tmp_path / 'a.png')
  for suffix in ('mp4', 'mkv', 'webm'):
    media.check_video_path(tmp_path / f'a.{suffix}')
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ('command', 'model'),
  [
    ('classify MODEL a.png', tiny_models.images),
    ('fill_mask MODEL [MASK]', tiny_models.text),
    ('flow MODEL a.png a.png', lambda: tiny_models.flow(24, 32)),
    ('autoencode MODEL a.mp4', tiny_models.autoencoder),
  ],
)
def test_batch_size_of_a_command_is_obeyed(
  command, model, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  perceiver_jax.save_pretrained('MODEL', *model())
  media.write_image('a.png', np.zeros((24, 32, 3), np.uint8))
  media.write_video('a.mp4', *_film(0.3), 50, 24_000)
  message = 'batch_size must be at least 1, got 0'
  with pytest.raises(SystemExit, match=message):
    main([*command.split(), '--batch_size', '0'])


@pytest.mark.parametrize('module', ['cv2', 'imageio_ffmpeg', 'matplotlib'])
def test_command_without_its_extra_names_it_in_one_line(module, tmp_path):
  # Python imports this file by itself when it starts.
  hidden = f'import sys\nsys.modules[{module!r}] = None\n'
  (tmp_path / 'sitecustomize.py').write_text(hidden)
  path = os.pathsep.join([str(tmp_path), *sys.path])
  done = subprocess.run(
    [sys.executable, '-m', 'perceiver_jax.predict', '--help'],
    env=os.environ | {'PYTHONPATH': path},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 1
  (line,) = done.stderr.splitlines()
  assert 'needs the extra [predict]' in line and module in line


def test_command_says_in_one_line_what_is_wrong(tmp_path):
  with pytest.raises(SystemExit) as error:
    main(['classify', str(tmp_path / 'missing.safetensors'), 'a.png'])
  assert 'missing.safetensors' in error.value.code
  assert '\n' not in error.value.code
