"""Recordings are cut, tagged and looked at as an evaluation would."""

import pathlib

import audioset_clips
import audioset_dir as small_audioset
import cv2
import jax
import numpy as np
import pytest
import tiny_models

import perceiver_jax
from perceiver_jax import predict, presets
from perceiver_jax.data import media as data_media
from perceiver_jax.data.audioset.config import AudioSetData
from perceiver_jax.data.resize import resize_bytes
from perceiver_jax.modalities.multimodal import MultimodalInput
from perceiver_jax.predict import listening, media, pictures
from perceiver_jax.predict.__main__ import main
from perceiver_jax.tasks.tagging import TaggingTask

NUM_CLIPS = 3
NAMES = [f'Class {label}' for label in range(small_audioset.NUM_CLASSES)]


def _files(data_dir):
  """Returns clips of the list 'eval', in its order."""
  directory = pathlib.Path(data_dir).parent / 'manual' / 'clips'
  return sorted(directory.glob('eval-*'))


def _clips(model, path, **options):
  form = predict.clip_format(model.config, **options)
  recording = media.read_recording(path, form, 10.0)
  return predict.cut(recording, form, NUM_CLIPS)


@pytest.mark.parametrize('is_raw', [True, False])
@pytest.mark.parametrize('has_video', [True, False])
def test_scores_are_those_of_an_evaluation(is_raw, has_video, audioset_dir):
  model = tiny_models.tagger(is_raw, has_video)
  config = AudioSetData(
    batch_size=1,
    eval_batch_size=1,
    data_dir=audioset_dir,
    frame_size=(24, 16),
    num_eval_clips=NUM_CLIPS,
    use_video=has_video,
  )
  source = config.make_source('eval')
  metrics = jax.jit(TaggingTask().make(model.config).metrics)
  paths = _files(audioset_dir)
  if not has_video:
    del paths[2]  # It has no sound.
  for index, path in enumerate(paths[:3]):
    example = config.preprocess(source[index], None)
    batch = {name: array[None] for name, array in example.items()}
    _, outcomes = metrics(model.params, model.state, batch)
    expected = np.asarray(outcomes['scores'][0])
    clips = _clips(model, path)
    heard = predict.listen(model, clips, class_names=NAMES, top_k=3)
    scores = heard.clip_scores.mean(axis=0)
    np.testing.assert_allclose(scores, expected, rtol=1e-4)
    best = [int(label) for label in np.argsort(-scores)[:3]]
    assert [p.label for p in heard.predictions] == best
    assert [p.name for p in heard.predictions] == [NAMES[i] for i in best]
    np.testing.assert_allclose(
      [p.prob for p in heard.predictions], scores[best], rtol=1e-6
    )


def test_exclusive_scores_are_a_softmax(audioset_dir):
  model = tiny_models.tagger(False, False)
  clips = _clips(model, _files(audioset_dir)[0])
  heard, tagged = (
    predict.listen(model, clips, is_exclusive=is_exclusive)
    for is_exclusive in (True, False)
  )
  np.testing.assert_allclose(heard.clip_scores.sum(axis=1), 1.0, rtol=1e-5)
  odds = tagged.clip_scores / (1 - tagged.clip_scores)
  expected = odds / odds.sum(axis=1, keepdims=True)
  np.testing.assert_allclose(heard.clip_scores, expected, rtol=1e-2)


@pytest.mark.parametrize('latents', [None, [4, 1]])
def test_attention_to_clips_is_that_of_the_model(latents, audioset_dir):
  model = tiny_models.tagger()
  clips = _clips(model, _files(audioset_dir)[0])
  found = predict.clip_attention(model, clips, latents, batch_size=2)
  inputs = {
    'audio': clips.arrays['audio'] / np.float32(2**15),
    'video': (clips.arrays['video'] / np.float32(255) - 0.5) / 0.5,
  }
  maps = perceiver_jax.attention_maps(model.config)(model.params, inputs)
  assert len(found) == len(maps.inputs) == 2
  for actual, weights in zip(found, maps.inputs, strict=True):
    weights = np.asarray(weights)[:, :, latents or range(6)].mean(axis=(1, 2))
    # Tokens of sound come first: 15 x 8 of them, then 16 x 3 x 2 of video.
    sound, video = weights[:, :120], weights[:, 120:]
    np.testing.assert_allclose(
      actual['audio'], sound.reshape(-1, 15, 8), atol=1e-6
    )
    np.testing.assert_allclose(
      actual['video'], video.reshape(-1, 16, 3, 2), atol=1e-6
    )


@pytest.mark.parametrize(
  ('preset', 'audio', 'video'),
  [
    (presets.perceiver_audioset_raw, 'audio', None),
    (presets.perceiver_audioset_mel, 'audio', None),
    (presets.perceiver_audioset_video, None, 'video'),
    (presets.perceiver_io_audioset_raw_video, 'audio', 'video'),
    (presets.perceiver_audioset_mel_video, 'audio', 'video'),
  ],
)
def test_published_models_take_clips_of_128_hundredths_of_a_second(
  preset, audio, video
):
  form = predict.clip_format(preset())
  assert (form.audio, form.video) == (audio, video)
  assert form.size == ((224, 224, 3) if video else (0, 0, 0))
  assert form.secs == 1.28
  # Parts of a recording begin at whole frames, as in an evaluation.
  assert (form.samples_per_frame, form.num_frames) == (1920, 32)


def test_sound_of_other_rates_is_cut_in_whole_steps():
  model = tiny_models.tagger(True, False).config.copy()
  model.inputs.num_samples = 8192
  form = predict.clip_format(model, sample_rate_hz=8000)
  assert form.secs == 8192 / 8000
  sound = np.arange(16_000, dtype=np.int16)
  recording = predict.Recording(sound, np.zeros((0, 0, 0, 0), np.uint8))
  clips = predict.cut(recording, form, 2)
  first, last = clips.arrays['audio'][:, :, 0]
  np.testing.assert_array_equal(first, sound[:8192])
  start = round(clips.starts_secs[1] * 8000)
  assert 16_000 - 8192 - 64 < start <= 16_000 - 8192
  np.testing.assert_array_equal(last, sound[start : start + 8192])


def test_maps_at_a_moment_are_the_mean_over_the_clips_that_have_it():
  times = pictures._Times(np.array([0.0, 1.0]), 2.0)
  maps = np.array([[[1.0], [2.0]], [[5.0], [7.0]]])
  found = times.at(maps, np.array([0.5, 1.5, 2.5, 3.5]))
  np.testing.assert_allclose(found, [[1.0], [3.5], [7.0], [0.0]])


def test_picture_has_low_pitches_below_and_glows_where_latents_look():
  log_mel = np.full((40, 10), -9.0)
  log_mel[:, 2] = 0.0
  maps = np.zeros((1, 4, 5))
  maps[0, 1, 4] = 1.0
  times = pictures._Times(np.zeros(1), 4.0)
  (_, image), (title, map_) = pictures._sound_rows(
    pictures.Sound(log_mel, 0.1, [maps]), times
  )
  rows, _, _ = np.nonzero(image == 255)
  assert set(rows) == {7}
  rows, columns, _ = np.nonzero(map_ == 255)
  # The second second, and the two highest of ten bins.
  assert (set(rows), set(columns)) == ({0, 1}, set(range(10, 20)))
  assert title == 'cross-attend 1: 100% on sound'


def test_as_much_of_frames_is_looked_at_as_asked_for(tmp_path):
  path = tmp_path / 'film.mp4'
  audioset_clips.make_clip(path, size=(256, 256), hz=None)
  form = predict.clip_format(tiny_models.tagger().config)
  rows, columns, _ = form.size
  (file,) = data_media.read_frames(path, 25, 1, 256)
  frame = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR_RGB)
  for crop, seen in ((1.0, frame), (0.5, frame[64:192, 64:192])):
    frames = media.read_recording(path, form, 0.04, crop).frames
    np.testing.assert_array_equal(frames[0], resize_bytes(seen, rows, columns))


@pytest.mark.parametrize('is_raw', [True, False])
def test_spectrogram_to_show_has_the_pitch_of_the_sound(is_raw):
  config = tiny_models.tagger(is_raw, False).config
  form = predict.clip_format(config)
  seconds = np.arange(48_001) / 48_000
  tops = []
  for hz in (300, 3000):
    sound = (1000 * np.sin(2 * np.pi * hz * seconds)).astype(np.int16)
    log_mel, frame_secs = listening.spectrogram(config, form, sound)
    assert len(log_mel) == -(-48_001 // round(frame_secs * 48_000))
    tops.append(log_mel[len(log_mel) // 2].argmax() / log_mel.shape[1])
  # 402 and 1876 mel, of 78 to 3439.
  assert np.abs(np.array(tops) - [0.096, 0.535]).max() < 0.05


def _two_sounds():
  config = tiny_models.tagger().config.copy()
  sound = config.inputs.modalities['audio']
  config.inputs = MultimodalInput(modalities={'left': sound, 'right': sound})
  return config


def _changed(**fields):
  config = tiny_models.tagger(True, False).config.copy()
  for name, value in fields.items():
    setattr(config.inputs, name, value)
  return config


def _video_of_any_size():
  config = tiny_models.tagger().config.copy()
  config.inputs.modalities['video'].positions.max_resolution = None
  return config


@pytest.mark.parametrize(
  ('config', 'options', 'message'),
  [
    (tiny_models.images().config, {}, r"sound, video or both, got .*'image'"),
    (tiny_models.text().config, {}, 'got TextInput'),
    (_two_sounds(), {}, r"one input of sound, got \['left', 'right'\]"),
    (_changed(num_samples=None), {}, 'num_samples must be given .* got None'),
    (_video_of_any_size(), {}, 'positions must tell the size of the video'),
    (
      tiny_models.tagger().config,
      {'sample_rate_hz': 44_100},
      'sample_rate_hz must be that of the spectrogram .* 48000, got 44100',
    ),
    (
      tiny_models.tagger(True).config,
      {'sample_rate_hz': 44_100},
      'last equally long, got 44100 and 25 Hz for 32 frames and 61440 samples',
    ),
    (
      tiny_models.tagger(True).config,
      {'sample_rate_hz': 0},
      'sample_rate_hz must be at least 1, got 0',
    ),
    (
      tiny_models.tagger(True).config,
      {'frame_rate_hz': 0},
      'frame_rate_hz must be at least 1, got 0',
    ),
  ],
)
def test_model_that_cannot_listen_is_refused(config, options, message):
  with pytest.raises(ValueError, match=message):
    predict.clip_format(config, **options)


def test_model_of_other_outputs_is_refused(audioset_dir):
  model = tiny_models.tagger()
  clips = _clips(model, _files(audioset_dir)[0])
  config = model.config.copy()
  config.outputs = tiny_models.text().config.outputs
  with pytest.raises(ValueError, match='must be a LabelOutput, got TextOutput'):
    predict.listen(model._replace(config=config), clips)


@pytest.fixture
def in_directory(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  perceiver_jax.save_pretrained('both.safetensors', *tiny_models.tagger())
  perceiver_jax.save_pretrained(
    'sound.safetensors', *tiny_models.tagger(False, False)
  )
  make = audioset_clips.make_clip
  make(pathlib.Path('film.mp4'))
  make(pathlib.Path('mute.mp4'), hz=None)


@pytest.mark.usefixtures('in_directory')
def test_command_says_what_the_file_lacks(capsys):
  main(['listen', 'both.safetensors', 'mute.mp4', '--clips', '1', '--top', '1'])
  assert '(without sound, which the model takes and' in capsys.readouterr().out


@pytest.mark.usefixtures('in_directory')
@pytest.mark.parametrize(
  ('command', 'message'),
  [
    ('listen sound.safetensors mute.mp4', 'mute.mp4 must have sound'),
    ('listen both.safetensors none.mp4', 'none.mp4 must be a file, got none'),
    ('listen both.safetensors film.mp4 --clips 0', 'num_clips must be at leas'),
    ('listen both.safetensors film.mp4 --secs 0', 'secs must be a frame or mo'),
    ('listen both.safetensors film.mp4 --crop 0', r'in \(0, 1\], got 0.0'),
    ('listen both.safetensors film.mp4 --top 528', 'top_k must be from 1 to 5'),
    ('listen both.safetensors film.mp4 --clips 1 --latents 6', 'from 0 to 5'),
    ('listen both.safetensors film.mp4 --output o.foo', 'o.foo must end in'),
    ('listen . film.mp4', 'must hold a checkpoint, got . with none'),
  ],
)
def test_command_that_cannot_work_is_refused(command, message):
  with pytest.raises(SystemExit, match=message) as error:
    main(command.split())
  assert '\n' not in error.value.code
