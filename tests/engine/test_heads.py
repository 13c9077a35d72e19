"""The four kinds of head: the engine's equal those of plain torch, whoever is read beside, and bad ones are refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from tte_runtime import Embedder, Think
from tte_runtime.errors import CheckpointError
from tte_runtime.evaluation.plain import PlainEmbedder
from tte_runtime.heads.head import load_head
from tte_runtime.heads.reference import load_reference_head, make_reference_head
from tte_runtime.heads.spec import KINDS, HeadSpec
from tte_runtime.models.spec import decoder_spec
from tte_runtime.ops import Pooling, TorchOps

SIZES = {
    "decoder_layers": {"num_layers": 2},
    "attention_pooler": {"num_queries": 3, "num_heads": 2, "intermediate_size": 48},
    "latent_attention": {"num_latents": 10, "num_heads": 4, "intermediate_size": 80},
    "qformer": {"num_layers": 2, "num_queries": 5, "num_heads": 4, "intermediate_size": 96},
}
CPU = torch.device("cpu")


def backbone(num_layers: int, hidden_size: int) -> Any:
    """As much of a `DecoderSpec` as an entry is checked against."""
    return SimpleNamespace(num_layers=num_layers, hidden_size=hidden_size)


def with_head(folder: Path, target: Path, kind: str, **more: Any) -> Path:
    """`folder` again, with a strongly random head of `kind` in the stead of its own."""
    shutil.copytree(folder, target)
    torch.manual_seed(5)
    sizes = SIZES[kind] | more
    head = make_reference_head(kind, AutoConfig.from_pretrained(folder), **sizes)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(1.0, 0.2) if parameter.dim() == 1 else parameter.normal_(0.0, 0.3)
    head.save(target)
    entry = json.loads((target / "tte.json").read_text())
    entry["head"] = {"kind": kind, "tap_layer": 2, **sizes}
    (target / "tte.json").write_text(json.dumps(entry))
    return target


@pytest.fixture(scope="module", params=[*KINDS, "decoder_layers mean"])
def headed(request: Any, random_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kind, _, readout = request.param.partition(" ")
    more = {"readout": readout} if readout else {}
    return with_head(random_folder, tmp_path_factory.mktemp("headed") / kind, kind, **more)


def test_through_the_engine_as_in_plain_transformers(headed: Path, requests: list[Any]) -> None:
    """Pages, chunks, prefix hits and neighbours of other lengths, and vectors that are cut."""
    plain, chosen = PlainEmbedder.from_pretrained(headed), requests[:12]
    with Embedder.from_pretrained(headed, max_prefill_tokens=40) as embedder:
        for role in ("query", "document"):
            own = [(item, limit) for item, other, limit in chosen if other == role]
            for limit in {limit for _, limit in own}:
                think = Think(max_tokens=limit)
                items = [item for item, its in own if its == limit]
                expected = [plain.embed(item, role=role, think=think) for item in items]
                for _ in range(2):
                    for ours, theirs in zip(embedder.embed(items, role=role, think=think), expected, strict=True):
                        assert ours.trace_ids == theirs.trace_ids
                        assert np.abs(ours.vector - theirs.vector).max() < 1e-5
                        assert ours.counts.head == theirs.head
                short = embedder.embed(items[0], role=role, think=think, truncate_dim=24).vector
                cut = expected[0].vector[:24]
                assert short.shape == (24,)
                length = np.linalg.norm(
                    cut
                )  # what is cut off had been part of unit length, and errors grow with the rest
                assert np.abs(short - cut / length).max() < 1e-5 / length


def test_no_vector_depends_on_its_neighbours(headed: Path) -> None:
    config = AutoConfig.from_pretrained(headed)
    entry = json.loads((headed / "tte.json").read_text())["head"]
    spec = HeadSpec.from_json(entry, decoder_spec(config))
    head = load_head(headed, spec, decoder_spec(config), TorchOps(), device="cpu", dtype=torch.float32)
    reference = load_reference_head(headed, config, entry)
    lengths = [1, 37, 5, 16, 130]
    states = [10 * torch.randn(length, 64, generator=torch.Generator().manual_seed(length)) for length in lengths]
    places = [torch.arange(length).expand(3, -1) for length in lengths]

    def read(which: list[int]) -> torch.Tensor:
        pooling = Pooling.of([1] * len(which), [64] * len(which), [True] * len(which), CPU)
        packed = torch.cat([states[i] for i in which]), torch.cat([places[i] for i in which], dim=1)
        return head.forward(*packed, [lengths[i] for i in which], pooling)

    with torch.inference_mode():
        together = read([0, 1, 2, 3, 4])
        for i in range(len(lengths)):
            torch.testing.assert_close(together[i], read([i])[0], rtol=0, atol=1e-6)
        padded = torch.nn.utils.rnn.pad_sequence(states, batch_first=True, padding_value=1e4)
        positions = torch.nn.utils.rnn.pad_sequence([p.T for p in places], batch_first=True).permute(2, 0, 1)
        expected = reference(padded, positions, torch.tensor(lengths) - 1)
    torch.testing.assert_close(together, expected, rtol=0, atol=1e-5)


def test_sizes_have_defaults_for_a_backbone_of_two_billions() -> None:
    for kind, sizes in KINDS.items():
        spec = HeadSpec.from_json({"kind": kind, "tap_layer": 20}, backbone(28, 1536))
        assert spec.weights == "head.safetensors"
        assert asdict(spec.sizes) == asdict(sizes())


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"kind": "mlp"}, "unknown head kind 'mlp'. Known: decoder_layers, attention_pooler"),
        ({"kind": ["qformer"]}, "unknown head kind"),
        ({}, "unknown head kind None"),
        ({"kind": "qformer", "num_latents": 4}, "unknown field 'num_latents'. Known: num_layers, num_queries"),
        ({"kind": "qformer", "num_queries": 0}, "num_queries must be a whole number >= 1, got 0"),
        ({"kind": "qformer", "num_queries": True}, "must be a whole number >= 1, got True"),
        ({"kind": "decoder_layers", "readout": "first"}, "unknown readout 'first'. Known: last, mean"),
        ({"kind": "qformer", "readout": "mean"}, "unknown field 'readout'"),
        ({"kind": "attention_pooler", "num_heads": 5}, "5 attention heads cannot share states of 64 elements"),
        ({"kind": "qformer", "num_heads": 4, "tap_layer": 9}, "tap_layer=9 does not fit a backbone of 4 layers"),
        ({"kind": "qformer", "num_heads": 4, "tap_layer": "2"}, "tap_layer='2' does not fit"),
        ({"kind": "qformer", "num_heads": 4, "tap_layer": 2, "weights": 3}, "must be a file name, got 3"),
        ("qformer", "must be an object with its kind and sizes, got 'qformer'"),
    ],
)
def test_an_entry_that_cannot_be_is_refused(entry: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        HeadSpec.from_json(entry, backbone(4, 64))


@pytest.mark.parametrize(
    ("kind", "sizes", "message"),
    [
        ("qformer", {"num_layers": 1}, "holds tensors that a head 'qformer'.*'blocks.1"),
        ("qformer", {"num_layers": 3}, "no tensor 'blocks.2"),
        ("decoder_layers", {"num_layers": 1}, "holds tensors that a head 'decoder_layers'"),
        ("latent_attention", {"num_latents": 9}, r"'latents' has shape \(10, 64\), the config says \(9, 64\)"),
        ("attention_pooler", {"intermediate_size": 40}, "mlp.gate_proj"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    random_folder: Path, tmp_path: Path, kind: str, sizes: dict[str, int], message: str
) -> None:
    folder = with_head(random_folder, tmp_path / "folder", kind)
    entry = json.loads((folder / "tte.json").read_text())
    entry["head"] |= sizes
    (folder / "tte.json").write_text(json.dumps(entry))
    with pytest.raises(CheckpointError, match=message):
        Embedder.from_pretrained(folder)
    with pytest.raises(CheckpointError, match=r"head\.safetensors does not fit"):
        load_reference_head(folder, AutoConfig.from_pretrained(folder), entry["head"])
