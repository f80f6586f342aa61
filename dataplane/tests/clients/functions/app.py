"""A Python function that does what its event says."""
import os
import sys
import time


def handler(event, context):
    what = event.get("do")
    print("doing", what, flush=True)
    if what == "raise":
        raise ValueError("as asked")
    if what == "exit":
        sys.exit(3)
    if what == "sleep":
        time.sleep(event["seconds"])
    if what == "large":
        return "x" * event["bytes"]
    if what == "context":
        return {"custom": context.client_context.custom, "arn": context.invoked_function_arn}
    return {"pid": os.getpid(), "got": event}
