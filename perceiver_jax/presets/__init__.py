"""The published architectures.

Each function returns a new config, to be used as it is or changed first:

  config = presets.perceiver_io_imagenet_fourier()
  config.outputs.num_classes = 10

Parameter counts are exact. FLOPs are those of one example, a multiply and an
add counted separately as in the papers, computed by
`perceiver_jax.count_flops`. Results are the papers' own; this package has not
repeated those trainings. The sources:

[1] "Perceiver: General Perception with Iterative Attention", arXiv 2103.03206.
[2] "Perceiver IO: A General Architecture for Structured Inputs & Outputs",
    arXiv 2107.14795, and the published notebooks and training code:
    google-deepmind/deepmind-research `perceiver/` at f5de0ede.
"""

from perceiver_jax.presets.audioset import (
  perceiver_audioset_mel as perceiver_audioset_mel,
)
from perceiver_jax.presets.audioset import (
  perceiver_audioset_mel_video as perceiver_audioset_mel_video,
)
from perceiver_jax.presets.audioset import (
  perceiver_audioset_raw as perceiver_audioset_raw,
)
from perceiver_jax.presets.audioset import (
  perceiver_audioset_raw_video as perceiver_audioset_raw_video,
)
from perceiver_jax.presets.audioset import (
  perceiver_audioset_video as perceiver_audioset_video,
)
from perceiver_jax.presets.audioset import (
  perceiver_io_audioset_mel_video as perceiver_io_audioset_mel_video,
)
from perceiver_jax.presets.audioset import (
  perceiver_io_audioset_raw_video as perceiver_io_audioset_raw_video,
)
from perceiver_jax.presets.flow import (
  perceiver_io_optical_flow as perceiver_io_optical_flow,
)
from perceiver_jax.presets.imagenet import (
  perceiver_imagenet_fourier as perceiver_imagenet_fourier,
)
from perceiver_jax.presets.imagenet import (
  perceiver_imagenet_learned as perceiver_imagenet_learned,
)
from perceiver_jax.presets.imagenet import (
  perceiver_io_imagenet_conv as perceiver_io_imagenet_conv,
)
from perceiver_jax.presets.imagenet import (
  perceiver_io_imagenet_fourier as perceiver_io_imagenet_fourier,
)
from perceiver_jax.presets.imagenet import (
  perceiver_io_imagenet_learned as perceiver_io_imagenet_learned,
)
from perceiver_jax.presets.kinetics import (
  perceiver_io_kinetics_autoencoding as perceiver_io_kinetics_autoencoding,
)
from perceiver_jax.presets.language import (
  perceiver_io_language_bytes as perceiver_io_language_bytes,
)
from perceiver_jax.presets.language import (
  perceiver_io_language_bytes_plus_plus as perceiver_io_language_bytes_plus_plus,  # noqa: E501
)
from perceiver_jax.presets.language import (
  perceiver_io_language_glue as perceiver_io_language_glue,
)
from perceiver_jax.presets.language import (
  perceiver_io_language_sentencepiece as perceiver_io_language_sentencepiece,
)
from perceiver_jax.presets.modelnet40 import (
  perceiver_modelnet40 as perceiver_modelnet40,
)
from perceiver_jax.presets.starcraft import (
  perceiver_io_starcraft as perceiver_io_starcraft,
)
