"""``python -m ftplatform.evaluation spec.json``: the scoring payload."""

from __future__ import annotations

from ftplatform.core.payload import EvalSpec, PayloadResult, PayloadSpec
from ftplatform.store.base import ObjectStore
from ftplatform.store.payload_io import PayloadIO, run_payload


def main(spec: PayloadSpec, io: PayloadIO, store: ObjectStore) -> PayloadResult:
    if not isinstance(spec, EvalSpec):
        raise TypeError(f"ftplatform.evaluation was given a spec of kind {spec.kind!r}: accepted is 'evaluate'")
    # Imported here, not above: a broken installation of torch or lm-eval must still leave a result file.
    from ftplatform.evaluation.runner import score_all

    return score_all(spec, io, store)


if __name__ == "__main__":
    raise SystemExit(run_payload(main))
