"""The command line of a training's processes on one node."""

from __future__ import annotations

from pathlib import Path

from ftplatform.core.errors import InvalidConfig
from ftplatform.core.payload import MODULES, TrainSpec
from ftplatform.core.strategies import DEEPSPEED, processes_wanted

JOIN_SECONDS = 600
"""How long a node waits for the others before torchrun gives up."""


def torchrun_command(
    spec: TrainSpec, python: str, path: Path, *, node_rank: int = 0, rendezvous: str | None = None
) -> list[str]:
    """What starts node ``node_rank`` of ``spec``, whose file is at ``path``; ``rendezvous`` is node 0's ``host:port``.

    Every node needs a copy of the spec and runs ``processes / nodes`` of the processes.

    Raises:
        InvalidConfig: the strategy is for other processes; several nodes without a rendezvous; a node that does not exist.
    """
    if wrong := processes_wanted(spec.strategy, spec.processes, spec.nodes):
        raise InvalidConfig(f"{wrong}. Change hardware.strategy or hardware.gpus; a retry does not help")
    payload = ["-m", MODULES[spec.kind], str(path)]
    # One process needs no rendezvous: torchrun would cost it four seconds and a name look-up of the loopback address.
    # DeepSpeed wants its environment all the same.
    if spec.processes == 1 and spec.strategy not in DEEPSPEED:
        return [python, *payload]
    if not 0 <= node_rank < spec.nodes:
        raise InvalidConfig(f"node {node_rank} was to be started; the training has nodes 0 to {spec.nodes - 1}")
    where = ["--standalone", "--local-addr", "127.0.0.1"]
    if spec.nodes > 1:
        if rendezvous is None:
            raise InvalidConfig(f"a training on {spec.nodes} nodes needs a rendezvous: host and port of node 0")
        # --local-addr is left to torchrun: every node has its own address towards the others.
        where = [
            *("--nnodes", str(spec.nodes), "--node-rank", str(node_rank)),
            *("--rdzv-backend", "c10d", "--rdzv-endpoint", rendezvous, "--rdzv-id", spec.key[:16]),
            *("--rdzv-conf", f"join_timeout={JOIN_SECONDS},is_host={int(node_rank == 0)}"),
        ]
    each = ["--nproc-per-node", str(spec.processes // spec.nodes), "--max-restarts", "0"]
    return [python, "-m", "torch.distributed.run", *where, *each, *payload]
