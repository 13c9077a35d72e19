"""Between the door and the engine: a pool that prepares requests, and the loop that runs them.

Pictures are decoded and resized and prompts tokenised in threads beside the engine's loop, never in it; corpus
jobs have a pool of their own, so that they cannot hold up an interactive request. Knows no vectors' meaning.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tte_runtime.config import EngineConfig
from tte_runtime.engine.engine import Engine
from tte_runtime.engine.loop import EngineLoop
from tte_runtime.engine.request import EngineResult, Listener, MediaSpan
from tte_runtime.engine.sequence import Features
from tte_runtime.errors import EngineError
from tte_runtime.heads.decoder_head import DecoderHead, HeadSpec
from tte_runtime.inputs.items import Item
from tte_runtime.inputs.prompt import PromptRenderer
from tte_runtime.models.checkpoint import read_config, weights_digest
from tte_runtime.models.decoder import Decoder
from tte_runtime.models.features import FeatureCache
from tte_runtime.models.spec import DecoderSpec, decoder_spec
from tte_runtime.models.vision import VisionTower
from tte_runtime.models.weights import TensorFiles
from tte_runtime.ops import select_ops
from tte_runtime.recipes.base import Recipe
from tte_runtime.recipes.registry import choose_recipe, read_tte_json
from tte_runtime.types import Priority, Role, Think


class Pending:
    """A request on its way: wait for its result, or give it up.

    It is settled once, by whoever comes first: the engine, a failed preparation, `cancel`, or `Pipeline.close`.
    """

    def __init__(self) -> None:
        self._future: Future[EngineResult] = Future()
        self._on_cancel: Callable[[], None] | None = None
        self._lock = threading.Lock()

    def result(self) -> EngineResult:
        """Wait for the result; raises what the request failed with."""
        return self._future.result()

    @property
    def done(self) -> bool:
        """There is a result, or an error."""
        return self._future.done()

    def add_done_callback(self, call: Callable[[], object]) -> None:
        """Call when the request is settled, on the thread that settles it."""
        self._future.add_done_callback(lambda future: call())

    def cancel(self) -> None:
        """Give the request up wherever it is; its pages are freed between two steps."""
        self.fail(EngineError("the request was cancelled."))
        with self._lock:
            on_cancel = self._on_cancel
        if on_cancel is not None:
            on_cancel()

    def succeed(self, result: EngineResult) -> None:
        """Settle with a result, unless it is settled."""
        with contextlib.suppress(InvalidStateError):
            self._future.set_result(result)

    def fail(self, error: Exception) -> None:
        """Settle with an error, unless it is settled."""
        with contextlib.suppress(InvalidStateError):
            self._future.set_exception(error)

    def in_engine(self, cancel: Callable[[], None]) -> None:
        """The engine has taken the request over, and `cancel` would drop it there."""
        with self._lock:
            self._on_cancel = cancel
        if self.done:
            cancel()


class Pipeline:
    """One loaded checkpoint, ready to take requests from any thread.

    Args:
        engine: ready to run.
        renderer: prepares requests.
        vision_cache: the engine's picture features.
        workers: threads of each preparing pool.
    """

    def __init__(self, engine: Engine, renderer: PromptRenderer, vision_cache: FeatureCache, workers: int) -> None:
        self.engine = engine
        self.renderer = renderer
        self._vision_cache = vision_cache
        self._loop = EngineLoop(engine)
        self._lock = threading.Lock()
        self._closed = False
        self._open: set[Pending] = set()
        self._pools = {
            priority: ThreadPoolExecutor(workers, thread_name_prefix=f"tte-prepare-{priority}")
            for priority in ("interactive", "corpus")
        }

    def submit(
        self,
        item: Item,
        role: Role,
        think: Think | None,
        *,
        priority: Priority,
        normalize: bool,
        on_token: Callable[[int, int], None] = lambda index, token: None,
    ) -> Pending:
        """Take a request in and return at once; errors of its preparation come with its result.

        Raises:
            EngineError: the pipeline is closed.
        """
        arrival = time.perf_counter()
        pending = Pending()

        def prepare() -> None:
            if pending.done:
                return
            try:
                request = self.renderer.render(
                    item, role, think, priority=priority, normalize=normalize, arrival=arrival
                )
                ticket = self._loop.submit(request, Listener(pending.succeed, pending.fail, on_token))
            except Exception as error:
                pending.fail(error)
            else:
                pending.in_engine(lambda: self._loop.cancel(ticket))

        with self._lock:
            if self._closed:
                raise EngineError("the embedder is closed. Make a new one.")
            self._open.add(pending)
            self._pools[priority].submit(prepare)
        pending.add_done_callback(lambda: self._open.discard(pending))
        return pending

    def clear_caches(self) -> None:
        """Forget cached prefixes and picture features; to be called while nothing is in work."""
        assert self.engine.idle, "caches are cleared between requests"
        self.engine.pool.forget()
        self._vision_cache.clear()

    def close(self) -> None:
        """Stop the pools and the loop; what is still in work fails with EngineError. May be called twice."""
        with self._lock:
            self._closed = True
        for pool in self._pools.values():
            pool.shutdown(wait=True, cancel_futures=True)
        self._loop.close()
        for pending in list(self._open):
            pending.fail(EngineError("the embedder was closed while the request was in work."))


def load_pipeline(
    folder: Path, config: EngineConfig, recipe: str | Recipe | None
) -> tuple[Pipeline, EngineConfig, str]:
    """Load a checkpoint folder.

    Args:
        folder: a Hugging Face checkpoint.
        config: options, "auto" allowed.
        recipe: a recipe, its name, or `None` for what the checkpoint says.

    Returns:
        the pipeline, the resolved config, and a digest of the checkpoint's files.

    Raises:
        CheckpointError, UnsupportedModelError, RecipeError, OptionError: before anything large is read, where possible.
    """
    model_config = read_config(folder)
    spec = decoder_spec(model_config)
    chosen = choose_recipe(folder, recipe)
    renderer = PromptRenderer(folder, chosen, model_config.image_token_id)
    head_spec = _head_spec(folder, chosen, spec)
    tap_bytes = 4 * spec.hidden_size if head_spec else 0
    config = config.resolve(model_context=spec.max_context, bytes_per_token=spec.kv_bytes_per_token() + tap_bytes)
    place: Any = {"device": config.device, "dtype": config.torch_dtype}
    files, ops = TensorFiles(folder), select_ops(config)
    decoder = Decoder.load(files, spec, ops, **place)
    tower = VisionTower(model_config, files, **place)
    head = DecoderHead.load(folder, head_spec, spec, ops, **place) if head_spec else None
    digest = weights_digest(folder)
    cache = FeatureCache(tower, config.vision_cache_mb * 2**20)

    def features(spans: list[MediaSpan]) -> list[Features]:
        return [Features(states, computed) for states, computed in cache.features([s.handle for s in spans])]

    engine = Engine(decoder, config, features, head, salt=f"{digest}|{config.dtype}".encode())
    return Pipeline(engine, renderer, cache, config.preprocess_workers), config, digest


def _head_spec(folder: Path, recipe: Recipe, backbone: DecoderSpec) -> HeadSpec | None:
    if recipe.readout != "head":
        return None
    entry = read_tte_json(folder)
    assert entry is not None, "a recipe with a head comes from the checkpoint's tte.json"
    return HeadSpec.from_json(entry["head"], backbone)
