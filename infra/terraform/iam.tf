data "aws_caller_identity" "me" {}

locals {
  may_be_assumed_by = {
    batch     = "batch.amazonaws.com"
    machines  = "ec2.amazonaws.com"
    task      = "ecs-tasks.amazonaws.com"
    execution = "ecs-tasks.amazonaws.com"
    mlflow    = "ecs-tasks.amazonaws.com"
    states    = "states.amazonaws.com"
    events    = "events.amazonaws.com"
  }
}

data "aws_iam_policy_document" "assume" {
  for_each = local.may_be_assumed_by
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = [each.value]
    }
  }
}

resource "aws_iam_role" "this" {
  for_each           = local.may_be_assumed_by
  name               = "${var.name}-${each.key}"
  assume_role_policy = data.aws_iam_policy_document.assume[each.key].json
}

resource "aws_iam_role_policy_attachment" "batch" {
  role       = aws_iam_role.this["batch"].name
  policy_arn = "arn:aws:iam::aws:policy/service-role/AWSBatchServiceRole"
}

resource "aws_iam_role_policy_attachment" "machines" { # to join the cluster and pull images, no more
  role       = aws_iam_role.this["machines"].name
  policy_arn = "arn:aws:iam::aws:policy/service-role/AmazonEC2ContainerServiceforEC2Role"
}

resource "aws_iam_instance_profile" "machines" {
  name = "${var.name}-machines"
  role = aws_iam_role.this["machines"].name
}

resource "aws_iam_role_policy_attachment" "execution" {
  role       = aws_iam_role.this["execution"].name
  policy_arn = "arn:aws:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy"
}

data "aws_iam_policy_document" "execution" { # the database's password, handed to the server as it starts
  statement {
    actions   = ["secretsmanager:GetSecretValue"]
    resources = [aws_db_instance.mlflow.master_user_secret[0].secret_arn]
  }
  statement {
    actions   = ["kms:Decrypt"]
    resources = [aws_kms_key.this.arn]
  }
}

data "aws_iam_policy_document" "task" {
  statement {
    sid       = "OwnObjects"
    actions   = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"]
    resources = [for place in ["metaflow", "runs", "dvc", "pins", "ledger"] : "${aws_s3_bucket.this.arn}/${place}/*"]
  }
  statement {
    sid       = "LedgerOnlyGrows"
    effect    = "Deny"
    actions   = ["s3:DeleteObject", "s3:DeleteObjectVersion"]
    resources = ["${aws_s3_bucket.this.arn}/ledger/*"]
  }
  statement {
    sid       = "List"
    actions   = ["s3:ListBucket", "s3:GetBucketLocation"]
    resources = [aws_s3_bucket.this.arn]
  }
  statement {
    sid       = "Keys"
    actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
    resources = [aws_kms_key.this.arn]
  }
  statement {
    sid       = "Secrets"
    actions   = ["secretsmanager:GetSecretValue", "secretsmanager:DescribeSecret"]
    resources = [aws_secretsmanager_secret.alerts.arn]
  }
  statement {
    sid       = "ForeachWidths"
    actions   = ["dynamodb:PutItem", "dynamodb:GetItem", "dynamodb:UpdateItem"]
    resources = [aws_dynamodb_table.step_functions.arn]
  }
  statement {
    sid       = "WatcherStartsTraining"
    actions   = ["states:ListExecutions", "states:StartExecution"]
    resources = ["arn:aws:states:${var.region}:${data.aws_caller_identity.me.account_id}:stateMachine:TrainFlow"]
  }
  statement {
    sid       = "FindStateMachines"
    actions   = ["states:ListStateMachines"]
    resources = ["*"] # the API knows no narrower one
  }
  statement {
    sid       = "DescribeTraining"
    actions   = ["states:DescribeStateMachine"]
    resources = ["arn:aws:states:${var.region}:${data.aws_caller_identity.me.account_id}:stateMachine:TrainFlow"]
  }
}

data "aws_iam_policy_document" "mlflow" {
  statement {
    actions   = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"]
    resources = ["${aws_s3_bucket.this.arn}/mlflow/*"]
  }
  statement {
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.this.arn]
  }
  statement {
    actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
    resources = [aws_kms_key.this.arn]
  }
}

data "aws_iam_policy_document" "states" {
  statement {
    sid       = "SubmitToOwnQueues"
    actions   = ["batch:SubmitJob"]
    resources = concat([for q in aws_batch_job_queue.pool : q.arn], ["arn:aws:batch:${var.region}:${data.aws_caller_identity.me.account_id}:job-definition/metaflow_*"])
  }
  statement {
    sid       = "FollowJobs"
    actions   = ["batch:DescribeJobs", "batch:TerminateJob"]
    resources = ["*"] # the API knows no narrower one
  }
  statement {
    sid       = "SyncRule"
    actions   = ["events:PutTargets", "events:PutRule", "events:DescribeRule"]
    resources = ["arn:aws:events:${var.region}:${data.aws_caller_identity.me.account_id}:rule/StepFunctionsGetEventsForBatchJobsRule"]
  }
  statement {
    sid       = "ForeachWidths"
    actions   = ["dynamodb:GetItem"]
    resources = [aws_dynamodb_table.step_functions.arn]
  }
}

data "aws_iam_policy_document" "events" {
  statement {
    actions   = ["states:StartExecution"]
    resources = ["arn:aws:states:${var.region}:${data.aws_caller_identity.me.account_id}:stateMachine:WatchFlow"]
  }
}

locals {
  policies = {
    task      = data.aws_iam_policy_document.task.json
    execution = data.aws_iam_policy_document.execution.json
    mlflow    = data.aws_iam_policy_document.mlflow.json
    states    = data.aws_iam_policy_document.states.json
    events    = data.aws_iam_policy_document.events.json
  }
}

resource "aws_iam_role_policy" "this" {
  for_each = local.policies
  name     = "own"
  role     = aws_iam_role.this[each.key].id
  policy   = each.value
}
