variable "name" {
  description = "Prefix of everything, and of the Batch queues: machines.queues in the recipe."
  type        = string
  default     = "mobilevd"
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,20}$", var.name))
    error_message = "name: 2 to 21 small letters, digits and dashes, a letter first."
  }
}

variable "region" {
  description = "AWS region; GPU types differ between them."
  type        = string
  default     = "eu-central-1"
}

variable "vpc_cidr" {
  description = "Addresses of the private network."
  type        = string
  default     = "10.20.0.0/16"
}

variable "gpu_instance_types" {
  description = "What GPU steps run on; the first that is free is taken."
  type        = list(string)
  default     = ["p4de.24xlarge", "p5.4xlarge"]
}

variable "max_gpu_vcpus" {
  description = "Ceiling of each GPU pool; p4de.24xlarge has 96."
  type        = number
  default     = 96
}

variable "max_cpu_vcpus" {
  description = "Ceiling of each CPU pool."
  type        = number
  default     = 64
}

variable "latents_days" {
  description = "Days after which runs' latents and checkpoints go to a colder class; retention removes them for good."
  type        = number
  default     = 30
}

variable "monthly_budget_usd" {
  description = "At 50, 80 (forecast) and 100 % of it a mail is sent."
  type        = number
}

variable "alarm_mail" {
  description = "Who is told about money."
  type        = string
}

variable "mlflow_image" {
  description = "Image of the tracking server, built from infra/docker/mlflow.Dockerfile, by digest."
  type        = string
  validation {
    condition     = can(regex("@sha256:[0-9a-f]{64}$", var.mlflow_image))
    error_message = "mlflow_image: an image by digest, name@sha256:…"
  }
}
