# Webserver, daemon, code location, run workers, control-plane steps and MLflow. No torch.
# Build from the repository root: docker build -f deploy/docker/control-plane.Dockerfile -t ftplatform-control .
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
COPY requirements.lock ./
COPY pyproject.toml README.md ./
COPY ftplatform ./ftplatform
# The lock is a constraints file: it fixes every version and the extras choose what is installed.
RUN python -m venv /opt/ftplatform \
    && /opt/ftplatform/bin/pip install --no-cache-dir -c requirements.lock ".[k8s,aws]" \
    && ! /opt/ftplatform/bin/python -c "import torch" 2>/dev/null

FROM ${PYTHON_IMAGE}
ENV PATH=/opt/ftplatform/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    DAGSTER_HOME=/opt/dagster/dagster_home \
    FTPLATFORM_HOME=/var/lib/ftplatform/home \
    FTPLATFORM_UPLOADS=/var/lib/ftplatform/uploads
RUN useradd --uid 1000 --create-home ftplatform \
    && mkdir -p "$DAGSTER_HOME" "$FTPLATFORM_HOME" "$FTPLATFORM_UPLOADS" \
    && chown -R 1000:1000 "$DAGSTER_HOME" /var/lib/ftplatform
COPY --from=build /opt/ftplatform /opt/ftplatform
USER 1000
WORKDIR /home/ftplatform
