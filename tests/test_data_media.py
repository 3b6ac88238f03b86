"""Sound and frames of files, as data sets read them."""

import subprocess

import audioset_clips
import cv2
import numpy as np
import pytest

from perceiver_jax import ffmpeg
from perceiver_jax.data import media


def _ffmpeg(*arguments):
  command = [ffmpeg.executable(), '-v', 'error', '-y', *arguments]
  subprocess.run(list(map(str, command)), check=True)


def _grey(frame):
  return cv2.imdecode(np.frombuffer(frame, np.uint8), cv2.IMREAD_GRAYSCALE)


@pytest.fixture(scope='module')
def late(tmp_path_factory):
  """Files whose sound, or pictures, begin half a second after the others."""
  directory = tmp_path_factory.mktemp('late')
  tone, film = directory / 'tone.wav', directory / 'film.mp4'
  audioset_clips.make_clip(tone, size=None)
  audioset_clips.make_clip(film, hz=None)
  for name, first, second in (('sound', film, tone), ('film', tone, film)):
    _ffmpeg(
      '-i', first, '-itsoffset', 0.5, '-i', second,
      '-c:v', 'copy', '-c:a', 'pcm_s16le', directory / f'late_{name}.mkv',
    )  # fmt: skip
  return directory


def test_sound_that_begins_late_comes_after_silence(late):
  sound = media.read_sound(late / 'late_sound.mkv', 8000, 20_000)
  assert len(sound) == 20_000
  assert not sound[:3900].any()
  assert sound[4100:19_900].std() == pytest.approx(32_767 / 8**0.5, rel=0.02)


def test_first_frame_is_repeated_until_pictures_begin(late):
  frames = media.read_frames(late / 'late_film.mkv', 10, 100, 32)
  film = media.read_frames(late / 'film.mp4', 10, 100, 32)
  assert (len(film), len(frames)) == (20, 25)
  assert len(set(frames[:5])) == 1
  for frame, expected in zip(frames[6:], film[1:], strict=False):
    assert np.abs(_grey(frame) - _grey(expected).astype(int)).mean() < 6


def test_sound_that_stops_for_a_while_goes_on_when_it_does(tmp_path, late):
  path = tmp_path / 'gap.mkv'
  _ffmpeg(
    '-i', late / 'tone.wav', '-af', "aselect='not(between(t,0.5,1.0))'",
    '-c:a', 'pcm_s16le', path,
  )  # fmt: skip
  sound = media.read_sound(path, 8000, 20_000).astype(int)
  loud = np.abs(sound[: 8000 * 19 // 10].reshape(-1, 800)).max(axis=1) > 9000
  # By tenths of a second; it stops and goes on at whole packets.
  np.testing.assert_array_equal(loud[:5], True)
  np.testing.assert_array_equal(loud[6:9], False)
  np.testing.assert_array_equal(loud[11:], True)


def test_sound_of_several_channels_is_their_mean(tmp_path):
  path = tmp_path / 'stereo.wav'
  _ffmpeg('-f', 'lavfi', '-t', 1, '-i', 'aevalsrc=0.5|-0.1:s=8000', path)
  sound = media.read_sound(path, 8000, 100_000)
  np.testing.assert_allclose(sound, 0.2 * 32_768, atol=2)


def test_no_more_is_read_than_wanted(late):
  assert len(media.read_sound(late / 'tone.wav', 48_000, 777)) == 777
  assert len(media.read_frames(late / 'film.mp4', 25, 7, 32)) == 7


def test_frames_keep_their_detail_and_have_even_sides(tmp_path):
  path = tmp_path / 'film.mkv'
  # As large as it is to be, so that nothing is lost but by JPEG.
  _ffmpeg(
    '-f', 'lavfi', '-t', 0.2, '-i', 'testsrc2=size=64x44:rate=25',
    '-c:v', 'ffv1', '-pix_fmt', 'yuvj420p', path,
  )  # fmt: skip
  raw_path = tmp_path / 'film.raw'
  _ffmpeg('-i', path, '-f', 'rawvideo', '-pix_fmt', 'gray', raw_path)
  raw = np.fromfile(raw_path, np.uint8).reshape(5, 44, 64)
  frames = media.read_frames(path, 25, 5, 44)
  for frame, expected in zip(frames, raw, strict=True):
    error = _grey(frame).astype(float) - expected
    assert 20 * np.log10(255 / error.std()) > 30
  for short_side in (33, 35, 36):
    frame = _grey(media.read_frames(path, 25, 1, short_side)[0])
    assert frame.shape[0] == short_side and frame.shape[1] % 2 == 0
    assert abs(frame.shape[1] - short_side * 64 / 44) <= 1


def test_picture_on_the_cover_of_a_sound_is_refused_as_video(tmp_path, late):
  cover = tmp_path / 'cover.png'
  cv2.imwrite(str(cover), np.zeros((64, 64, 3), np.uint8))
  path = tmp_path / 'song.flac'
  _ffmpeg(
    '-i', late / 'tone.wav', '-i', cover, '-map', 0, '-map', 1,
    '-disposition:v', 'attached_pic', path,
  )  # fmt: skip
  assert media.read_sound(path, 8000, 10).shape == (10,)
  with pytest.raises(ValueError, match=r'song.flac must have frames .* got'):
    media.read_frames(path, 25, 10, 32)


def test_missing_ffmpeg_is_refused_with_what_to_do(late, monkeypatch):
  monkeypatch.setenv('IMAGEIO_FFMPEG_EXE', '/no/such/ffmpeg')
  with pytest.raises(FileNotFoundError, match='pip install imageio-ffmpeg'):
    media.read_sound(late / 'tone.wav', 8000, 10)


def test_file_that_takes_for_ever_is_refused(late, monkeypatch, tmp_path):
  stuck = tmp_path / 'ffmpeg'
  stuck.write_text('#!/bin/sh\nexec sleep 60\n')
  stuck.chmod(0o755)
  monkeypatch.setenv('IMAGEIO_FFMPEG_EXE', str(stuck))
  monkeypatch.setattr(media, '_MAX_SECS', 0.2)
  for read in (media.read_sound, lambda *a: media.read_frames(*a, 32)):
    with pytest.raises(ChildProcessError, match='wav must have .* in 0.2 s'):
      read(late / 'tone.wav', 25, 10)


@pytest.mark.parametrize('blow', ['KILL', 'TERM'])
def test_killed_ffmpeg_is_no_fault_of_the_file(
  blow, late, monkeypatch, tmp_path
):
  killed = tmp_path / 'ffmpeg'
  # Silence for ever, so that the signal comes before the end.
  source = '-re -f lavfi -i anullsrc -f s16le -'
  killed.write_text(
    f'#!/bin/sh\n(sleep 0.3; kill -{blow} $$) &\n'
    f'exec {ffmpeg.executable()} -v error {source}\n'
  )
  killed.chmod(0o755)
  monkeypatch.setenv('IMAGEIO_FFMPEG_EXE', str(killed))
  with pytest.raises(ChildProcessError, match='tone.wav must .* was killed'):
    media.read_sound(late / 'tone.wav', 8000, 10)
