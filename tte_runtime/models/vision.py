"""The vision tower of a checkpoint: transformers' own module, or what a backend puts in its place, run one picture or a
batch at a time.

Knows patches and grids; knows nothing of prompts, caches or files of pictures.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import torch

from tte_runtime.errors import CheckpointError
from tte_runtime.models.grids import GridArguments, Grids
from tte_runtime.models.tower_blocks import FusedBlock, fuse_blocks
from tte_runtime.models.weights import Tensors
from tte_runtime.models.whole_tower import WholeTower, fuse_tower
from tte_runtime.ops import TorchOps
from tte_runtime.ops.matrices import Kept
from tte_runtime.ops.transfer import upload

TOWERS = {  # by family, the class in transformers' modelling file of that family
    "qwen2_vl": "Qwen2VisionTransformerPretrainedModel",
    "qwen2_5_vl": "Qwen2_5_VisionTransformerPretrainedModel",
    "qwen3_vl": "Qwen3VLVisionModel",
}
PREFIXES = ("model.visual.", "visual.")


class PackedLinear(torch.nn.Module):
    """A linear layer of the tower, or a convolution whose stride is its kernel, packed once for a CPU.

    Args:
        layer: what it stands for; its weight is let go.
        matrix: its weight [O, I], packed.
    """

    def __init__(self, layer: torch.nn.Linear | torch.nn.Conv3d, matrix: Kept) -> None:
        super().__init__()
        self.matrix = matrix
        self.bias = layer.bias
        self.weight = layer.weight.new_empty(0)  # transformers asks for its dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[T, ...] -> [T, O]; everything behind the first dimension is one row."""
        return self.matrix.times(x.flatten(1), self.bias)


class VisionTower:
    """Patches in, merged features out.

    Args:
        config: the checkpoint's transformers config.
        files: its tensors.
        ops: whose products it uses, where they are faster.
        device: where the tower runs.
        dtype: its weights and activations.

    Raises:
        CheckpointError: the tower's tensors are not all there.
    """

    def __init__(self, config: Any, files: Tensors, ops: TorchOps, *, device: str, dtype: torch.dtype) -> None:
        family, vision = config.model_type, config.vision_config
        vision._attn_implementation = "sdpa"
        modelling = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
        with torch.device("meta"):
            tower = getattr(modelling, TOWERS[family])(vision)
        prefix = files.prefix(PREFIXES, "patch_embed.proj.weight")
        state = {name: tensor.to(device, dtype) for name, tensor in files.state_dict(prefix).items()}
        try:
            tower.load_state_dict(state, assign=True)
        except RuntimeError as error:
            raise CheckpointError(f"the vision tower does not fit its config: {error}") from error
        # Buffers are not in the file and were made on the meta device: the rotary frequencies are made again.
        tower.rotary_pos_emb = type(tower.rotary_pos_emb)(*_rotary_arguments(tower, vision)).to(device)
        tower.eval().requires_grad_(False)
        whole = fuse_tower(tower, ops)
        self._tower: Any = whole or _in_pieces(tower, ops)
        self._arguments = _only_grids if whole else GridArguments(tower, torch.device(device)).of
        self._merge = vision.spatial_merge_size**2
        self._device, self._dtype = torch.device(device), dtype
        # cuBLAS chooses how it sums by the number of rows, so features would depend on the pictures beside.
        self._by_one = self._device.type != "cpu" or ops.name == "triton"

    @torch.inference_mode()
    def encode(self, pixels: Sequence[torch.Tensor], grids: Sequence[tuple[int, int, int]]) -> list[torch.Tensor]:
        """Merged features of pictures.

        Args:
            pixels: patches of every picture, float32 [t * h * w, patch values].
            grids: (t, h, w) in patches, before merging.

        Returns:
            one [t * h * w / merge**2, 1 + n, C] a picture, in the decoder's dtype: what stands for the tokens'
            embeddings, then what DeepStack adds after each of the decoder's first n layers.
        """
        if not pixels:
            return []
        if self._by_one:
            return [self._planes(one, [grid]) for one, grid in zip(pixels, grids, strict=True)]
        planes = self._planes(torch.cat(list(pixels)) if len(pixels) > 1 else pixels[0], grids)
        return list(planes.split([t * h * w // self._merge for t, h, w in grids]))

    def _planes(self, pixels: torch.Tensor, grids: Sequence[tuple[int, int, int]]) -> torch.Tensor:
        patches = upload(pixels, self._device).to(self._dtype)
        return planes_of(self._tower(patches, **self._arguments(tuple(grids))))

    def same_as(self, other: VisionTower) -> bool:
        """Whether both make the same features of the same patches: equal configs, tensors, device and dtype."""
        ours, theirs = _tensors(self._tower), _tensors(other._tower)
        return (
            type(self._tower) is type(other._tower)
            and self._tower.config.to_dict() == other._tower.config.to_dict()
            and (self._device, self._dtype) == (other._device, other._dtype)
            and ours.keys() == theirs.keys()
            and all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
        )


def _only_grids(grids: Grids) -> dict[str, torch.Tensor]:
    return {"grid_thw": torch.tensor(grids)}


def planes_of(output: Any) -> torch.Tensor:
    """What a tower of transformers gave, as [N, 1 + n, C]: features, then those of DeepStack."""
    merged = getattr(output, "pooler_output", output)  # a bare tensor before transformers 5.13
    return torch.stack([merged, *getattr(output, "deepstack_features", ())], dim=1)


def _in_pieces(tower: torch.nn.Module, ops: TorchOps) -> torch.nn.Module:
    """The tower as transformers runs it, its parts as the backend has them."""
    fuse_blocks(tower, ops)
    _pack(tower, ops)
    return tower


def _pack(tower: torch.nn.Module, ops: TorchOps) -> None:
    """Replace the layers that the backend packs.

    Linear layers of a tower see [T, I] only, its patches come as [T, ...].
    """
    for parent in list(tower.modules()):
        for name, layer in list(parent.named_children()):
            patches = isinstance(layer, torch.nn.Conv3d) and layer.stride == layer.kernel_size
            if not (patches or isinstance(layer, torch.nn.Linear)):
                continue
            assert isinstance(layer, torch.nn.Linear | torch.nn.Conv3d)
            matrix = ops.pack_tower(layer.weight.detach().flatten(1))
            if matrix is not None:
                setattr(parent, name, PackedLinear(layer, matrix))


def _tensors(tower: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Every weight of a tower by name: packed ones unpacked, fused ones as they lie."""
    named = list(tower.named_modules())
    packed = {name: module.matrix.weight for name, module in named if isinstance(module, PackedLinear)}
    fused = {
        f"{name}.{kind}": torch.from_numpy(weights)
        for name, module in named
        if isinstance(module, FusedBlock | WholeTower)
        for kind, weights in (("matrices", module.fused.matrices), ("vectors", module.fused.vectors))
    }
    return {**tower.state_dict(), **packed, **fused}


def _rotary_arguments(tower: Any, config: Any) -> tuple[Any, ...]:
    """Constructor arguments of the tower's rotary module, which changed between transformers releases."""
    if hasattr(tower.rotary_pos_emb, "config"):
        return (config,)
    return (getattr(config, "embed_dim", config.hidden_size) // config.num_heads // 2,)
