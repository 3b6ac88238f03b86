"""AudioSet with Perceiver IO: its rows of table 10.

Source: arXiv 2107.14795, appendix C: 12 process layers, one encoder
cross-attend, 512 latents of the better of 512 and 1024 channels, otherwise the
protocol of the original Perceiver (see configs/audioset_perceiver.py). What it
leaves open is that of its ImageNet models: LAMB, learning rate 2e-3 at batch
1024 for half of the 100 epochs, then a cosine to 0, no warm-up; weight decay
0.1, clipping at 10. The learning rate follows the batch size in proportion.

  python train.py --config=configs/audioset_perceiver_io.py:mel_video \
    --workdir=runs/audioset_io --config.data.data_dir=DIR \
    --config.model.precision=BFLOAT16

DIR is prepared by `python -m perceiver_jax.data.audioset`. One device runs the
same with --config.accumulation_steps=16, 64 clips at a time. Blocks are
recomputed in the backward pass, for which 1.3 (raw_video) or 1.7 GiB
(mel_video) are then saved where it would be 22 or 33 without remat; estimated
by --mode=dry_run. Cost: three times 53 (raw_video) or 129 GFLOPs (mel_video) an
example, 2.7e19 or 6.6e19 for the 1.7 million videos of the original paper
(computed), and a forward pass more for remat.

Expected mean average precision in percent, from the paper; NOT YET RUN at full
scale with this code:

  raw_video  43.3   the default, '': raw audio and video, 512 latent channels
  mel_video  44.9   log-mel spectrogram and video, 1024 latent channels
  debug      two steps of a tiny raw_video
"""

from perceiver_jax import presets
from perceiver_jax.data.audioset.config import AudioSetData
from perceiver_jax.nn.repeat import Remat
from perceiver_jax.tasks.tagging import TaggingTask
from perceiver_jax.training.checkpoint import CheckpointConfig
from perceiver_jax.training.config import TrainConfig
from perceiver_jax.training.optimizers import Lamb
from perceiver_jax.training.schedules import FlatThenCosine

VARIANTS = ('', 'raw_video', 'mel_video', 'debug')


def get_config(variant: str = '') -> TrainConfig:
  config = TrainConfig(
    model=presets.perceiver_io_audioset_raw_video(),
    data=AudioSetData(batch_size=1024, eval_batch_size=16),
    task=TaggingTask(),
    optimizer=Lamb(
      schedule=FlatThenCosine(learning_rate=2e-3, reference_batch_size=1024),
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
    case 'mel_video':
      config.model = presets.perceiver_io_audioset_mel_video()
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
  config.model.decoder.query_channels = 32
  for modality in config.model.inputs.modalities.values():
    modality.positions.num_bands = 4
  config.data.frame_size = (32, 32)
  config.data.num_eval_clips = 2
  config.data.batch_size = 8
  config.data.eval_batch_size = 8
  config.num_epochs, config.num_steps = None, 2
  config.log_every_steps = 1
  config.evaluate_every_steps = config.checkpoint.every_steps = 2
