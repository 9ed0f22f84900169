# What must stay true of the infrastructure, checked on a mocked provider: nothing is created, no account is needed.
mock_provider "aws" {
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{\"Version\": \"2012-10-17\", \"Statement\": []}" }
  }
  mock_data "aws_availability_zones" {
    defaults = { names = ["eu-central-1a", "eu-central-1b"] }
  }
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_resource "aws_db_instance" {
    defaults = {
      address            = "database.internal"
      master_user_secret = [{ secret_arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:database" }]
    }
  }
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/mocked" }
  }
  mock_resource "aws_iam_instance_profile" {
    defaults = { arn = "arn:aws:iam::123456789012:instance-profile/mocked" }
  }
  mock_resource "aws_batch_compute_environment" {
    defaults = { arn = "arn:aws:batch:eu-central-1:123456789012:compute-environment/mocked" }
  }
  mock_resource "aws_batch_job_queue" {
    defaults = { arn = "arn:aws:batch:eu-central-1:123456789012:job-queue/mocked" }
  }
  mock_resource "aws_kms_key" {
    defaults = { arn = "arn:aws:kms:eu-central-1:123456789012:key/mocked" }
  }
  mock_resource "aws_s3_bucket" {
    defaults = { arn = "arn:aws:s3:::mocked", bucket = "mocked" }
  }
  mock_resource "aws_launch_template" {
    defaults = { id = "lt-0123456789abcdef0" }
  }
  mock_resource "aws_service_discovery_service" {
    defaults = { arn = "arn:aws:servicediscovery:eu-central-1:123456789012:service/srv-mocked" }
  }
  mock_resource "aws_ecs_task_definition" {
    defaults = { arn = "arn:aws:ecs:eu-central-1:123456789012:task-definition/mocked:1" }
  }
}

variables {
  monthly_budget_usd = 2000
  alarm_mail         = "team@example.org"
  mlflow_image       = "registry.example/mlflow@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
}

run "nothing_is_public" {
  assert {
    condition = alltrue([
      aws_s3_bucket_public_access_block.this.block_public_acls, aws_s3_bucket_public_access_block.this.block_public_policy,
      aws_s3_bucket_public_access_block.this.ignore_public_acls, aws_s3_bucket_public_access_block.this.restrict_public_buckets,
    ])
    error_message = "the bucket could be made public"
  }
  assert {
    condition     = aws_db_instance.mlflow.publicly_accessible == false && aws_db_instance.mlflow.storage_encrypted
    error_message = "the database is open or not encrypted"
  }
  assert {
    condition = alltrue([
      for group in [aws_security_group.tasks, aws_security_group.mlflow, aws_security_group.database] :
      alltrue([for rule in group.ingress : !contains(rule.cidr_blocks == null ? [] : rule.cidr_blocks, "0.0.0.0/0")])
    ])
    error_message = "a security group lets the internet in"
  }
}

run "data_is_kept_and_encrypted" {
  assert {
    condition     = aws_s3_bucket_versioning.this.versioning_configuration[0].status == "Enabled"
    error_message = "no versioning"
  }
  assert {
    condition     = one(one(aws_s3_bucket_server_side_encryption_configuration.this.rule).apply_server_side_encryption_by_default).sse_algorithm == "aws:kms"
    error_message = "not encrypted with the project's own key"
  }
  assert {
    condition     = length(aws_s3_bucket_lifecycle_configuration.this.rule) == 2
    error_message = "old versions never end"
  }
  assert {
    condition     = aws_db_instance.mlflow.deletion_protection && aws_db_instance.mlflow.backup_retention_period >= 7
    error_message = "the registry could be lost"
  }
}

run "pools_cost_nothing_while_nothing_runs" {
  assert {
    condition     = alltrue([for pool in aws_batch_compute_environment.pool : pool.compute_resources[0].min_vcpus == 0])
    error_message = "a pool keeps machines"
  }
  assert {
    condition     = aws_batch_compute_environment.pool["gpu-spot"].compute_resources[0].type == "SPOT"
    error_message = "the spot pool is not spot"
  }
  assert {
    condition     = toset([for queue in aws_batch_job_queue.pool : queue.name]) == toset(["mobilevd-cpu", "mobilevd-cpu-spot", "mobilevd-gpu", "mobilevd-gpu-spot"])
    error_message = "queues are not called as flows/machines.py asks for them"
  }
}

run "somebody_is_told_about_money" {
  assert {
    condition     = length(aws_budgets_budget.month.notification) == 3 && aws_budgets_budget.month.limit_amount == "2000"
    error_message = "no alarm"
  }
}

run "the_password_is_nowhere_in_the_state" {
  assert {
    condition     = aws_db_instance.mlflow.manage_master_user_password && aws_db_instance.mlflow.password == null
    error_message = "the database's password is in the state"
  }
}

run "an_image_without_a_digest_is_refused" {
  command = plan
  variables {
    mlflow_image = "registry.example/mlflow:latest"
  }
  expect_failures = [var.mlflow_image]
}
