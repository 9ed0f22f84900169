locals {
  pools = {
    cpu      = { spot = false, types = ["m7i.large", "m7i.2xlarge", "m7i.8xlarge"], vcpus = var.max_cpu_vcpus, ami = "ECS_AL2023" }
    cpu-spot = { spot = true, types = ["m7i.large", "m7i.2xlarge", "m7i.8xlarge"], vcpus = var.max_cpu_vcpus, ami = "ECS_AL2023" }
    gpu      = { spot = false, types = var.gpu_instance_types, vcpus = var.max_gpu_vcpus, ami = "ECS_AL2_NVIDIA" }
    gpu-spot = { spot = true, types = var.gpu_instance_types, vcpus = var.max_gpu_vcpus, ami = "ECS_AL2_NVIDIA" }
  }
}

resource "aws_launch_template" "pool" {
  name_prefix = "${var.name}-"
  block_device_mappings {
    device_name = "/dev/xvda"
    ebs {
      volume_size = 500
      volume_type = "gp3"
      encrypted   = true
    }
  }
  metadata_options { # containers get no instance credentials; the job's role is theirs
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }
}

resource "aws_batch_compute_environment" "pool" {
  for_each                        = local.pools
  compute_environment_name_prefix = "${var.name}-${each.key}-"
  type                            = "MANAGED"
  service_role                    = aws_iam_role.this["batch"].arn
  compute_resources {
    type                = each.value.spot ? "SPOT" : "EC2"
    allocation_strategy = each.value.spot ? "SPOT_PRICE_CAPACITY_OPTIMIZED" : "BEST_FIT_PROGRESSIVE"
    min_vcpus           = 0
    max_vcpus           = each.value.vcpus
    instance_type       = each.value.types
    instance_role       = aws_iam_instance_profile.machines.arn
    subnets             = aws_subnet.private[*].id
    security_group_ids  = [aws_security_group.tasks.id]
    ec2_configuration {
      image_type = each.value.ami
    }
    launch_template {
      launch_template_id = aws_launch_template.pool.id
      version            = "$Latest"
    }
  }
  lifecycle {
    create_before_destroy = true
  }
  depends_on = [aws_iam_role_policy_attachment.batch] # else the role is gone before the pool on the way down
}

resource "aws_batch_job_queue" "pool" {
  for_each = local.pools
  name     = "${var.name}-${each.key}"
  state    = "ENABLED"
  priority = 1
  compute_environment_order {
    order               = 1
    compute_environment = aws_batch_compute_environment.pool[each.key].arn
  }
}
