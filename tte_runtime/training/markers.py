"""The bundled reasoner in other people's layouts: it writes UME-R1's `<gen_emb>`, or stops at RGE's `<emb>`.

    python -m tte_runtime.training.markers ume_r1 --out FOLDER

tte-tiny knows how to think; what it learns here is a prompt, a marker, and to be read at it. A LoRA adapter on all
layers of the decoder and one row of the embedding a marker learn together: the teacher's traces word for word, marker
included, and InfoNCE between the states at the markers, hard negatives among them (contests.py). The result is a
folder in peft's layout that the runtime serves as it stands. Knows layouts by their recipes; nothing of serving.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from tokenizers import AddedToken
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2VLForConditionalGeneration

from tte_runtime.models.checkpoint import find_folder
from tte_runtime.training.bank import features_of, make_bank
from tte_runtime.training.base import LORA_TARGETS, round_to
from tte_runtime.training.blueprint import build_image_processor
from tte_runtime.training.contests import Contest, Item
from tte_runtime.training.layouts import LAYOUTS, Layout, LayoutEncoder, Marked, MarkedContests
from tte_runtime.training.lessons import Lesson, by_length
from tte_runtime.training.loop import autocast, fit
from tte_runtime.training.states import Batch, decode
from tte_runtime.training.tokens import IGNORED, TrainingSequence, pad
from tte_runtime.training.vision import shrink

BASE = "tte-tiny"
RANK = 16
LEARNING_RATE = 2e-3
# Steps, and questions in a batch, each with its document and two that are nearly right. UME-R1's prompt is 150 tokens,
# and documents think, too: a question costs five times as much as in RGE's layout.
PLANS = {"ume_r1": (700, 16), "rge": (300, 32)}
GROUP_SIZE = 32
# Far smaller than tte-tiny's own bank: only questions have to be new, the tower and the words are known.
BANK_SCENES, BANK_RENDERINGS = 3000, 6
BLANK_PX = 112  # what the checkpoint's processor makes of the recipe's blank picture


class MarkerTraining(nn.Module):
    """What Trainer sees: the parameters of the adapter, and the loss.

    As with the head, vectors are first asked for the words they stand for, and InfoNCE takes over on the way.
    """

    def __init__(self, model: Qwen2VLForConditionalGeneration, encoder: LayoutEncoder) -> None:
        super().__init__()
        self.learnt = nn.ParameterList(one for one in model.parameters() if one.requires_grad)
        self.whole = (model,)  # in a tuple, so that what is frozen is no part of this module
        self.encoder = encoder
        self.lessons = {marker: Lesson() for marker in encoder.layout.markers}
        self.written: list[float] = []

    def forward(self, contest: Contest) -> dict[str, Tensor]:
        with autocast("cpu"):
            vectors, loss = self._run(contest.items)
        self.written.append(loss.item())
        table = self.whole[0].get_input_embeddings().weight
        for lesson, own in zip(self.lessons.values(), vectors.unbind(1), strict=True):
            loss = loss + lesson.loss(own, table, contest)
        return {"loss": loss}

    def _run(self, items: list[Item]) -> tuple[Tensor, Tensor]:
        """L2-normalised fp32 vectors [S, M, C] of items at their markers, and the mean loss of what they write."""
        groups, order = by_length(items, GROUP_SIZE)
        vectors, losses = [], []
        for chosen in groups:
            group = pad([self._sequence(one) for one in chosen], self.encoder)
            batch = Batch(group.ids, group.labels, group.positions, None, group.features)
            states = decode(self.whole[0], batch)
            labels = group.labels[:, 1:]
            logits = self.whole[0].lm_head(states[:, :-1][labels != IGNORED])
            losses.append(F.cross_entropy(logits.float(), labels[labels != IGNORED], reduction="none"))
            places = [[_last(one.ids, marker) for marker in self.encoder.markers] for one in chosen]
            vectors.append(states[torch.arange(len(chosen))[:, None], torch.tensor(places)])
        return F.normalize(torch.cat(vectors)[order].float(), dim=-1), torch.cat(losses).mean()

    def _sequence(self, item: Item) -> TrainingSequence:
        assert isinstance(item, Marked)
        given = len(item.ids) - item.written
        return TrainingSequence(item.ids, [IGNORED] * given + item.ids[given:], item.features)

    def report(self) -> str:
        """The losses since the last report, in words."""
        parts = [f"trace {sum(self.written) / len(self.written):.3f}"]
        self.written.clear()
        return "(training) " + "; ".join(
            parts + [f"{marker} {lesson.report()}" for marker, lesson in self.lessons.items()]
        )


def _last(ids: list[int], token: int) -> int:
    return len(ids) - 1 - ids[::-1].index(token)


def train_markers(name: str, out: Path, *, plan: tuple[int, int] | None = None, seed: int = 0) -> Path:
    """Train the adapter of one layout, or leave a finished one as it is; an interrupted run goes on.

    Args:
        name: of LAYOUTS.
        out: folder of the run.
        plan: steps and questions, in the stead of the layout's own, for trials.

    Returns:
        the adapter's folder, `out`/`name`.
    """
    steps, questions = plan or PLANS[name]
    layout, folder = LAYOUTS[name], out / name
    if (folder / "adapter_model.safetensors").is_file():
        return folder
    base = find_folder(BASE)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens([AddedToken(marker, normalized=False) for marker in layout.markers], special_tokens=True)
    encoder = LayoutEncoder(tokenizer, layout)
    # On a CPU the backward pass of torch's fused attention takes ten times as long in bfloat16 as plain products do.
    model = Qwen2VLForConditionalGeneration.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    tower = model.model.visual
    bank = make_bank(
        tower, out / "bank.safetensors", seed=seed, split="train", scenes=BANK_SCENES, renderings=BANK_RENDERINGS
    )
    (white,) = features_of(tower, [shrink(Image.new("RGB", (BLANK_PX, BLANK_PX), "white"))])
    blank = white if layout.recipe.media.blank else None
    adapted = adapt(model, encoder, seed)
    training = MarkerTraining(model, encoder)
    contests = MarkedContests(bank, encoder, tower, None, seed, questions, steps, True, 0.0, blank)
    fit(
        name,
        training,
        contests,
        lambda items: {"contest": items[0]},
        out / f"{name}-run",
        steps=steps,
        batch_size=1,
        learning_rate=LEARNING_RATE,
        seed=seed,
        warmup_steps=steps // 20,
        save_every=50,
        check=training.report,
        check_every=25,
    )
    write_adapter(adapted, tokenizer, layout, folder)
    return folder


def adapt(model: Qwen2VLForConditionalGeneration, encoder: LayoutEncoder, seed: int) -> Any:
    """peft's model around `model`, which is changed in place: LoRA in every layer, a row of its own for each marker.

    The rows are free ones of the padded vocabulary, as UME-R1's are, and start as copies of what ends a trace.
    """
    torch.manual_seed(seed)
    table = model.get_input_embeddings().weight
    with torch.no_grad():
        table[encoder.markers] = table[encoder.stop].clone()
    config = LoraConfig(
        r=RANK,
        lora_alpha=2 * RANK,
        target_modules=LORA_TARGETS,
        trainable_token_indices={"embed_tokens": encoder.markers},
    )
    return get_peft_model(model, config)


def write_adapter(adapted: Any, tokenizer: PreTrainedTokenizerFast, layout: Layout, folder: Path) -> None:
    """Write the adapter in bfloat16 with its tokenizer and processor; its base is known by its name."""
    round_to(adapted, torch.bfloat16, keep=False)
    adapted.peft_config["default"].base_model_name_or_path = BASE
    tokenizer.save_pretrained(folder)
    build_image_processor().save_pretrained(folder)
    if layout.named:
        (folder / "tte.json").write_text(json.dumps({"recipe": layout.recipe.name}) + "\n", encoding="utf-8")
    # Only the markers have rows of their own; peft would ask the hub for the base, to see whether others have changed.
    adapted.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # a card of peft's with nothing filled in


@click.command()
@click.argument("layout", type=click.Choice(tuple(LAYOUTS)))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the run.")
@click.option("--seed", default=0, show_default=True, help="Of weights, scenes, questions and order.")
def main(layout: str, out: Path, seed: int) -> None:
    """Teach tte-tiny another layout (minutes of a CPU core); prints the adapter's folder."""
    click.echo(train_markers(layout, out, seed=seed))


if __name__ == "__main__":
    main()
