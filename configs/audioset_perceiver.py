"""AudioSet with the original Perceiver: the rows of its table 3.

Source: arXiv 2103.03206, section 4.2 and appendix C: clips of 1.28 s from
anywhere in training, 16 over the ten seconds in evaluation, 100 epochs, sigmoid
cross-entropy; the video of an example is dropped with probability 0.3; video
is cropped, flipped and changed in colour, spectrograms get SpecAugment. The
paper leaves open optimizer, batch and learning rate: they are those of its
ImageNet model, with decays at the same shares of the epochs (70, 85 and 95 of
100), and weight decay and clipping of Perceiver IO. Its sizes of SpecAugment
and changes of colour, and what else it leaves open, are in
`perceiver_jax/presets/audioset.py`, `SpecAugment` and `ColourJitter`. The loss
is the mean over classes. The learning rate follows the batch size in
proportion.

  python train.py --config=configs/audioset_perceiver.py:tuned \
    --workdir=runs/audioset --config.data.data_dir=DIR \
    --config.model.precision=BFLOAT16

DIR is prepared by `python -m perceiver_jax.data.audioset`. One device runs the
same with --config.accumulation_steps=16, 64 clips at a time. Blocks are
recomputed in the backward pass, for which 1.1 (mel) to 2.6 GiB (raw_video) are
then saved where it would be 43 to 45 without remat, estimated by
--mode=dry_run; with the batch, 5 GiB, and all else the update of tuned takes 17
GiB (--compile, for a CPU). Cost of raw_video: three times 177 GFLOPs an
example, 9.0e19 for the paper's 1.7 million videos (computed), and a forward
pass more for remat.

Expected mean average precision in percent, from the paper, whose videos are not
all to be had any more; NOT YET RUN at full scale with this code:

  raw        38.3   raw audio
  mel        38.4   log-mel spectrogram
  video      25.8
  raw_video  43.5   the default, ''
  mel_video  43.2
  tuned      44.2   mel_video without SpecAugment; the spectrogram of an
                    example is dropped with probability 0.1
  debug      two steps of a tiny raw_video

The first version of the paper had other numbers, of a transposed matrix.
"""

from perceiver_jax import presets
from perceiver_jax.data.audioset.config import AudioSetData
from perceiver_jax.nn.repeat import Remat
from perceiver_jax.tasks.tagging import TaggingTask
from perceiver_jax.training.checkpoint import CheckpointConfig
from perceiver_jax.training.config import TrainConfig
from perceiver_jax.training.optimizers import Lamb
from perceiver_jax.training.schedules import StepDecay

VARIANTS = (
  '', 'raw', 'mel', 'video', 'raw_video', 'mel_video', 'tuned', 'debug',
)  # fmt: skip


def get_config(variant: str = '') -> TrainConfig:
  config = TrainConfig(
    model=presets.perceiver_audioset_raw_video(),
    data=AudioSetData(batch_size=1024, eval_batch_size=16),
    task=TaggingTask(),
    optimizer=Lamb(
      schedule=StepDecay(
        learning_rate=4e-3,
        reference_batch_size=1024,
        decay_epochs=(70.0, 85.0, 95.0),
      ),
      weight_decay=0.1,
      max_grad_norm=10.0,
    ),
    checkpoint=CheckpointConfig(
      every_steps=5000, best_metric='mean_average_precision'
    ),
    num_epochs=100.0,
    evaluate_every_steps=5000,
  )
  match variant:
    case '' | 'raw_video':
      pass
    case 'raw':
      config.model = presets.perceiver_audioset_raw()
      config.data.use_video = False
    case 'mel':
      config.model = presets.perceiver_audioset_mel()
      config.data.use_video = False
    case 'video':
      config.model = presets.perceiver_audioset_video()
      config.data.use_audio = False
    case 'mel_video':
      config.model = presets.perceiver_audioset_mel_video()
    case 'tuned':
      config.model = presets.perceiver_audioset_mel_video(is_tuned=True)
    case 'debug':
      _shrink(config)
    case _:
      raise ValueError(
        f'the variant must be one of {VARIANTS}, got {variant!r}.'
      )
  config.model.self_attend.remat = config.model.cross_attend.remat = Remat.ALL
  return config


def _shrink(config: TrainConfig) -> None:
  """Makes a job that takes seconds on a CPU."""
  config.model.num_latents = 8
  config.model.latent_channels = 32
  config.model.num_self_attends_per_block = 1
  for modality in config.model.inputs.modalities.values():
    modality.positions.num_bands = 4
  config.data.frame_size = (32, 32)
  config.data.num_eval_clips = 2
  config.data.batch_size = 8
  config.data.eval_batch_size = 8
  config.num_epochs, config.num_steps = None, 2
  config.log_every_steps = 1
  config.evaluate_every_steps = config.checkpoint.every_steps = 2
