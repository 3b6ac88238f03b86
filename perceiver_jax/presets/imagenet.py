"""The published architectures for ImageNet.

Parameter counts are exact, for 1,000 classes. FLOPs are those of one image of
224 x 224 pixels. Accuracies are the papers' own, top-1 on the ImageNet
validation set after training on ImageNet alone; this package has not repeated
those trainings. [1] and [2]: see the package.
"""

from perceiver_jax.modalities.image import (
  Conv1x1Embedding,
  ConvEmbedding,
  FourierPositions,
  ImageInput,
  LearnedPositions,
)
from perceiver_jax.modalities.label import LabelOutput
from perceiver_jax.model import (
  AttentionDecoder,
  AverageDecoder,
  PerceiverConfig,
)
from perceiver_jax.nn.blocks import CrossAttendConfig


def perceiver_imagenet_fourier(
  *, share_weights: bool = True
) -> PerceiverConfig:
  """Describes the original Perceiver on pixels with Fourier features.

  Eight cross-attends to 50,176 pixels, each followed by a latent transformer
  of six self-attends. `share_weights=False` is the ablation in which nothing
  is shared.

  Parameters: 44,912,254; not shared: 326,241,856.
  FLOPs: 706,279,096,320 (the paper: 707.2 billion), shared or not.
  Accuracy: 78.0 %; not shared: 72.9 %.
  Source: [1] section 4.1, tables 1 and 7, appendix C.

  What [1] leaves open or contradicts, and what was chosen here:

  - Heads of a self-attend: not given for this model; 8, as in the ablations of
    appendix B and in the published code.
  - Sharing "all but the first cross-attend and latent Transformer" may leave
    the first latent transformer its own weights or not. It shares them: that
    gives the 44.9 million parameters of the paper, the other reading 82.7.
  - With one cross-attend, table 6 prints 41.1 and 42.1 million parameters for
    the same model; it has 42.1.
  - Scale of the initial latents: 0.02, from appendix C. Of others, the text of
    appendix B says that 1 or more may be unstable, the caption of figure 6 that
    0.1 diverged.

  Args:
    share_weights: whether cross-attends 2 to 8 share one set of weights and
      all latent transformers another.
  """
  return PerceiverConfig(
    inputs=ImageInput(positions=_fourier_positions(224)),
    outputs=LabelOutput(num_classes=1000, use_zero_init=True),
    num_cross_attends=8,
    share_cross_attends=share_weights,
    share_blocks=share_weights,
    decoder=AverageDecoder(),
  )


def perceiver_imagenet_learned() -> PerceiverConfig:
  """Describes the original Perceiver with learned positions.

  It is told nothing of the two axes of an image, and attends to the inputs
  once, because training with eight cross-attends was unstable.

  Parameters: 48,189,577.
  FLOPs: 380,107,411,456.
  Accuracy: 70.9 %, the same if the pixels are permuted.
  Source: [1] table 2 and appendix B.
  """
  positions = LearnedPositions(
    grid=(224, 224), num_channels=128, init_scale=1.0
  )
  return PerceiverConfig(
    inputs=ImageInput(positions=positions),
    outputs=LabelOutput(num_classes=1000, use_zero_init=True),
    decoder=AverageDecoder(),
  )


def perceiver_io_imagenet_fourier(
  *, use_attention_decoder: bool = True
) -> PerceiverConfig:
  """Describes Perceiver IO on pixels with Fourier features.

  Parameters: 48,440,627; average decoder: 42,135,859.
  FLOPs: 406,124,744,704 (the paper: 407 billion); average decoder:
  403,966,775,296 (404 billion).
  Accuracy: 79.0 %; average decoder: 78.6 %.
  Source: [2] table 7 and appendix A, configuration A; the notebook's
  `imagenet_fourier_position_encoding`.

  Args:
    use_attention_decoder: if False, the mean over latents as in the original
      Perceiver, trained by the recipe of Perceiver IO.
  """
  inputs = ImageInput(positions=_fourier_positions(224))
  return _perceiver_io_imagenet(inputs, use_attention_decoder)


def perceiver_io_imagenet_learned(
  *, use_attention_decoder: bool = True
) -> PerceiverConfig:
  """Describes Perceiver IO with learned positions: no knowledge of 2D.

  The published decoder does not add its query to what it reads. Hugging Face's
  code does, with the same weights; the notebook's choice is kept here, and no
  run of the published weights has settled it. `as_huggingface` in
  `perceiver_jax.weights.huggingface` makes the other.

  Parameters: 62,255,848; average decoder: 55,951,080.
  FLOPs: 478,038,933,504; average decoder: 475,880,964,096. The paper prints
  the figures of Fourier features, 407 and 404 billion, but those tokens have
  261 channels and these 512.
  Accuracy: 72.7 %; average decoder: 67.6 %.
  Source: [2] table 7 and appendix A, configuration A; the notebook's
  `imagenet_learned_position_encoding`.

  Args:
    use_attention_decoder: if False, the mean over latents as in the original
      Perceiver, trained by the recipe of Perceiver IO.
  """
  inputs = ImageInput(
    embedding=Conv1x1Embedding(channels=256),
    positions=LearnedPositions(grid=(224, 224), num_channels=256),
    position_projection=256,
  )
  return _perceiver_io_imagenet(
    inputs, use_attention_decoder, use_query_residual=False
  )


def perceiver_io_imagenet_conv(
  *, use_attention_decoder: bool = True
) -> PerceiverConfig:
  """Describes Perceiver IO on a convolutional stem with Fourier features.

  Parameters: 48,646,522 and 258 of batch statistics; average decoder:
  42,341,754 and 258.
  FLOPs: 369,364,730,880 (the paper: 369 billion); average decoder:
  367,206,761,472 (367 billion).
  Accuracy: 82.1 %; average decoder: 77.4 %.
  Source: [2] table 7 and appendix A, configuration A; the notebook's
  `imagenet_conv_preprocessing`.

  Args:
    use_attention_decoder: if False, the mean over latents as in the original
      Perceiver, trained by the recipe of Perceiver IO.
  """
  inputs = ImageInput(
    embedding=ConvEmbedding(channels=64), positions=_fourier_positions(56)
  )
  return _perceiver_io_imagenet(inputs, use_attention_decoder)


def _fourier_positions(size: int) -> FourierPositions:
  # The highest frequency belongs to the published size of the grid and stays
  # when a model is applied to images of another size.
  return FourierPositions(num_bands=64, max_resolution=(size, size))


def _perceiver_io_imagenet(
  inputs: ImageInput,
  use_attention_decoder: bool,
  *,
  use_query_residual: bool = True,
) -> PerceiverConfig:
  if use_attention_decoder:
    cross_attend = CrossAttendConfig(use_query_residual=use_query_residual)
    decoder = AttentionDecoder(query_channels=1024, cross_attend=cross_attend)
  else:
    decoder = AverageDecoder()
  return PerceiverConfig(
    inputs=inputs,
    outputs=LabelOutput(
      num_classes=1000, use_zero_init=not use_attention_decoder
    ),
    decoder=decoder,
  )
