# Steps of GPU assets and the inference server. torch's wheels bring CUDA with them; the node brings the driver.
# Build from the repository root: docker build -f deploy/docker/gpu.Dockerfile -t ftplatform-gpu .
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
# DeepSpeed is a source distribution.
RUN apt-get update && apt-get install -y --no-install-recommends build-essential && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY requirements.lock ./
COPY pyproject.toml README.md ./
COPY ftplatform ./ftplatform
RUN python -m venv /opt/ftplatform \
    && /opt/ftplatform/bin/pip install --no-cache-dir -c requirements.lock ".[k8s,aws,train,serve,gpu]"

FROM ${PYTHON_IMAGE}
# Triton compiles its launchers with a C compiler when a kernel is first used.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
# Models come from the store; a library that asks a hub is stopped rather than waited for.
ENV PATH=/opt/ftplatform/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    DAGSTER_HOME=/opt/dagster/dagster_home \
    FTPLATFORM_HOME=/var/lib/ftplatform/home \
    FTPLATFORM_UPLOADS=/var/lib/ftplatform/uploads \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN useradd --uid 1000 --create-home ftplatform \
    && mkdir -p "$DAGSTER_HOME" "$FTPLATFORM_HOME" "$FTPLATFORM_UPLOADS" \
    && chown -R 1000:1000 "$DAGSTER_HOME" /var/lib/ftplatform
COPY --from=build /opt/ftplatform /opt/ftplatform
USER 1000
WORKDIR /home/ftplatform
