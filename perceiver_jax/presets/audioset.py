"""The published architectures for AudioSet: sound and video, 527 classes.

Inputs are clips of 32 frames of 224 x 224 pixels at 25 Hz, and the 61,440
samples of their 1.28 seconds at 48 kHz; FLOPs are those of one such clip.
Results are mean average precision over 16 clips of 10 seconds. [1] and [2]: see
the package.

What the papers leave open, and what was chosen here:

- Latents of the original Perceiver: 512 x 1024, 8 heads a self-attend, since
  [1] calls the model a faster version of the one for ImageNet.
- Fourier bands of video: 16 an axis, the only number that gives the 487
  channels of [2], table 6 (384 of a patch of 2 x 8 x 8 pixels, 99 positions, 4
  learned). [2], appendix G speaks of 64 in all settings. The highest frequency
  is the Nyquist frequency of the grid of patches.
- Fourier bands of audio: 64, up to the Nyquist frequency of the tokens. With
  video they count nothing, since its tokens are wider and audio is padded.
- The spectrogram: 60 frames x 80 mel bins make the 4,800 inputs of [1]: a hop
  of 1,024 samples (21 ms), windows of 2,048, 50 Hz to 14 kHz, and positions in
  time and frequency. [1] says no more than 4,800.
- The logarithm of its power begins at -80 dB and is standardised, so that a
  spectrogram of zeros, which a dropped one becomes, is a mean one. Mean and
  deviation are an estimate: AudioSet's filter banks by Kaldi have -4.27 and
  4.57, which is published with AST (arXiv 2104.01778); noises and speech that
  have these have about -12 and 4 here.

SpecAugment is part of the spectrogram, which is computed on the device, and
its sizes are a choice, too; the augmentation of frames belongs to the data.
"""

from perceiver_jax.modalities.audio import AudioInput, SpectrogramInput
from perceiver_jax.modalities.base import InputConfig
from perceiver_jax.modalities.grid import FourierPositions
from perceiver_jax.modalities.label import LabelOutput
from perceiver_jax.modalities.multimodal import MultimodalInput
from perceiver_jax.modalities.spec_augment import SpecAugment
from perceiver_jax.modalities.video import VideoInput
from perceiver_jax.model import (
  AttentionDecoder,
  AverageDecoder,
  PerceiverConfig,
)

_NUM_CLASSES = 527
_NUM_SAMPLES = 61_440


def perceiver_audioset_raw() -> PerceiverConfig:
  """Describes the original Perceiver on raw audio: 480 patches of 128 samples.

  Parameters: 107,419,677.
  FLOPs: 126,391,977,728.
  Result: 38.3 (table 3; the text of [1] says 38.4).
  Source: [1] section 4.2, table 3.
  """
  return _perceiver(_raw_audio())


def perceiver_audioset_mel() -> PerceiverConfig:
  """Describes the original Perceiver on a log-mel spectrogram of 4,800 bins.

  Parameters: 107,432,017.
  FLOPs: 133,319,353,216, without those of the FFT.
  Result: 38.4.
  Source: [1] section 4.2, table 3.
  """
  return _perceiver(_mel())


def perceiver_audioset_video() -> PerceiverConfig:
  """Describes the original Perceiver on 12,544 patches of video.

  Parameters: 109,016,593.
  FLOPs: 174,808,645,632.
  Result: 25.8.
  Source: [1] section 4.2, table 3.
  """
  return _perceiver(_video())


def perceiver_audioset_raw_video() -> PerceiverConfig:
  """Describes the original Perceiver on raw audio and video: 13,024 inputs.

  In training the video of an example is zeroed with probability 0.3.

  Parameters: 109,048,771.
  FLOPs: 177,288,519,424.
  Result: 43.5; 39.7 without zeroing video. [2] reports 42.4 for a Perceiver of
  512 latent channels and one cross-attend.
  Source: [1] section 4.2, table 3.
  """
  return _perceiver(_fused(_raw_audio(), {'video': 0.3}))


def perceiver_audioset_mel_video(*, is_tuned: bool = False) -> PerceiverConfig:
  """Describes the original Perceiver on a spectrogram and video: 17,344 inputs.

  In training the video of an example is zeroed with probability 0.3.

  Parameters: 109,048,769.
  FLOPs: 194,112,248,704, without those of the FFT.
  Result: 43.2; tuned: 44.2; 39.9 without zeroing video.
  Source: [1] section 4.2, table 3.

  Args:
    is_tuned: whether the spectrogram of an example is zeroed as well, with
      probability 0.1, instead of SpecAugment.
  """
  audio, drop_probs = _mel(), {'video': 0.3}
  if is_tuned:
    audio.spec_augment = None
    drop_probs['audio'] = 0.1
  return _perceiver(_fused(audio, drop_probs))


def perceiver_io_audioset_raw_video() -> PerceiverConfig:
  """Describes Perceiver IO on raw audio and video: 13,024 inputs.

  Parameters: 24,922,462 (the paper: 25.0 million).
  FLOPs: 52,708,002,688 (the paper: 52.9 billion).
  Result: 43.3.
  Source: [2] table 10, appendix C.
  """
  return _perceiver_io(_raw_audio(), latent_channels=512)


def perceiver_io_audioset_mel_video() -> PerceiverConfig:
  """Describes Perceiver IO on a spectrogram and video: 17,344 inputs.

  Parameters: 86,568,284 (the paper: 88.2 million;
  the difference is unexplained).
  FLOPs: 129,284,324,480, without those of the FFT (the
  paper: 129.5 billion).
  Result: 44.9.
  Source: [2] table 10, appendix C.
  """
  return _perceiver_io(_mel(), latent_channels=1024)


def _raw_audio() -> AudioInput:
  positions = FourierPositions(num_bands=64, max_resolution=(480,))
  return AudioInput(
    samples_per_patch=128, num_samples=_NUM_SAMPLES, positions=positions
  )


def _mel() -> SpectrogramInput:
  positions = FourierPositions(num_bands=64, max_resolution=(60, 80))
  return SpectrogramInput(
    log_offset=1e-8,
    log_mean=-12.0,
    log_std=4.0,
    num_samples=_NUM_SAMPLES,
    positions=positions,
    spec_augment=SpecAugment(),
  )


def _video() -> VideoInput:
  positions = FourierPositions(num_bands=16, max_resolution=(16, 28, 28))
  return VideoInput(patch_size=(2, 8, 8), positions=positions)


def _fused(audio: InputConfig, drop_probs: dict[str, float]) -> MultimodalInput:
  # Learned encodings of 4 channels for video, as many as needed for audio.
  return MultimodalInput(
    modalities={'audio': audio, 'video': _video()},
    min_padding=4,
    drop_probs=drop_probs,
  )


def _perceiver(inputs: InputConfig) -> PerceiverConfig:
  """Describes two cross-attends, each before 8 self-attends; none shared."""
  return PerceiverConfig(
    inputs=inputs,
    outputs=LabelOutput(num_classes=_NUM_CLASSES, use_zero_init=True),
    num_cross_attends=2,
    num_blocks=2,
    num_self_attends_per_block=8,
    share_cross_attends=False,
    share_blocks=False,
    decoder=AverageDecoder(),
  )


def _perceiver_io(
  audio: InputConfig, *, latent_channels: int
) -> PerceiverConfig:
  return PerceiverConfig(
    inputs=_fused(audio, {'video': 0.3}),
    outputs=LabelOutput(num_classes=_NUM_CLASSES),
    latent_channels=latent_channels,
    num_blocks=1,
    num_self_attends_per_block=12,
    decoder=AttentionDecoder(query_channels=1024),
  )
