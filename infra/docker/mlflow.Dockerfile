# The tracking server and registry: database in PostgreSQL, artifacts on S3, handed through so that clients need no keys.
FROM python:3.11.14-slim-bookworm

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false \
    BOTO_EXPERIMENTAL__NO_EMPTY_CONTINUE=true
COPY constraints.txt /tmp/constraints.txt
RUN pip install --constraint /tmp/constraints.txt mlflow==3.17.2 boto3==1.40.26 psycopg2-binary==2.9.13 \
    && useradd --create-home --uid 10001 mlflow
COPY --chmod=0555 infra/docker/mlflow.sh /usr/local/bin/serve-mlflow

USER 10001
WORKDIR /home/mlflow
EXPOSE 5000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:5000/health', timeout=4)"]
ENTRYPOINT ["serve-mlflow"]
