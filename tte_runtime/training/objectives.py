"""What is minimised, as the modules that Trainer sees: the reasoner's next tokens, and InfoNCE over vectors.

The preset and the stages share them; they differ in where batches come from. Knows nothing of data and files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss
from torch import Tensor, nn
from torch.nn import functional as F

from tte_runtime.training.loop import autocast
from tte_runtime.training.states import Batch, forward

TEMPERATURE = 0.02  # of InfoNCE; arXiv 2510.05014


class ReasonerTraining(nn.Module):
    """The language model's parameters, and the negative log-likelihood of the supervised tokens.

    Args:
        model: of transformers; its tower is no part of this module.
        mixed: matrix products in bfloat16.
    """

    def __init__(self, model: Any, *, mixed: bool = True) -> None:
        super().__init__()
        self.language_model = model.get_decoder()
        if model.lm_head.weight is not model.get_input_embeddings().weight:
            self.lm_head = model.lm_head
        # Held in a tuple so that the tower and a tied lm_head are no parameters of this module.
        self.whole = (model,)
        self.mixed = mixed

    def forward(self, batch: Batch, num_items_in_batch: Any = None, **labels: Tensor) -> dict[str, Tensor]:
        """{"loss": mean over the supervised tokens}: of this batch, or of all batches of a step, which have
        `num_items_in_batch`. Trainer counts those where a batch names its "labels" beside itself.
        """
        with autocast(self.whole[0].device.type, self.mixed):
            logits, asked = forward(self.whole[0], batch)
        if num_items_in_batch is None:
            return {"loss": F.cross_entropy(logits.float(), asked)}
        return {"loss": F.cross_entropy(logits.float(), asked, reduction="sum") / num_items_in_batch}


class _Column(nn.Module):
    """sentence-transformers' form of an embedder: a dict of tensors in, one with "sentence_embedding" out."""

    def __init__(self, trained: nn.Module, embed: Callable[[list[Any]], Tensor]) -> None:
        super().__init__()
        self.trained = trained
        self.embed = embed

    def forward(self, features: dict[str, Any]) -> dict[str, Tensor]:
        items = [features["column"][row] for row in features["input_ids"][:, 0].tolist()]
        return {"sentence_embedding": self.embed(items)}


class Contrast(nn.Module):
    """InfoNCE, query to document, over batches of any size: gradients are cached (GradCache, arXiv 2101.06983).

    The loss is sentence-transformers' CachedMultipleNegativesRankingLoss. It cuts a column of a batch into
    mini-batches by rows of "input_ids"; here those are the numbers of the items, which are prepared, pictures and
    all, when their mini-batch is embedded, and again when its gradients are.

    Args:
        trained: what has the parameters.
        embed: items to vectors [S, E].
        mini_batch: most items whose activations are held at once.
    """

    def __init__(self, trained: nn.Module, embed: Callable[[list[Any]], Tensor], mini_batch: int) -> None:
        super().__init__()
        self.loss = CachedMultipleNegativesRankingLoss(
            nn.Sequential(_Column(trained, embed)),  # a SentenceTransformer is one
            scale=1 / TEMPERATURE,
            mini_batch_size=mini_batch,
        )

    def forward(self, columns: Sequence[list[Any]]) -> dict[str, Tensor]:
        """{"loss": ...} of queries, their positives, and any number of lists of negatives, all of one length."""
        rows = torch.arange(len(columns[0]))[:, None]
        return {"loss": self.loss([{"input_ids": rows, "column": column} for column in columns], torch.empty(0))}
