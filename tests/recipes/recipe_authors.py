"""The authors' prompts, written out with their sources, and their code in plain transformers, one request at a time.

`PAD` stands for the placeholder that processors repeat as often as a picture has tokens. Knows nothing of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from transformers import AutoTokenizer
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # elsewhere 5.10 wants torchvision

PAD = "<|image_pad|>"
IMAGE = f"<|vision_start|>{PAD}<|vision_end|>"
# The chat templates of Qwen2-VL and Qwen2.5-VL with add_generation_prompt=True.
USER = "<|im_start|>user\n%s<|im_end|>\n<|im_start|>assistant\n"
CHAT = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n" + USER
# Qwen3-VL's has no system turn of its own; Qwen3-VL-Embedding and GME put the instruction there.
SYSTEM = "<|im_start|>system\n%s<|im_end|>\n" + USER
# UME-R1's GENERATION_PROMPT (src/eval/VLM2Vec/src/data/collator/eval_collator.py).
UME = (
    "Represent the above input text, images, videos, or any combination of the three as embeddings. First output the "
    "thinking process in <think> </think> tags and then summarize the entire input in a word or sentence. Finally, use "
    "the <gen_emb> tag to represent the entire input."
)


class Plain:
    """A model with its tokenizer and image processor, and what the authors do with them.

    Args:
        model: in plain transformers. folder: its checkpoint.
        limits: `min_pixels` and `max_pixels`, where the authors set them.
    """

    def __init__(self, model: Any, folder: Any, **limits: int) -> None:
        self.model = model
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.processor = AutoImageProcessor.from_pretrained(folder, **limits)

    def inputs(self, prompt: str, images: list[Any]) -> dict[str, torch.Tensor]:
        """What a processor gives for a prompt with one placeholder a picture."""
        grids = []
        inputs = {}
        if images:
            batch = self.processor(images=images, return_tensors="pt")
            inputs = {"pixel_values": batch["pixel_values"], "image_grid_thw": batch["image_grid_thw"]}
            grids = [int(grid.prod()) // self.processor.merge_size**2 for grid in batch["image_grid_thw"]]
        parts = prompt.split(PAD)
        text = "".join(part + PAD * n for part, n in zip(parts, [*grids, 0], strict=True))
        ids = torch.tensor([self.tokenizer.encode(text)])
        inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if images:
            inputs["mm_token_type_ids"] = (ids == self.model.config.image_token_id).int()
        return inputs

    @torch.inference_mode()
    def last_token(self, prompt: str, images: list[Any], *, words_positions: bool = False) -> NDArray[np.float32]:
        """State of the last position. `words_positions`: pictures are counted like words."""
        inputs = self.inputs(prompt, images)
        if words_positions:
            inputs["position_ids"] = torch.arange(inputs["input_ids"].shape[1]).expand(3, 1, -1)
        states = self.model(**inputs, output_hidden_states=True).hidden_states[-1]
        return _normalised(states[0, -1])

    @torch.inference_mode()
    def at(self, prompt: str, images: list[Any], marker: str) -> NDArray[np.float32]:
        """State at the last `marker` of the prompt: UME-R1's discriminative mode, RGE's `ar_encode`."""
        inputs = self.inputs(prompt, images)
        places = (inputs["input_ids"][0] == self.tokenizer.convert_tokens_to_ids(marker)).nonzero()[:, 0]
        return _normalised(self.model(**inputs, output_hidden_states=True).hidden_states[-1][0, places[-1]])

    @torch.inference_mode()
    def gen_emb(self, prompt: str, images: list[Any], budget: int) -> tuple[NDArray[np.float32], list[int], str]:
        """UME-R1: README, "Example of obtaining generative embeddings", greedy as mteb has it.

        A trace without a marker that can be read is given one, which the authors do not do.

        Returns:
            the vector, the generated ids, and how the vector was come by.
        """
        gen, *stops = self.tokenizer.convert_tokens_to_ids(["<gen_emb>", "<|im_end|>", "<|endoftext|>"])
        inputs = self.inputs(prompt, images)
        output = self.generate(inputs, budget, stops)
        ids = output.sequences[0, inputs["input_ids"].shape[1] :].tolist()
        places = [j for j, token in enumerate(ids) if token == gen]
        if places and places[-1] + 1 < len(ids):
            how = "at the last of several" if len(places) > 1 else "at one marker"
            return _normalised(output.hidden_states[places[-1] + 1][-1][0, 0]), ids, how
        tail = ids if places else [*ids, gen]  # the last token was never fed
        how = "at the budget" if places else ("after the stop" if ids[-1] in stops else "forced")
        return _normalised(self.encode(inputs, tail)[0, -1]), ids, how

    @torch.inference_mode()
    def emb(self, prompt: str, images: list[Any], budget: int) -> tuple[NDArray[np.float32], list[int]]:
        """RGE: `encode_and_generate` of inference.py; one more forward over the cache reads the last token."""
        emb = self.tokenizer.convert_tokens_to_ids("<emb>")
        inputs = self.inputs(prompt, images)
        output = self.generate(inputs, budget, [emb])
        ids = output.sequences[0, inputs["input_ids"].shape[1] :].tolist()
        if ids[-1] != emb:  # the authors read the last text token here; we give it its <emb>
            return _normalised(self.encode(inputs, [*ids, emb])[0, -1]), ids
        more = self.model(
            input_ids=output.sequences[:, -1:], past_key_values=output.past_key_values, output_hidden_states=True
        )
        return _normalised(more.hidden_states[-1][0, -1]), ids

    def generate(self, inputs: dict[str, torch.Tensor], budget: int, stops: Sequence[int] = ()) -> Any:
        """`generate`, greedy, with every hidden state; without `stops` it writes `budget` tokens."""
        return self.model.generate(
            **inputs,
            max_new_tokens=budget,
            do_sample=False,
            eos_token_id=list(stops) or None,
            pad_token_id=0,
            output_hidden_states=True,
            return_dict_in_generate=True,
            use_cache=True,
        )

    def encode(self, inputs: dict[str, torch.Tensor], tail: list[int]) -> torch.Tensor:
        """States of prompt and `tail`, encoded from the start: [1, n, C]."""
        ids = torch.cat([inputs["input_ids"], torch.tensor([tail])], dim=1)
        inputs = inputs | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if "mm_token_type_ids" in inputs:
            inputs["mm_token_type_ids"] = (ids == self.model.config.image_token_id).int()
        self.model.model.rope_deltas = None
        return self.model(**inputs, output_hidden_states=True, use_cache=False).hidden_states[-1]


def _normalised(state: torch.Tensor) -> NDArray[np.float32]:
    return F.normalize(state.float(), dim=-1).numpy()
