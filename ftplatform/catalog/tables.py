"""The tables. A change here needs a migration in ``migrations/versions``; a test compares the two."""

from __future__ import annotations

from sqlalchemy import JSON, Column, Float, Index, Integer, MetaData, String, Table, Text

# Naming every constraint lets a later migration drop it by name on both databases.
metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    }
)

datasets = Table(
    "datasets",
    metadata,
    Column("dataset", String(81), primary_key=True),
    Column("tenant", String(40), nullable=False, index=True),
    Column("curated", String(64), comment="content digest of the latest accepted version"),
    Column("created_at", Float, nullable=False),
)

uploads = Table(
    "uploads",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("dataset", String(81), nullable=False, index=True),
    Column("files", JSON, nullable=False, comment="[{name, digest, size}], the complete set"),
    Column("digest", String(64), nullable=False, comment="of the set of files"),
    Column("origin", String(40), nullable=False, comment="folder or push"),
    Column("state", String(16), nullable=False, comment="pending, accepted, refused or failed"),
    Column("report", String(64), comment="object: JSONL of findings"),
    Column("message", Text, nullable=False, default=""),
    Column("created_at", Float, nullable=False),
)

recipes = Table(
    "recipes",
    metadata,
    Column("recipe", String(48), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("body", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
)

bases = Table(
    "bases",
    metadata,
    Column("base", String(49), primary_key=True),
    Column("slug", String(40), nullable=False, index=True),
    Column("source", JSON, nullable=False, comment="{kind: starter|folder|hub, ...}, complete enough to make it again"),
    Column("created_at", Float, nullable=False),
)

lines = Table(
    "lines",
    metadata,
    Column("dataset", String(81), primary_key=True),
    Column("recipe", String(48), primary_key=True),
    Column("created_at", Float, nullable=False),
)

jobs = Table(
    "jobs",
    metadata,
    Column("job", String(32), primary_key=True),
    Column("dataset", String(81), nullable=False),
    Column("recipe", String(48), nullable=False),
    Column("reason", String(16), nullable=False, comment="submitted, new-data, schedule or dagster"),
    Column(
        "curated", String(64), comment="the version that was asked for; None means the latest when the plan is made"
    ),
    Column("priority", String(8), nullable=False),
    Column("state", String(16), nullable=False, comment="queued, running, promoted, quarantined, failed or cancelled"),
    Column("desired", String(8), nullable=False, comment="run or cancel"),
    Column("attempt", Integer, nullable=False),
    Column("run", String(64)),
    Column("message", Text, nullable=False, default=""),
    Column("created_at", Float, nullable=False),
    Column("finished_at", Float),
    Index("ix_jobs_dataset_recipe", "dataset", "recipe"),
    Index("ix_jobs_state", "state"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("job", String(64), nullable=False, index=True, comment="a job, or a base model's key"),
    Column("stage", String(16), nullable=False),
    Column("payload", String(64), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("message", Text, nullable=False),
    Column("numbers", JSON, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("finished_at", Float, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("name", String(160), primary_key=True),
    Column("holder", String(64), nullable=False),
    Column("token", Integer, nullable=False, comment="grows with every change of holder"),
    Column("expires_at", Float, nullable=False),
)

champions = Table(
    "champions",
    metadata,
    Column("model", String(81), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("served_name", String(200), nullable=False),
    Column("kind", String(8), nullable=False),
    Column("weights", String(64), nullable=False),
    Column("base_weights", String(64), nullable=False),
    Column("generation", Integer, nullable=False, comment="compare-and-swap counter"),
    Column("updated_at", Float, nullable=False),
)

served = Table(
    "served",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("model", String(81), nullable=False, index=True),
    Column("kind", String(8), nullable=False),
    Column("weights", String(64), nullable=False),
    Column("base_weights", String(64), nullable=False),
    Column("template", String(64), nullable=False),
    Column("fingerprint", String(64)),
    Column("wanted", Integer, nullable=False, comment="1 while engines should hold it"),
    Column("created_at", Float, nullable=False),
)

routes = Table(
    "routes",
    metadata,
    Column("model", String(81), primary_key=True),
    Column("targets", JSON, nullable=False, comment="[[served name, weight]]"),
    Column("generation", Integer, nullable=False),
    Column("updated_at", Float, nullable=False),
)

engines = Table(
    "engines",
    metadata,
    Column("url", String(200), primary_key=True),
    Column("observed", JSON, nullable=False),
    Column("seen_at", Float, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("actor", String(80), nullable=False),
    Column("action", String(40), nullable=False),
    Column("subject", String(200), nullable=False, index=True),
    Column("before", JSON),
    Column("after", JSON),
)
