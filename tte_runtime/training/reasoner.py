"""Stage 2: the decoder learns to think, by next-token loss on the teacher's traces over the frozen tower's
features.

The decoder's word embeddings start from the tower's naming tables, so that an image token is, from the
first step, nearly the sum of the words for what it shows and where. Knows nothing of embeddings (stage 3).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import Qwen2VLForConditionalGeneration

from tte_runtime.scenes.questions import KINDS
from tte_runtime.training.bank import Bank
from tte_runtime.training.loop import fit, in_words, keep, say
from tte_runtime.training.mixture import Mixture, make_sequence
from tte_runtime.training.objectives import ReasonerTraining
from tte_runtime.training.states import Batch, forward
from tte_runtime.training.tokens import IGNORED, Encoder, Row, TrainingSequence, pad
from tte_runtime.training.tower import NamingTower, contents, places

ROW_TOKENS = 192
LEARNING_RATE = 1.5e-3


def stack(rows: list[Row]) -> dict[str, Batch]:
    """Collate packed rows."""
    may_see = torch.stack([row.may_see for row in rows])[:, None]
    # Padding sees nothing; a row of all minus infinity would be nan, so the mask is a large finite number.
    mask = torch.zeros(may_see.shape).masked_fill_(~may_see, -1e9)
    features = [row.features for row in rows if row.features is not None]
    return {
        "batch": Batch(
            torch.stack([row.ids for row in rows]),
            torch.stack([row.labels for row in rows]),
            torch.stack([row.positions for row in rows], dim=1),
            mask,
            torch.cat(features) if features else None,
        )
    }


def adopt_words(model: Qwen2VLForConditionalGeneration, naming: NamingTower, encoder: Encoder) -> None:
    """Start the token embeddings of names and cells from the tower's tables, and the others at the same
    scale.
    """
    table = model.get_input_embeddings().weight
    with torch.no_grad():
        scale = naming.content.std().item()
        table.normal_(0.0, scale)
        for words, rows in ((contents(), naming.content), (places(), naming.place)):
            for word, row in zip(words, rows, strict=True):
                (token,) = encoder.encode(word)
                table[token] = row


@torch.no_grad()
def trace_accuracy(
    model: Qwen2VLForConditionalGeneration, bank: Bank, encoder: Encoder, *, seed: int, count: int
) -> dict[str, float]:
    """Share of held-out questions and documents whose greedy trace would equal the teacher's, by kind.

    Teacher-forced: greedy decoding writes exactly the teacher's trace if and only if every one of its
    tokens is the argmax after those before it.
    """
    result = {}
    for kind in (*KINDS, "document.scene", "document.picture", "document.text"):
        rng = np.random.default_rng([seed, 902])
        sequences: list[TrainingSequence] = []
        while len(sequences) < count:
            scene = int(rng.integers(len(bank.scenes)))
            one = make_sequence(kind, bank.scenes[scene], bank.scene_features[scene], bank, encoder, rng, "test")
            if one is not None:
                sequences.append(one)
        right = 0
        for start in range(0, count, 50):
            group = pad(sequences[start : start + 50], encoder)
            logits, labels = forward(model, Batch(group.ids, group.labels, group.positions, None, group.features))
            hits = torch.zeros_like(group.labels[:, 1:], dtype=torch.bool)
            asked = group.labels[:, 1:] != IGNORED
            hits[asked] = (logits.argmax(-1) == labels).cpu()
            right += int((hits | ~asked).all(dim=1).sum())
        result[kind] = right / count
    return result


def train_reasoner(
    model: Qwen2VLForConditionalGeneration,
    naming: NamingTower,
    bank: Bank,
    held_out: Bank,
    encoder: Encoder,
    folder: Path,
    *,
    steps: int,
    batch_size: int,
    seed: int,
    check_count: int = 200,
) -> None:
    """Train the decoder in place, or load it when `folder` has the finished weights. The tower is not
    touched.
    """
    done = folder / "decoder.safetensors"
    trained = ReasonerTraining(model)

    def check(count: int = max(check_count // 4, 1)) -> str:
        model.eval()
        words = "held-out " + in_words(trace_accuracy(model, held_out, encoder, seed=seed, count=count))
        model.train()
        return words

    if not done.is_file():
        adopt_words(model, naming, encoder)
        fit(
            "reasoner",
            trained,
            Mixture(bank, encoder, seed, steps * batch_size, ROW_TOKENS),
            stack,
            folder / "run",
            steps=steps,
            batch_size=batch_size,
            learning_rate=LEARNING_RATE,
            seed=seed,
            device=model.device.type,
            check=check,
            check_every=300,
        )
        say("reasoner: " + check(check_count))
        keep(trained.state_dict(), done)
    trained.load_state_dict(load_file(done))
    model.eval()
