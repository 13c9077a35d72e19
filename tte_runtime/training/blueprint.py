"""What tte-tiny is before training: its tokenizer, its configuration, its fresh weights, its image processor.

Knows shapes and words; knows nothing of losses, nor of tte.json (see checkpoint.py).
"""

from __future__ import annotations

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from tte_runtime.scenes import pictures
from tte_runtime.scenes.world import CELLS
from tte_runtime.training.vision import MAX_PIXELS

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
MARKERS = ("<think>", "</think>")
# Words beside the pictures', the categories' and the cells' names; anything else is spelt in bytes.
WORD_LIST = (
    "user assistant document what is at the of to a an in and with this that which who show me picture "
    "scene text board cell square right left above below over under up down one two three cells step "
    "steps stands directly thing things kind category where find describe same but replaced by place put "
    "instead go from then there sort does belong belongs name named everything list all board empty walk "
    "tell on it its next seen can you see first replace every by for has image look"
)
VOCABULARY_MULTIPLE = 64
# Training shows pictures of 4, 9 and 16 merged tokens as they are. Those of 4 are named right only 80 % of the
# time and those of 9 95 %, but enlarged to 16 tokens 99 %: the checkpoint's processor enlarges.
SERVED_MIN_PIXELS = 100 * 100


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE in which every word of the world is one token.

    Whitespace and case carry no meaning: text is lower-cased (NFC), cut into words, numbers and signs, and
    each is encoded as if a blank stood before it. Cell names ("b3") are one piece. Any UTF-8 text encodes,
    in bytes where it has to.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    pieces = Regex(r"[a-d][1-4](?![\p{L}\p{N}])|\p{L}+|\p{N}+|[^\s\p{L}\p{N}]")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pieces, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    words = [
        *pictures.names(),
        *sorted(set(pictures.categories().values())),
        *CELLS,
        *WORD_LIST.split(),
        *"?,.:;-'\"!()",
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        min_frequency=1,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(words)] * 2, trainer)
    tokenizer.add_tokens([AddedToken(marker, special=False, normalized=False) for marker in MARKERS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[token for token in SPECIAL if token not in ("<|im_end|>", "<|endoftext|>")],
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )


def build_config(tokenizer: PreTrainedTokenizerFast) -> Qwen2VLConfig:
    """The shape of the model: 6 decoder layers and 3 tower blocks of width 192."""
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    vocabulary = -(-len(tokenizer) // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    text = {
        "vocab_size": vocabulary,
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "initializer_range": 0.04,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
        # Half of each head turns slowest, by the width axis: on text that is nearly no position, which
        # look-ups by content want.
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 4, 8]},
    }
    vision = {
        "depth": 3,
        "embed_dim": 192,
        "hidden_size": 192,
        "num_heads": 6,
        "mlp_ratio": 3,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    return Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=True,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        eos_token_id=ids["<|im_end|>"],
        pad_token_id=ids["<|endoftext|>"],
    )


def build_model(config: Qwen2VLConfig, seed: int) -> Qwen2VLForConditionalGeneration:
    """Fresh fp32 weights, a function of the seed."""
    torch.manual_seed(seed)
    model = Qwen2VLForConditionalGeneration(config).float()
    # On a CPU the backward pass of torch's fused attention takes ten times as long in bfloat16 as plain products do.
    model.set_attn_implementation("eager")
    return model


def build_image_processor(min_pixels: int = SERVED_MIN_PIXELS) -> Qwen2VLImageProcessorPil:
    """The Qwen2-VL image processor of the checkpoint: at most 112x112 pixels, sixteen merged tokens."""
    return Qwen2VLImageProcessorPil(
        patch_size=14, merge_size=2, temporal_patch_size=2, min_pixels=min_pixels, max_pixels=MAX_PIXELS
    )
