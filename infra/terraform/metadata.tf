resource "aws_dynamodb_table" "step_functions" { # Metaflow keeps the width of a foreach here
  name         = "${var.name}-step-functions"
  billing_mode = "PAY_PER_REQUEST"
  hash_key     = "pathspec"
  attribute {
    name = "pathspec"
    type = "S"
  }
  ttl {
    attribute_name = "ttl"
    enabled        = true
  }
  server_side_encryption {
    enabled     = true
    kms_key_arn = aws_kms_key.this.arn
  }
}

resource "aws_db_subnet_group" "this" {
  name       = var.name
  subnet_ids = aws_subnet.private[*].id
}

resource "aws_db_instance" "mlflow" {
  identifier_prefix           = "${var.name}-mlflow-"
  engine                      = "postgres"
  engine_version              = "16"
  instance_class              = "db.t4g.micro"
  allocated_storage           = 20
  max_allocated_storage       = 100
  storage_encrypted           = true
  kms_key_id                  = aws_kms_key.this.arn
  db_name                     = "mlflow"
  username                    = "mlflow"
  manage_master_user_password = true # made, kept and rotated by the secrets manager; never in this state
  db_subnet_group_name        = aws_db_subnet_group.this.name
  vpc_security_group_ids      = [aws_security_group.database.id]
  publicly_accessible         = false
  backup_retention_period     = 7
  deletion_protection         = true
  final_snapshot_identifier   = "${var.name}-mlflow-last"
  auto_minor_version_upgrade  = true
}

resource "aws_secretsmanager_secret" "alerts" {
  name_prefix = "${var.name}-alerts-"
  description = "JSON with MOBILEVD_WEBHOOK, where alerts and promotions are told; its value is set by hand."
  kms_key_id  = aws_kms_key.this.arn
}
