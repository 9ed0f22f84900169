output "environment" {
  description = "What a machine that deploys or looks on needs: terraform output -raw environment > .env"
  value = join("\n", [
    "export METAFLOW_DEFAULT_DATASTORE=s3",
    "export METAFLOW_DATASTORE_SYSROOT_S3=s3://${aws_s3_bucket.this.bucket}/metaflow",
    "export METAFLOW_BATCH_JOB_QUEUE=${aws_batch_job_queue.pool["cpu"].name}",
    "export METAFLOW_ECS_S3_ACCESS_IAM_ROLE=${aws_iam_role.this["task"].arn}",
    "export METAFLOW_ECS_FARGATE_EXECUTION_ROLE=${aws_iam_role.this["execution"].arn}",
    "export METAFLOW_SFN_IAM_ROLE=${aws_iam_role.this["states"].arn}",
    "export METAFLOW_EVENTS_SFN_ACCESS_IAM_ROLE=${aws_iam_role.this["events"].arn}",
    "export METAFLOW_SFN_DYNAMO_DB_TABLE=${aws_dynamodb_table.step_functions.name}",
    "export METAFLOW_DEFAULT_SECRETS_BACKEND_TYPE=aws-secrets-manager",
    "export METAFLOW_SERVICE_VERSION_CHECK=false",
    "export MOBILEVD_RUNS=s3://${aws_s3_bucket.this.bucket}/runs",
    "export MOBILEVD_LEDGER=s3://${aws_s3_bucket.this.bucket}/ledger",
    "export MLFLOW_TRACKING_URI=http://mlflow.${var.name}.internal:5000",
    "export AWS_DEFAULT_REGION=${var.region}",
    "",
  ])
}

output "bucket" {
  description = "Everything lies here: metaflow/, runs/, dvc/, pins/, ledger/, mlflow/"
  value       = aws_s3_bucket.this.bucket
}

output "alerts_secret" {
  description = "machines.secrets in the recipe; set its value once: {\"MOBILEVD_WEBHOOK\": \"https://…\"}"
  value       = aws_secretsmanager_secret.alerts.name
}
