"""The published autoencoder of video, sound and label; [2]: see the package."""

from perceiver_jax.modalities.audio import AudioInput, AudioOutput
from perceiver_jax.modalities.grid import FourierPositions
from perceiver_jax.modalities.label import LabelInput, LabelOutput
from perceiver_jax.modalities.multimodal import (
  MultimodalInput,
  MultimodalOutput,
)
from perceiver_jax.modalities.video import VideoInput, VideoOutput
from perceiver_jax.model import AttentionDecoder, PerceiverConfig
from perceiver_jax.nn.blocks import CrossAttendConfig, SelfAttendConfig

_NUM_SAMPLES = 30_720
_NUM_CLASSES = 700


def perceiver_io_kinetics_autoencoding() -> PerceiverConfig:
  """Describes the autoencoder of Kinetics-700, and its classifier.

  Inputs and outputs are a dict of 'image': 16 frames of 224 x 224 pixels in
  [0, 1]; 'audio': 30,720 samples at 48 kHz; 'label': one-hot, masked for half
  of the examples in training and always in evaluation. The names are those of
  the published weights. All of the outputs at once are 804,737 queries; ask
  for a part of them:

    queries = {'image': np.arange(512), 'audio': np.arange(512), 'label': None}

  784 latents compress 88 times; 392 and 196 of them 176 and 352 times.

  Parameters: 19,858,855 (the paper: 20.0 million).
  FLOPs: 260,075,419,664 for 512 pixels, 512
  patches of audio and the label as in training (the paper: 310 billion), and
  7,470,419,554,320 for all outputs (the paper: 6.85
  trillion); the paper's figures fit no reading of its sizes.
  Result: audio 26.97 dB, video 24.37 dB, 10.2 % of labels.
  Source: [2] appendix I; the notebook `video_autoencoding`, which this follows
  where they differ: 1,920 patches of audio (the paper's 50,657 inputs imply
  480), 32 bands for video and 192 for audio (the paper: 64 in all settings),
  the highest frequencies being those of the samples for audio, and of patches
  for video. Positions of video and audio thus have 195 and 385 channels
  (appendix I: 387 and 385), and a token is padded by 461 and 303 learned ones
  (appendix I: 317 and 319, which leave no room for the content). Outputs have
  coordinates that leave out the end point.
  """
  audio = FourierPositions(num_bands=192, max_resolution=(_NUM_SAMPLES,))
  video = FourierPositions(num_bands=32, max_resolution=(16, 56, 56))
  inputs = MultimodalInput(
    modalities={
      'audio': AudioInput(num_samples=_NUM_SAMPLES, positions=audio),
      'image': VideoInput(patch_size=(1, 4, 4), positions=video),
      'label': LabelInput(num_classes=_NUM_CLASSES),
    },
    mask_probs={'audio': 0.0, 'image': 0.0, 'label': 0.5},
    masked_in_evaluation=('label',),
  )
  outputs = MultimodalOutput(
    modalities={
      'audio': AudioOutput(num_samples=_NUM_SAMPLES, positions=audio),
      'image': VideoOutput(size=(16, 224, 224), positions=video),
      'label': LabelOutput(num_classes=_NUM_CLASSES),
    },
    projected_channels=512,
  )
  return PerceiverConfig(
    inputs=inputs,
    outputs=outputs,
    num_latents=784,
    latent_channels=512,
    num_blocks=1,
    num_self_attends_per_block=8,
    self_attend=SelfAttendConfig(num_heads=8),
    decoder=AttentionDecoder(
      query_channels=1026,
      cross_attend=CrossAttendConfig(use_query_residual=False),
    ),
  )
