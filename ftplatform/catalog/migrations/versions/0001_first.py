"""The first schema, written out: a migration must not change when the tables do."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "attempts",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("job", sa.String(length=64), nullable=False, comment="a job, or a base model's key"),
        sa.Column("stage", sa.String(length=16), nullable=False),
        sa.Column("payload", sa.String(length=64), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("numbers", sa.JSON(), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=False),
        sa.Column("finished_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attempts")),
    )
    op.create_index(op.f("ix_attempts_job"), "attempts", ["job"], unique=False)
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("actor", sa.String(length=80), nullable=False),
        sa.Column("action", sa.String(length=40), nullable=False),
        sa.Column("subject", sa.String(length=200), nullable=False),
        sa.Column("before", sa.JSON(), nullable=True),
        sa.Column("after", sa.JSON(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_index(op.f("ix_audit_subject"), "audit", ["subject"], unique=False)
    op.create_table(
        "bases",
        sa.Column("base", sa.String(length=49), nullable=False),
        sa.Column("slug", sa.String(length=40), nullable=False),
        sa.Column(
            "source",
            sa.JSON(),
            nullable=False,
            comment="{kind: starter|folder|hub, ...}, complete enough to make it again",
        ),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("base", name=op.f("pk_bases")),
    )
    op.create_index(op.f("ix_bases_slug"), "bases", ["slug"], unique=False)
    op.create_table(
        "champions",
        sa.Column("model", sa.String(length=81), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("served_name", sa.String(length=200), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("weights", sa.String(length=64), nullable=False),
        sa.Column("base_weights", sa.String(length=64), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False, comment="compare-and-swap counter"),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("model", name=op.f("pk_champions")),
    )
    op.create_table(
        "datasets",
        sa.Column("dataset", sa.String(length=81), nullable=False),
        sa.Column("tenant", sa.String(length=40), nullable=False),
        sa.Column(
            "curated", sa.String(length=64), nullable=True, comment="content digest of the latest accepted version"
        ),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("dataset", name=op.f("pk_datasets")),
    )
    op.create_index(op.f("ix_datasets_tenant"), "datasets", ["tenant"], unique=False)
    op.create_table(
        "engines",
        sa.Column("url", sa.String(length=200), nullable=False),
        sa.Column("observed", sa.JSON(), nullable=False),
        sa.Column("seen_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("url", name=op.f("pk_engines")),
    )
    op.create_table(
        "jobs",
        sa.Column("job", sa.String(length=32), nullable=False),
        sa.Column("dataset", sa.String(length=81), nullable=False),
        sa.Column("recipe", sa.String(length=48), nullable=False),
        sa.Column("reason", sa.String(length=16), nullable=False, comment="submitted, new-data, schedule or dagster"),
        sa.Column(
            "curated",
            sa.String(length=64),
            nullable=True,
            comment="the version that was asked for; None means the latest when the plan is made",
        ),
        sa.Column("priority", sa.String(length=8), nullable=False),
        sa.Column(
            "state",
            sa.String(length=16),
            nullable=False,
            comment="queued, running, promoted, quarantined, failed or cancelled",
        ),
        sa.Column("desired", sa.String(length=8), nullable=False, comment="run or cancel"),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("run", sa.String(length=64), nullable=True),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("finished_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("job", name=op.f("pk_jobs")),
    )
    op.create_index("ix_jobs_dataset_recipe", "jobs", ["dataset", "recipe"], unique=False)
    op.create_index("ix_jobs_state", "jobs", ["state"], unique=False)
    op.create_table(
        "leases",
        sa.Column("name", sa.String(length=160), nullable=False),
        sa.Column("holder", sa.String(length=64), nullable=False),
        sa.Column("token", sa.Integer(), nullable=False, comment="grows with every change of holder"),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )
    op.create_table(
        "lines",
        sa.Column("dataset", sa.String(length=81), nullable=False),
        sa.Column("recipe", sa.String(length=48), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("dataset", "recipe", name=op.f("pk_lines")),
    )
    op.create_table(
        "recipes",
        sa.Column("recipe", sa.String(length=48), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("recipe", name=op.f("pk_recipes")),
    )
    op.create_table(
        "routes",
        sa.Column("model", sa.String(length=81), nullable=False),
        sa.Column("targets", sa.JSON(), nullable=False, comment="[[served name, weight]]"),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("model", name=op.f("pk_routes")),
    )
    op.create_table(
        "served",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("model", sa.String(length=81), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("weights", sa.String(length=64), nullable=False),
        sa.Column("base_weights", sa.String(length=64), nullable=False),
        sa.Column("template", sa.String(length=64), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=True),
        sa.Column("wanted", sa.Integer(), nullable=False, comment="1 while engines should hold it"),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_served")),
    )
    op.create_index(op.f("ix_served_model"), "served", ["model"], unique=False)
    op.create_table(
        "uploads",
        sa.Column("seq", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("dataset", sa.String(length=81), nullable=False),
        sa.Column("files", sa.JSON(), nullable=False, comment="[{name, digest, size}], the complete set"),
        sa.Column("digest", sa.String(length=64), nullable=False, comment="of the set of files"),
        sa.Column("origin", sa.String(length=40), nullable=False, comment="folder or push"),
        sa.Column("state", sa.String(length=16), nullable=False, comment="pending, accepted, refused or failed"),
        sa.Column("report", sa.String(length=64), nullable=True, comment="object: JSONL of findings"),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_uploads")),
    )
    op.create_index(op.f("ix_uploads_dataset"), "uploads", ["dataset"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_uploads_dataset"), table_name="uploads")
    op.drop_table("uploads")
    op.drop_index(op.f("ix_served_model"), table_name="served")
    op.drop_table("served")
    op.drop_table("routes")
    op.drop_table("recipes")
    op.drop_table("lines")
    op.drop_table("leases")
    op.drop_index("ix_jobs_state", table_name="jobs")
    op.drop_index("ix_jobs_dataset_recipe", table_name="jobs")
    op.drop_table("jobs")
    op.drop_table("engines")
    op.drop_index(op.f("ix_datasets_tenant"), table_name="datasets")
    op.drop_table("datasets")
    op.drop_table("champions")
    op.drop_index(op.f("ix_bases_slug"), table_name="bases")
    op.drop_table("bases")
    op.drop_index(op.f("ix_audit_subject"), table_name="audit")
    op.drop_table("audit")
    op.drop_index(op.f("ix_attempts_job"), table_name="attempts")
    op.drop_table("attempts")
