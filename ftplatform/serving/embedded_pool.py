"""The models this process serves: loading, names, routes, removal."""

from __future__ import annotations

import random
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ftplatform.core.digests import digest_bytes
from ftplatform.core.errors import Conflict, InvalidConfig, NotFound
from ftplatform.serving.desired import Route, ServedModel
from ftplatform.serving.embedded_errors import AlreadyLoaded, model_not_found, try_again
from ftplatform.serving.embedded_model import Instance, check_adapter
from ftplatform.serving.embedded_scheduler import Scheduler
from ftplatform.serving.embedded_served import Served
from ftplatform.serving.embedded_text import TextCodec, load_codec
from ftplatform.serving.fingerprint import verify
from ftplatform.store.adapters import peft_type
from ftplatform.store.base import ObjectStore

T = TypeVar("T")


class Pool:
    """Loads read and check in the caller's thread and touch the models only between two rounds of the scheduler.

    ``folder`` holds the trees while they are loaded. A name's meaning is kept in the store (document ``served/<digest
    of the name>``), so that it survives restarts; two replicas that give one new name two meanings within the same
    second are not told apart here, which the catalog's unique key does.
    """

    def __init__(
        self, store: ObjectStore, scheduler: Scheduler, folder: Path | None = None, max_rank: int = 512
    ) -> None:
        self._store = store
        self._scheduler = scheduler
        self._folder = folder
        self._max_rank = max_rank
        self._models: dict[str, Served] = {}
        self._routes: dict[str, Route] = {}
        self._bases: dict[str, tuple[Instance, TextCodec]] = {}
        self._lock = threading.Lock()
        # One load at a time: transformers and PEFT patch module-wide initialisers while they build a model.
        self._loading = threading.Lock()

    def models(self) -> list[Served]:
        with self._lock:
            return list(self._models.values())

    def routes(self) -> list[Route]:
        with self._lock:
            return list(self._routes.values())

    def set_routes(self, routes: list[Route]) -> None:
        with self._lock:
            self._routes = {route.model: route for route in routes}

    def acquire(self, name: str, key: str | None) -> Served:
        """The model that answers for a served name or a route, counted as in use until its ``release``.

        ``key`` decides which target of a route answers, always the same one; None draws.

        Raises:
            ApiError: 404 for an unknown name, 503 while the chosen target is not loaded.
        """
        with self._lock:
            route = self._routes.get(name)
            chosen = name if route is None else route.choose(f"{random.random()}" if key is None else key)
            served = self._models.get(chosen)
            if served is not None and served.acquire():
                return served
            known = sorted([*self._routes, *self._models])
        if route is None:
            raise model_not_found(name, known)
        raise try_again(f"{name} is answered by {chosen}, which is not loaded yet", "model_not_ready")

    def load(self, wanted: ServedModel) -> None:
        """Serve ``wanted``; it gets requests only after its bytes, template and fingerprint were checked.

        Raises:
            AlreadyLoaded: these very bytes are served under the name.
            Conflict: the name stands, or once stood, for other bytes.
            NotFound, CorruptObject: the store does not have the bytes.
            InvalidConfig: the engine cannot serve them, would render another template, or they do not answer as
            trained.
        """
        with self._loading:
            self._check_name(wanted)
            source = wanted.weights if wanted.kind == "full" else wanted.base_weights
            # PEFT does not put LoRA and IA3 on one model, so each has the base's weights for itself.
            factors = wanted.kind == "lora" and peft_type(self._store, wanted.weights) == "IA3"
            source = f"{source} ia3" if factors else source
            instance, codec = self._base(source)
            adapter: str | None = None
            try:
                _check_template(wanted, codec)
                if wanted.kind == "lora":
                    adapter = self._add_adapter(instance, wanted.weights)
                self._check_fingerprint(wanted, instance, adapter)
                self._store.put_doc(_claim(wanted.name), {"name": wanted.name, "identity": list(wanted.identity)})
            except BaseException:
                self._free(source, instance, adapter)
                raise
            served = Served(wanted, instance, adapter, codec, lambda: self._free(source, instance, adapter))
            with self._lock:
                self._models[wanted.name] = served

    def unload(self, name: str) -> None:
        """Give ``name`` no new requests; its weights leave memory when the answers under way are finished.

        Raises:
            NotFound: nothing of that name is served.
        """
        with self._lock:
            served = self._models.pop(name, None)
        if served is None:
            raise NotFound(f"The lora adapter '{name}' cannot be found.")
        served.retire()

    def _check_name(self, wanted: ServedModel) -> None:
        with self._lock:
            served = self._models.get(wanted.name)
            taken = wanted.name in self._routes
        claim = self._store.find_doc(_claim(wanted.name))
        if taken:
            raise Conflict(f"{wanted.name!r} is the name of a route, not of weights", retry_helps=False)
        if claim is not None and tuple(claim["identity"]) != wanted.identity:
            raise Conflict(
                f"The lora adapter '{wanted.name}' stands for {claim['identity']} for ever, "
                f"not for {list(wanted.identity)}: "
                "serve other bytes under another name",
                retry_helps=False,
            )
        if served is not None:
            raise AlreadyLoaded(f"The lora adapter '{wanted.name}' has already been loaded.")

    def _base(self, weights: str) -> tuple[Instance, TextCodec]:
        with self._lock:
            found = self._bases.get(weights)
            if found is not None:
                found[0].users += 1
                return found
        made = self._with_tree(weights.removesuffix(" ia3"), lambda folder: (Instance(folder), load_codec(folder)))
        made[0].users = 1
        with self._lock:
            self._bases[weights] = made
        return made

    def _add_adapter(self, instance: Instance, weights: str) -> str:
        def add(folder: Path) -> str:
            check_adapter(folder, self._max_rank)
            return self._scheduler.call(lambda: instance.add_adapter(folder))

        return self._with_tree(weights, add)

    def _check_fingerprint(self, wanted: ServedModel, instance: Instance, adapter: str | None) -> None:
        if wanted.fingerprint is None:
            return
        expected = self._store.get_json(wanted.fingerprint)
        tokens, logprobs = self._scheduler.call(
            lambda: instance.score(adapter, list(expected["prompt_ids"]), list(expected["token_ids"]))
        )
        result = verify(expected, tokens, logprobs)
        if not result.matches:
            raise InvalidConfig(f"{wanted.name}: does not answer as trained: {result.message}")

    def _with_tree(self, digest: str, work: Callable[[Path], T]) -> T:
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="ft-serving-", dir=self._folder))
        try:
            return work(self._store.fetch_tree(digest, folder))
        finally:
            shutil.rmtree(folder)

    def _free(self, source: str, instance: Instance, adapter: str | None) -> None:
        with self._lock:
            instance.users -= 1
            if instance.users == 0:
                del self._bases[source]
                return
        if adapter is not None:
            self._scheduler.post(lambda: instance.remove_adapter(adapter))


def _claim(name: str) -> str:
    # A served name holds ':', which a document's name may not.
    return f"served/{digest_bytes(name.encode())}"


def _check_template(wanted: ServedModel, codec: TextCodec) -> None:
    if wanted.template is not None and wanted.template != codec.template_digest:
        raise InvalidConfig(
            f"{wanted.name}: its rows were rendered by chat template {wanted.template[:12]}, the model folder has "
            f"{codec.template_digest[:12]}; it would be asked in another form than it learned"
        )
