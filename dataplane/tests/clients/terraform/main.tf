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

variable "stage" {
  type    = string
  default = "made"
}

locals {
  stages = {
    made = {
      batch_size  = 50
      bisect      = true
      destination = ["arn:aws:sqs:eu-west-1:000000000000:failed"]
      key         = "arn:aws:kms:eu-west-1:000000000000:key/1"
      metrics     = [["EventCount"]]
      pollers     = [{ minimum = 1, maximum = 2 }]
      responses   = ["ReportBatchItemFailures"]
      retries     = 3
      states      = ["paid"]
    }
    changed = {
      batch_size  = 70
      bisect      = false
      destination = ["arn:aws:sns:eu-west-1:000000000000:failed"]
      key         = "arn:aws:kms:eu-west-1:000000000000:key/2"
      metrics     = [["EventCount"]]
      pollers     = [{ minimum = 2, maximum = 4 }]
      responses   = []
      retries     = -1
      states      = ["paid", "sent"]
    }
    bare = {
      batch_size  = 70
      bisect      = null
      destination = []
      key         = null
      metrics     = []
      pollers     = []
      responses   = null
      retries     = null
      states      = []
    }
  }
  stage = local.stages[var.stage]
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
  batch_size                         = local.stage.batch_size
  maximum_batching_window_in_seconds = 1
  bisect_batch_on_function_error     = local.stage.bisect
  function_response_types            = local.stage.responses
  kms_key_arn                        = local.stage.key
  maximum_retry_attempts             = local.stage.retries

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

  dynamic "destination_config" {
    for_each = local.stage.destination
    content {
      on_failure {
        destination_arn = destination_config.value
      }
    }
  }

  dynamic "filter_criteria" {
    for_each = length(local.stage.states) > 0 ? [local.stage.states] : []
    content {
      dynamic "filter" {
        for_each = filter_criteria.value
        content {
          pattern = jsonencode({ value = { state = [filter.value] } })
        }
      }
    }
  }

  dynamic "metrics_config" {
    for_each = local.stage.metrics
    content {
      metrics = metrics_config.value
    }
  }

  dynamic "provisioned_poller_config" {
    for_each = local.stage.pollers
    content {
      maximum_pollers = provisioned_poller_config.value.maximum
      minimum_pollers = provisioned_poller_config.value.minimum
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
