"""The published language models; [2]: see the package."""

from perceiver_jax.modalities.base import OutputConfig
from perceiver_jax.modalities.label import LabelOutput
from perceiver_jax.modalities.multimodal import MultimodalOutput
from perceiver_jax.modalities.text import TextInput, TextOutput
from perceiver_jax.model import AttentionDecoder, PerceiverConfig
from perceiver_jax.nn.blocks import CrossAttendConfig, SelfAttendConfig

_NUM_CHANNELS = 768
# Classes of a task; the similarity of STS-B is a single number.
_GLUE_CLASSES = {
  'cola': 2,
  'mnli': 3,
  'mrpc': 2,
  'qnli': 2,
  'qqp': 2,
  'rte': 2,
  'sst2': 2,
  'stsb': 1,
}


def perceiver_io_language_bytes() -> PerceiverConfig:
  """Describes the masked language model on 2,048 bytes of UTF-8.

  Ids are those of `BytesTokenizer`: 256 bytes and 6 special tokens as in the
  notebook, where [2] says 4. Give the mask of what is not padding as
  `input_mask`; `queries` may be the masked positions alone.

  Parameters: 201,108,230 (the paper: 201 million).
  FLOPs: 120,949,047,296 for 2,048 outputs (the paper: 113 billion).
  Result: GLUE 81.0.
  Source: [2] section 4.1, tables 6 and 11, appendix F; the published notebook
  `masked_language_modelling`, which has decoder queries of 768 channels, like
  table 11, where table 6 says 1,280; and queries and keys of 256 channels.
  """
  return _language_model(TextInput(), TextOutput())


def perceiver_io_language_sentencepiece() -> PerceiverConfig:
  """Describes the masked language model on 512 SentencePiece tokens.

  The tokenizer itself, of 32,000 tokens, was not published.

  Parameters: 223,155,456 (the paper: 223 million).
  FLOPs: 133,613,748,224 for 512 outputs (the paper: 119 billion), of
  which 25 billion are the comparison with the vocabulary.
  Result: GLUE 81.2.
  Source: [2] section 4.1, tables 6 and 11, appendix F; the rest as for bytes.
  """
  return _language_model(
    TextInput(vocab_size=32_000, max_length=512), TextOutput(max_length=512)
  )


def perceiver_io_language_bytes_plus_plus() -> PerceiverConfig:
  """Describes the larger masked language model on bytes, "Perceiver IO++".

  40 self-attends of 1,536 channels. That queries and keys keep 256 channels is
  not stated; it gives the paper's number of parameters.

  Parameters: 425,607,430 (the paper: 425 million).
  FLOPs: 240,872,587,264 for 2,048 outputs (the paper: 241 billion).
  Result: GLUE 81.8.
  Source: [2] section 4.1, tables 6 and 11, appendix F; the rest as for bytes.
  """
  return _language_model(
    TextInput(), TextOutput(), latent_channels=1536, num_layers=40
  )


def perceiver_io_language_glue(
  *, use_multitask_queries: bool = False
) -> PerceiverConfig:
  """Describes the model on bytes, fine-tuned to the tasks of GLUE.

  A sentence or pair is classified by one learned query; set
  `outputs.num_classes` to that of the task. Inputs, encoder and processor are
  those of `perceiver_io_language_bytes`; so is the decoder's block, whose sizes
  [2] does not state for GLUE. A head is a layer of 768 channels, tanh, and a
  linear layer.

  Parameters: 200,128,002; multitask: 204,278,288.
  FLOPs: 111,003,700,224; multitask: 111,043,174,400.
  Result: GLUE 81.0; multitask: 81.8.
  Source: [2] section 4.1, tables 2 and 3, appendix F.5.

  Args:
    use_multitask_queries: a query and a head for each of eight tasks (WNLI is
      left out), the rest shared; the outputs are a dict. `queries={'cola':
      None}` asks for one task only.
  """
  if not use_multitask_queries:
    return _language_model(TextInput(), _glue_output(2))
  tasks = {name: _glue_output(count) for name, count in _GLUE_CLASSES.items()}
  outputs = MultimodalOutput(
    modalities=tasks, min_padding=0, projected_channels=None
  )
  return _language_model(TextInput(), outputs)


def _glue_output(num_classes: int) -> LabelOutput:
  return LabelOutput(num_classes=num_classes, head_channels=_NUM_CHANNELS)


def _language_model(
  inputs: TextInput,
  outputs: OutputConfig,
  *,
  latent_channels: int = 1280,
  num_layers: int = 26,
) -> PerceiverConfig:
  return PerceiverConfig(
    inputs=inputs,
    outputs=outputs,
    num_latents=256,
    latent_channels=latent_channels,
    num_blocks=1,
    num_self_attends_per_block=num_layers,
    cross_attend=CrossAttendConfig(
      num_heads=8, qk_channels=256, v_channels=latent_channels
    ),
    self_attend=SelfAttendConfig(
      num_heads=8, qk_channels=256, v_channels=latent_channels
    ),
    decoder=AttentionDecoder(
      query_channels=_NUM_CHANNELS,
      cross_attend=CrossAttendConfig(
        num_heads=8,
        qk_channels=256,
        v_channels=_NUM_CHANNELS,
        use_query_residual=False,
      ),
    ),
  )
