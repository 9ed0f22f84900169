resource "aws_ecs_cluster" "this" {
  name = var.name
}

resource "aws_cloudwatch_log_group" "mlflow" {
  name              = "/${var.name}/mlflow"
  retention_in_days = 30
}

resource "aws_service_discovery_private_dns_namespace" "this" {
  name = "${var.name}.internal"
  vpc  = aws_vpc.this.id
}

resource "aws_service_discovery_service" "mlflow" {
  name = "mlflow"
  dns_config {
    namespace_id = aws_service_discovery_private_dns_namespace.this.id
    dns_records {
      type = "A"
      ttl  = 10
    }
  }
}

resource "aws_ecs_task_definition" "mlflow" {
  family                   = "${var.name}-mlflow"
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = 512
  memory                   = 2048
  execution_role_arn       = aws_iam_role.this["execution"].arn
  task_role_arn            = aws_iam_role.this["mlflow"].arn
  container_definitions = jsonencode([{
    name         = "mlflow"
    image        = var.mlflow_image
    essential    = true
    portMappings = [{ containerPort = 5000 }]
    environment = [
      { name = "DATABASE_HOST", value = aws_db_instance.mlflow.address },
      { name = "ARTIFACTS", value = "s3://${aws_s3_bucket.this.bucket}/mlflow" },
      { name = "ALLOWED_HOSTS", value = "mlflow.${var.name}.internal,mlflow.${var.name}.internal:5000" },
    ]
    secrets = [
      { name = "DATABASE_USER", valueFrom = "${aws_db_instance.mlflow.master_user_secret[0].secret_arn}:username::" },
      { name = "DATABASE_PASSWORD", valueFrom = "${aws_db_instance.mlflow.master_user_secret[0].secret_arn}:password::" },
    ]
    logConfiguration = {
      logDriver = "awslogs"
      options = {
        awslogs-group         = aws_cloudwatch_log_group.mlflow.name
        awslogs-region        = var.region
        awslogs-stream-prefix = "mlflow"
      }
    }
  }])
}

resource "aws_ecs_service" "mlflow" {
  name            = "mlflow"
  cluster         = aws_ecs_cluster.this.id
  task_definition = aws_ecs_task_definition.mlflow.arn
  desired_count   = 1
  launch_type     = "FARGATE"
  network_configuration {
    subnets         = aws_subnet.private[*].id
    security_groups = [aws_security_group.mlflow.id]
  }
  service_registries {
    registry_arn = aws_service_discovery_service.mlflow.arn
  }
}
