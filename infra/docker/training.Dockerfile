# Every step of the flows: CUDA build of PyTorch from the lock, the project with its base, no root. Build at the root:
# docker build -f infra/docker/training.Dockerfile -t REGISTRY/mobilevd:VERSION .
FROM python:3.11.14-slim-bookworm

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 \
    MOBILEVD_HOME=/opt/mobilevd MOBILEVD_CACHE=/scratch/cache METAFLOW_USER=mobilevd METAFLOW_SKIP_INSTALL_DEPENDENCIES=1 \
    BOTO_EXPERIMENTAL__NO_EMPTY_CONTINUE=true

RUN useradd --create-home --uid 10001 mobilevd && mkdir /scratch && chown mobilevd /scratch
WORKDIR /opt/mobilevd
COPY constraints.txt pyproject.toml README.md ./
COPY mobilevd ./mobilevd
RUN pip install --constraint constraints.txt uv==0.13.9 \
    && uv pip install --system --no-cache --constraint constraints.txt torch \
    && uv pip install --system --no-cache --constraint constraints.txt --editable '.[train,cloud,device]'
COPY flows ./flows
COPY pocket ./pocket
COPY recipes ./recipes
COPY params.yaml ./

USER 10001
WORKDIR /scratch
HEALTHCHECK NONE
