"""The configs of AudioSet and ModelNet40 are the rows of the papers' tables."""

import re

import config_files
import pytest

from perceiver_jax.nn.repeat import Remat
from perceiver_jax.training.dry_run import dry_run
from perceiver_jax.training.optimizers import Lamb

_NUM_TRAIN = 1_700_000


def _get(name, variant=''):
  return config_files.load(name).get_config(variant)


def _rates(config, shares):
  """Returns the learning rate when these shares of the run are done."""
  num_steps = config.steps(_NUM_TRAIN)
  schedule = config.optimizer.schedule.make(
    batch_size=config.data.batch_size,
    steps_per_epoch=_NUM_TRAIN / config.data.batch_size,
    num_steps=num_steps,
  )
  return [float(schedule(round(share * num_steps))) for share in shares]


# Source: arXiv 2103.03206, section 4.2: the video of an example is dropped with
# probability 0.3; the tuned model drops spectrograms instead of masking them.
@pytest.mark.parametrize(
  ('variant', 'drop_probs', 'is_masked'),
  [
    ('', {'video': 0.3}, None),
    ('raw_video', {'video': 0.3}, None),
    ('mel_video', {'video': 0.3}, True),
    ('tuned', {'video': 0.3, 'audio': 0.1}, False),
  ],
)
def test_rows_of_two_modalities_drop_and_mask_what_the_paper_does(
  variant, drop_probs, is_masked
):
  config = _get('audioset_perceiver', variant)
  assert config.data.use_audio and config.data.use_video
  assert config.model.inputs.drop_probs == drop_probs
  audio = config.model.inputs.modalities['audio']
  masks = getattr(audio, 'spec_augment', 'raw')
  assert is_masked == (None if masks == 'raw' else masks is not None)


@pytest.mark.parametrize(
  ('variant', 'tokens', 'streams'),
  [
    ('raw', (480,), (True, False)),
    ('mel', (60, 80), (True, False)),
    ('video', (16, 28, 28), (False, True)),
  ],
)
def test_rows_of_one_modality_read_that_one_alone(variant, tokens, streams):
  config = _get('audioset_perceiver', variant)
  assert config.model.inputs.positions.max_resolution == tokens
  assert (config.data.use_audio, config.data.use_video) == streams
  masks = getattr(config.model.inputs, 'spec_augment', None)
  assert (masks is not None) == (variant == 'mel')


# Source: arXiv 2107.14795, table 10 and appendix C.
@pytest.mark.parametrize(
  ('variant', 'latent_channels', 'is_masked'),
  [('raw_video', 512, False), ('mel_video', 1024, True)],
)
def test_rows_of_perceiver_io_have_their_width_and_depth(
  variant, latent_channels, is_masked
):
  model = _get('audioset_perceiver_io', variant).model
  assert (model.num_latents, model.latent_channels) == (512, latent_channels)
  assert model.num_cross_attends == model.num_blocks == 1
  assert model.num_self_attends_per_block == 12
  assert model.inputs.drop_probs == {'video': 0.3}
  audio = model.inputs.modalities['audio']
  assert (getattr(audio, 'spec_augment', None) is not None) == is_masked


# 100 epochs are published; the rest is the recipe of each paper for ImageNet.
@pytest.mark.parametrize(
  ('name', 'shares', 'rates'),
  [
    (
      'audioset_perceiver',
      [0.0, 0.69, 0.71, 0.86, 0.96],
      [4e-3, 4e-3, 4e-4, 4e-5, 4e-6],
    ),
    ('audioset_perceiver_io', [0.0, 0.49, 0.75, 1.0], [2e-3, 2e-3, 1e-3, 0.0]),
  ],
)
def test_recipes_of_audioset_are_those_of_imagenet(name, shares, rates):
  config = _get(name)
  assert (config.data.batch_size, config.num_epochs) == (1024, 100.0)
  assert _rates(config, shares) == pytest.approx(rates, abs=1e-6)
  assert type(config.optimizer) is Lamb
  assert config.optimizer.weight_decay == 0.1
  assert config.optimizer.max_grad_norm == 10.0


# Source: arXiv 2103.03206, section 4.3.
def test_recipe_of_modelnet40_is_the_published_one():
  config = _get('modelnet40')
  assert (config.data.batch_size, config.num_steps) == (512, 50_000)
  assert _rates(config, [0.0, 0.5, 1.0]) == pytest.approx([1e-3] * 3)
  assert type(config.optimizer) is Lamb
  model = config.model
  assert (model.num_cross_attends, model.num_self_attends_per_block) == (2, 6)
  assert model.inputs.num_bands == 64
  assert model.inputs.max_frequency == 1120.0
  assert config.data.scale_range == (0.99, 1.01)


# What the configs promise of one device: examples at a time, and GiB.
@pytest.mark.parametrize(
  ('name', 'variant', 'count', 'gibibytes'),
  [
    pytest.param(*case, marks=[] if case[1] == 'debug' else pytest.mark.slow)
    for case in (
      ('audioset_perceiver', 'debug', 2, None),
      ('audioset_perceiver', 'mel', 64, 1.1),
      ('audioset_perceiver', 'raw_video', 64, 2.6),
      ('audioset_perceiver_io', 'raw_video', 64, 1.3),
      ('audioset_perceiver_io', 'mel_video', 64, 1.7),
      ('modelnet40', 'debug', 2, None),
      ('modelnet40', '', 64, 1.1),
    )
  ],
)
def test_one_device_runs_it_by_one_flag_in_the_memory_of_the_docstring(
  name, variant, count, gibibytes, request
):
  text = config_files.load(name).__doc__
  (flag,) = re.findall(r'--config\.accumulation_steps=(?:\d+)', text)
  if variant == 'debug':  # Of its few examples.
    flag = re.sub(r'\d+', str(8 if name == 'modelnet40' else 4), flag)
  fixture = 'modelnet40_dir' if name == 'modelnet40' else 'audioset_dir'
  summary = dry_run(
    config_files.from_flags(
      f'--config={config_files.DIRECTORY}/{name}.py:{variant}',
      f'--config.data.data_dir={request.getfixturevalue(fixture)}',
      '--config.model.precision=BFLOAT16',
      flag,
    )
  )
  assert f'times {count} a device' in summary
  if gibibytes is not None:
    assert f'{gibibytes}' in text
    (saved,) = re.findall('saved activations.* ([0-9.,]+) MiB', summary)
    assert float(saved.replace(',', '')) / 1024 == pytest.approx(
      gibibytes, abs=0.051
    )


@pytest.mark.parametrize(
  'name', ['audioset_perceiver', 'audioset_perceiver_io', 'modelnet40']
)
def test_blocks_are_recomputed_in_every_row(name):
  for variant in config_files.load(name).VARIANTS:
    model = _get(name, variant).model
    assert model.self_attend.remat is model.cross_attend.remat is Remat.ALL
