//! Runs real handlers behind the Lambda Invoke API by speaking the Runtime API to them.
