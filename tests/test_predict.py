"""Inference on arrays and strings equals applying the model by hand."""

import jax
import numpy as np
import pytest
import tiny_models

import perceiver_jax
from perceiver_jax import predict, presets
from perceiver_jax.modalities.image import PatchEmbedding
from perceiver_jax.nn.resample import StemPadding
from perceiver_jax.predict import attention, flow, pictures
from perceiver_jax.predict.classification import image_size
from perceiver_jax.predict.compiled import compiled
from perceiver_jax.predict.language import mask_part


def _image(*shape, seed=0):
  return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def _by_hand(pretrained, inputs, **kwargs):
  """Applies the model without anything of `predict`."""
  perceiver = perceiver_jax.build(pretrained.config)
  apply = jax.jit(perceiver.apply)
  return jax.tree.map(
    np.asarray, apply(pretrained.params, None, inputs, **kwargs)
  )


def _softmax(logits):
  exps = np.exp(logits - logits.max(-1, keepdims=True))
  return exps / exps.sum(-1, keepdims=True)


def test_classify_looks_at_the_centre_and_names_the_most_probable():
  model = tiny_models.images()
  # 7/8 of 32 is 28: the crop needs no resizing.
  image = _image(32, 40, 3)
  crop = image[2:30, 6:34] / 255.0
  mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
  normalised = ((crop - mean) / std).astype(np.float32)
  probs = _softmax(_by_hand(model, normalised[None])[0])
  names = list('abcdefg')
  (found,) = predict.classify(model, [image], class_names=names, top_k=3)
  order = sorted(range(7), key=lambda label: -probs[label])[:3]
  assert [p.label for p in found] == order
  assert [p.name for p in found] == [names[label] for label in order]
  np.testing.assert_allclose([p.prob for p in found], probs[order], atol=1e-5)


def test_classify_takes_images_of_any_sizes_in_batches_compiled_once():
  model = tiny_models.images()
  images = [
    _image(50, 31, 3, seed=1), _image(1, 1, 3, seed=2), _image(9, 60, 3, seed=3)
  ]  # fmt: skip
  apply = compiled(model.config).apply
  before = apply._cache_size()
  together = predict.classify(model, images, batch_size=2)
  again = predict.classify(model, images, batch_size=2)
  # The second batch of two is filled up.
  assert apply._cache_size() <= before + 1
  assert again == together
  for image, found in zip(images, together, strict=True):
    (alone,) = predict.classify(model, [image])
    assert [p.name for p in alone] == [p.name for p in found]
    np.testing.assert_allclose(
      [p.prob for p in alone], [p.prob for p in found], atol=1e-6
    )
  assert together[0] != together[1]


def test_size_and_colours_are_those_that_are_given():
  model = tiny_models.images()
  image = _image(16, 16, 3)
  options = {'size': (14, 14), 'colours': predict.Colours((0.5,), (0.25,))}
  (found,) = predict.classify(model, [image], top_k=7, **options)
  inputs = ((image[1:15, 1:15] / 255.0 - 0.5) / 0.25).astype(np.float32)
  probs = _softmax(_by_hand(model, inputs[None])[0])
  for prediction in found:
    assert prediction.prob == pytest.approx(probs[prediction.label], abs=1e-5)


def test_published_models_see_224_pixels():
  conv = presets.perceiver_io_imagenet_conv()
  for config in [
    presets.perceiver_imagenet_learned(),
    presets.perceiver_io_imagenet_fourier(),
    conv,
  ]:
    assert image_size(config.inputs) == (224, 224)
  conv.inputs.embedding.padding = StemPadding.SYMMETRIC
  assert image_size(conv.inputs) == (224, 224)
  conv.inputs.embedding = PatchEmbedding(patch_size=(2, 3))
  assert image_size(conv.inputs) == (112, 168)
  conv.inputs.positions.max_resolution = None
  with pytest.raises(ValueError, match='size must be given for a model whose'):
    image_size(conv.inputs)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'images': []}, 'images must be one or more in a list'),
    ({'images': [_image(0, 5, 3)]}, r'image 0 must .* a pixel.*\[0, 5, 3\]'),
    ({'images': [_image(4, 5, 4)]}, r'shape \[Y, X, 3\] .* got \[4, 5, 4\]'),
    ({'top_k': 8}, 'top_k must be from 1 to 7, got 8'),
    ({'class_names': ['a']}, 'class_names must name 7 classes, got 1'),
    ({'size': (0, 4)}, r'size must be positive, got \(0, 4\)'),
    ({'batch_size': 0}, 'batch_size must be at least 1, got 0'),
    (
      {'colours': predict.Colours((0.5, 0.5), (1.0,))},
      'the mean of colours must have 1 or 3 numbers',
    ),
    (
      {'pretrained': tiny_models.text()},
      'must be a LabelOutput, got TextOutput',
    ),
  ],
)
def test_classify_refuses_what_does_not_fit(arguments, message):
  defaults = {'pretrained': tiny_models.images(), 'images': [_image(4, 5, 3)]}
  with pytest.raises(ValueError, match=message):
    predict.classify(**(defaults | arguments))


def test_classify_refuses_images_of_floats():
  with pytest.raises(TypeError, match='image 0 must be uint8, got float64'):
    predict.classify(tiny_models.images(), [np.zeros((4, 5, 3))])


@pytest.mark.parametrize(
  ('text', 'num_runs'),
  [('a[MASK][MASK]bc[MASK]', 2), ('[MASK]Gr\u00fc\u00dfe', 1), ('[MASK]', 1)],
)
def test_masks_are_filled_with_the_most_probable_bytes(text, num_runs):
  model = tiny_models.text()
  # Ids by hand: a byte is its number and 6; the mask is 3.
  data = text.encode().replace(b'[MASK]', b'\xff')
  ids = np.array([3 if byte == 0xFF else byte + 6 for byte in data], np.int32)
  logits = _by_hand(model, ids[None])[0][: len(ids)]
  best = logits[:, 6:].argmax(-1)
  whole = bytes(
    best[i] if number == 3 else number - 6 for i, number in enumerate(ids)
  )
  (found,) = predict.fill_mask(model, text)
  assert found.text == whole.decode(errors='replace')
  assert ''.join(found.filled) == bytes(
    best[i] for i in np.flatnonzero(ids == 3)
  ).decode(errors='replace')
  assert len(found.filled) == num_runs
  probs = _softmax(logits)[ids == 3]
  expected = [row[6 + row[6:].argmax()] for row in probs]
  np.testing.assert_allclose(found.probs, expected, atol=1e-5)


def test_texts_are_filled_in_batches_like_each_alone():
  model = tiny_models.text()
  texts = ['a[MASK]b', '[MASK][MASK] of a longer text', 'c[MASK]']
  together = predict.fill_mask(model, *texts, batch_size=2)
  for text, found in zip(texts, together, strict=True):
    (alone,) = predict.fill_mask(model, text)
    assert found.text == alone.text
    np.testing.assert_allclose(found.probs, alone.probs, atol=1e-5)
  with pytest.raises(ValueError, match='texts must be one or more, got none'):
    predict.fill_mask(model)


def test_model_may_have_more_outputs_than_inputs():
  model = tiny_models.text()
  config, params = model.config.copy(), dict(model.params)
  config.inputs.max_length = 7
  inputs = params['inputs']
  params['inputs'] = inputs | {'positions': inputs['positions'][:7]}
  shorter = model._replace(config=config, params=params)
  (found,) = predict.fill_mask(shorter, 'ab[MASK]')
  (expected,) = predict.fill_mask(model, 'ab[MASK]')
  assert found.text == expected.text


def test_part_of_a_text_is_masked_byte_by_byte():
  assert mask_part('a\u00fcb', '\u00fc') == 'a[MASK][MASK]b'
  with pytest.raises(ValueError, match="must be in the text, got 'x'"):
    mask_part('abc', 'x')


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('', 'text must not be empty'),
    ('abc', r"text must have \[MASK\] for each byte .* got 'abc'"),
    ('[MASK]' + 'a' * 96, 'text must have at most 96 bytes, got 97'),
  ],
)
def test_text_that_cannot_be_filled_is_refused(text, message):
  with pytest.raises(ValueError, match=message):
    predict.fill_mask(tiny_models.text(), text)


@pytest.mark.parametrize('text', [['a[MASK]'], b'a[MASK]', None])
def test_text_that_is_no_string_is_refused(text):
  message = f'must be a str, got {type(text).__name__}; give several as'
  with pytest.raises(TypeError, match=message):
    predict.fill_mask(tiny_models.text(), 'b[MASK]', text)


def test_fill_mask_refuses_another_model():
  with pytest.raises(ValueError, match='masked language model.*ImageInput'):
    predict.fill_mask(tiny_models.images(), '[MASK]')


# Sintel and KITTI have the six tiles of the published evaluation.
@pytest.mark.parametrize(
  ('size', 'tile', 'starts'),
  [
    (436, 368, [0, 68]),
    (1024, 496, [0, 476, 528]),
    (375, 368, [0, 7]),
    (1242, 496, [0, 476, 746]),
    (368, 368, [0]),
    (716, 368, [0, 348]),
    (717, 368, [0, 348, 349]),
  ],
)
def test_tiles_are_the_fewest_with_their_overlap(size, tile, starts):
  assert flow.tile_starts(size, tile, 20) == starts


def test_flow_of_a_tile_is_that_of_the_model():
  model = tiny_models.flow()
  frames = _image(2, 16, 24, 3)
  inputs = (frames / 127.5 - 1.0).astype(np.float32)
  expected = _by_hand(model, inputs[None])[0]
  actual = predict.estimate_flow(model, *frames, min_overlap=4)
  np.testing.assert_allclose(actual, expected, atol=1e-4)
  assert np.std(expected) > 1e-3


def test_flow_of_large_frames_is_the_weighted_average_of_tiles():
  model = tiny_models.flow()
  frames = _image(2, 23, 50, 3)
  inputs = (frames / 127.5 - 1.0).astype(np.float32)
  corners = [(top, left) for top in (0, 7) for left in (0, 20, 26)]
  tiles = np.stack([inputs[:, t : t + 16, x : x + 24] for t, x in corners])
  flows = _by_hand(model, tiles)
  expected = np.zeros((23, 50, 2))
  for row in range(23):
    for column in range(50):
      total = 0.0
      for tile, (top, left) in zip(flows, corners, strict=True):
        y, x = row - top, column - left
        if 0 <= y < 16 and 0 <= x < 24:
          weight = min(y + 1, 16 - y, x + 1, 24 - x)
          expected[row, column] += weight * tile[y, x]
          total += weight
      expected[row, column] /= total
  for batch_size in (1, 4):
    actual = predict.estimate_flow(
      model, *frames, min_overlap=4, batch_size=batch_size
    )
    np.testing.assert_allclose(actual, expected, atol=1e-4)
  assert np.abs(flows[0, 8:, 20:] - flows[1, 8:, :4]).max() > 1e-3


def test_flow_of_small_frames_extends_their_borders():
  model = tiny_models.flow()
  frames = _image(2, 10, 30, 3)
  rows, columns = np.minimum(np.arange(16), 9), np.arange(30)
  large = frames[:, rows][:, :, columns]
  actual = predict.estimate_flow(model, *frames, min_overlap=4)
  expected = predict.estimate_flow(model, *large, min_overlap=4)[:10]
  assert actual.shape == (10, 30, 2)
  np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (
      {'frame2': _image(16, 25, 3)},
      r'frame2 must have the shape of frame1, \[16, 24, 3\], got \[16, 25, 3\]',
    ),
    ({'frame1': _image(16, 24)}, r'frame1 must have shape \[Y, X, 3\]'),
    ({'min_overlap': 16}, 'min_overlap must be from 0 to 15, got 16'),
    (
      {'pretrained': tiny_models.images()},
      'must be a FlowOutput, got LabelOutput',
    ),
  ],
)
def test_flow_refuses_what_does_not_fit(arguments, message):
  frame = _image(16, 24, 3)
  defaults = {
    'pretrained': tiny_models.flow(),
    'frame1': frame,
    'frame2': frame,
    'min_overlap': 4,
  }
  with pytest.raises(ValueError, match=message):
    predict.estimate_flow(**(defaults | arguments))


def test_flow_without_a_size_of_tiles_is_refused():
  config = tiny_models.flow().config.copy()
  config.inputs.positions.max_resolution = None
  model = tiny_models.flow()._replace(config=config)
  with pytest.raises(ValueError, match='positions must tell the size of frame'):
    predict.estimate_flow(model, _image(16, 24, 3), _image(16, 24, 3))


def _clips(count):
  rng = np.random.default_rng(0)
  audio = rng.uniform(-1, 1, (count * 3840, 1)).astype(np.float32)
  return _image(2 * count, 8, 8, 3), audio


@pytest.mark.parametrize('chunk_size', [50, 240, 8192])
def test_chunks_of_outputs_are_those_of_the_whole(chunk_size):
  model = tiny_models.autoencoder()
  video, audio = _clips(3)
  inputs = {
    'image': video.reshape(3, 2, 8, 8, 3).astype(np.float32) / 255.0,
    'audio': audio.reshape(3, 3840, 1),
    'label': np.zeros((3, 3), np.float32),
  }
  whole = _by_hand(model, inputs)
  made = predict.autoencode(model, video, audio, chunk_size=chunk_size)
  pixels = 255.0 * np.clip(whole['image'].reshape(video.shape), 0.0, 1.0)
  assert np.abs(made.video - pixels).max() <= 0.51
  assert np.mean((pixels > 1) & (pixels < 254)) > 0.1
  np.testing.assert_allclose(
    made.audio, whole['audio'].reshape(-1, 1), atol=1e-4
  )
  np.testing.assert_allclose(
    made.label_probs, _softmax(whole['label']), atol=1e-5
  )
  assert np.abs(made.audio[:3840] - made.audio[3840:7680]).max() > 1e-4


def test_clips_share_one_compilation_for_each_modality():
  model = tiny_models.autoencoder()
  functions = compiled(model.config)
  before = functions.decode._cache_size()
  for count in (1, 2):
    predict.autoencode(model, *_clips(count), chunk_size=33)
  assert functions.decode._cache_size() <= before + 3


@pytest.mark.parametrize('batch_size', [2, 8])
def test_clips_in_batches_are_those_one_by_one(batch_size, capsys):
  model = tiny_models.autoencoder()
  alone = predict.autoencode(model, *_clips(3), chunk_size=50)
  assert 'step 27/27 (100%)' in capsys.readouterr().err
  made = predict.autoencode(
    model, *_clips(3), chunk_size=50, batch_size=batch_size
  )
  # Two clips and, twice, the third; or all three.
  steps = {2: '18/18', 8: '9/9'}[batch_size]
  assert f'step {steps} (100%)' in capsys.readouterr().err
  difference = made.video.astype(int) - alone.video
  assert np.abs(difference).max() <= 1
  np.testing.assert_allclose(made.audio, alone.audio, atol=1e-5)
  np.testing.assert_allclose(made.label_probs, alone.label_probs, atol=1e-6)


def test_progress_of_chunks_is_shown(capsys):
  predict.autoencode(tiny_models.autoencoder(), *_clips(1), chunk_size=50)
  # 3 chunks of 128 pixels, 5 of 240 patches of audio, and the label.
  assert 'step 9/9 (100%)' in capsys.readouterr().err


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (
      {'video': _image(1, 8, 8, 3)},
      'video must have a positive multiple of 2 frames.* got 1',
    ),
    ({'video': _image(0, 8, 8, 3)}, 'multiple of 2 frames.* got 0'),
    ({'video': _image(2, 8, 9, 3)}, r'\[T, 8, 8, 3\], got \[2, 8, 9, 3\]'),
    (
      {'audio': np.zeros((3528, 1), np.float32)},
      r'audio must have shape \[3840, 1\], 3840 samples for each 2 frames, '
      r'got \[3528, 1\]; resample or cut it',
    ),
    ({'chunk_size': 0}, 'chunk_size must be at least 1, got 0'),
    ({'batch_size': 0}, 'batch_size must be at least 1, got 0'),
    (
      {'pretrained': tiny_models.images()},
      'the model must have video, audio and a label',
    ),
  ],
)
def test_autoencode_refuses_what_does_not_fit(arguments, message):
  video, audio = _clips(1)
  defaults = {
    'pretrained': tiny_models.autoencoder(), 'video': video, 'audio': audio
  }  # fmt: skip
  with pytest.raises(ValueError, match=message):
    predict.autoencode(**(defaults | arguments))


@pytest.mark.parametrize('sample', [np.nan, -np.inf, 2.5, -32768.0])
def test_autoencode_refuses_sound_of_another_scale(sample):
  video, audio = _clips(1)
  audio[77] = sample
  message = rf'audio must be in \[-1, 1\].* got {abs(sample)}; divide'
  with pytest.raises(ValueError, match=message):
    predict.autoencode(tiny_models.autoencoder(), video, audio)


@pytest.mark.parametrize(
  ('kind', 'message'),
  [
    ('video', 'a frame of video must be uint8, got float64'),
    ('audio', 'audio must be floating point.* got int16'),
  ],
)
def test_autoencode_refuses_other_dtypes(kind, message):
  video, audio = _clips(1)
  arguments = {'video': video, 'audio': audio}
  dtype = {'video': np.float64, 'audio': np.int16}[kind]
  arguments[kind] = arguments[kind].astype(dtype)
  with pytest.raises(TypeError, match=message):
    predict.autoencode(tiny_models.autoencoder(), **arguments)


def test_attention_to_an_image_is_that_of_the_model():
  model = tiny_models.images()
  image = _image(32, 32, 3)
  colours = predict.Colours((0.0,), (1.0,))
  maps = attention.image_attention(model, image, [4, 1], colours=colours)
  inputs = (image[2:30, 2:30] / 255.0).astype(np.float32)
  expected = perceiver_jax.attention_maps(model.config)(
    model.params, inputs[None]
  ).inputs
  assert len(maps) == len(expected) == 2
  for actual, weights in zip(maps, expected, strict=True):
    assert actual.shape == (2, 28, 28)
    for row, latent in enumerate([4, 1]):
      one = np.mean(weights[0, :, latent], axis=0).reshape(28, 28)
      np.testing.assert_allclose(actual[row], one, atol=1e-5)


@pytest.mark.parametrize('latents', [[], [6], [-1, 2]])
def test_latents_that_do_not_exist_are_refused(latents):
  message = 'latents must be one or more from 0 to 5, got'
  with pytest.raises(ValueError, match=message):
    attention.image_attention(tiny_models.images(), _image(32, 32, 3), latents)


def test_attention_to_permuted_pixels_is_refused():
  config = tiny_models.images().config.copy()
  config.inputs.permutation_seed = 3
  model = tiny_models.images()._replace(config=config)
  with pytest.raises(ValueError, match='permutation_seed must be None.*got 3'):
    attention.image_attention(model, _image(32, 32, 3), [0])


def test_hue_of_flow_is_its_direction():
  motion = np.array([[2, 0], [0, 2], [-2, 0], [0, -2], [0, 0], [1, 0], [9, 0]])
  colours = pictures.flow_colours(motion.astype(np.float32), 2.0)
  expected = [
    [255, 0, 0], [128, 255, 0], [0, 255, 255], [128, 0, 255],
    [255, 255, 255], [255, 128, 128], [255, 0, 0],
  ]  # fmt: skip
  np.testing.assert_allclose(colours, expected, atol=1)


def test_attention_glows_where_it_is():
  image = np.full((8, 12, 3), 200, np.uint8)
  map_ = np.zeros((1, 4, 6), np.float32)
  map_[0, 1, 2] = 1.0
  glowing = pictures._brightened(image, map_[0], 1.0)
  bright = np.zeros((8, 12), bool)
  bright[2:4, 4:6] = True
  assert np.all(glowing[bright] == 255)
  assert np.all(glowing[~bright] == 70)
