#!/bin/sh
# Wait for nothing, hide nothing: user and password come in the environment and leave it in no log.
set -eu
: "${DATABASE_HOST:?}" "${DATABASE_USER:?}" "${DATABASE_PASSWORD:?}" "${ARTIFACTS:?}"
quoted=$(python -c 'import os; from urllib.parse import quote; print(quote(os.environ["DATABASE_PASSWORD"], safe=""))')
store="postgresql+psycopg2://${DATABASE_USER}:${quoted}@${DATABASE_HOST}:5432/${DATABASE_NAME:-mlflow}"
export MLFLOW_BACKEND_STORE_URI="$store"
mlflow db upgrade "$store" > /dev/null
exec mlflow server --host 0.0.0.0 --port 5000 --artifacts-destination "$ARTIFACTS" \
  --allowed-hosts "${ALLOWED_HOSTS:-localhost,localhost:5000}" --workers 2
