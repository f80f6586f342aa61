terraform {
  required_providers {
    aws = {
      source = "hashicorp/aws"
    }
  }
}

variable "endpoint" {
  type = string
}

variable "servers" {
  type = string
}

variable "batch_size" {
  type    = number
  default = 50
}

provider "aws" {
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_region_validation      = true
  skip_requesting_account_id  = true

  endpoints {
    lambda = var.endpoint
  }
}

resource "aws_lambda_event_source_mapping" "orders" {
  function_name                      = "sample"
  topics                             = ["orders"]
  starting_position                  = "TRIM_HORIZON"
  batch_size                         = var.batch_size
  maximum_batching_window_in_seconds = 1

  self_managed_event_source {
    endpoints = {
      KAFKA_BOOTSTRAP_SERVERS = var.servers
    }
  }

  self_managed_kafka_event_source_config {
    consumer_group_id = "terraform"
  }

  source_access_configuration {
    type = "VPC_SUBNET"
    uri  = "subnet:none"
  }

  source_access_configuration {
    type = "VPC_SECURITY_GROUP"
    uri  = "security_group:none"
  }

  filter_criteria {
    filter {
      pattern = jsonencode({ value = { state = ["paid"] } })
    }
  }

  tags = {
    team = "harbour"
  }
}

output "uuid" {
  value = aws_lambda_event_source_mapping.orders.uuid
}

output "state" {
  value = aws_lambda_event_source_mapping.orders.state
}

output "batch_size" {
  value = aws_lambda_event_source_mapping.orders.batch_size
}
