# A trained bundle on ONNX Runtime: neither torch nor diffusers. Build at the root:
# docker build -f infra/docker/runtime.Dockerfile -t REGISTRY/mobilevd-runtime:VERSION .
FROM python:3.11.14-slim-bookworm

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
RUN useradd --create-home --uid 10001 mobilevd
WORKDIR /opt/mobilevd
COPY constraints.txt pyproject.toml README.md ./
COPY mobilevd ./mobilevd
RUN pip install --constraint constraints.txt '.[runtime]'

USER 10001
WORKDIR /home/mobilevd
HEALTHCHECK NONE
ENTRYPOINT ["mobilevd"]
CMD ["--help"]
