"""The process of a group of checks: it runs them in order, and sends events as lines of JSON.

python -m svd_tools.device_checks.worker EVENTS SETTINGS, a file descriptor for the events, and settings as JSON.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Optional

from svd_tools.device_checks.outcome import Outcome, Result, Settings, Skipped


def main(arguments: list[str]) -> None:
    from svd.runtime import RuntimeSetupError

    settings = Settings(**json.loads(arguments[1]))
    with os.fdopen(int(arguments[0]), "w", buffering=1) as events:

        def send(**event) -> None:
            events.write(json.dumps(event) + "\n")

        group = importlib.import_module(settings.module)
        try:
            if settings.group == "environment":
                for facts in group.facts(settings):
                    send(facts=facts)
            checks = group.checks(settings)
        except Skipped as reason:
            send(skipped=str(reason))
            return
        except RuntimeSetupError as error:
            send(refused=str(error))
            return
        left = [name for name in checks if name not in settings.done]
        for name in left:
            send(begins=name)
            result = run(settings, name, checks[name])
            send(result=dataclasses.asdict(result))
            if result.error and name != left[-1]:
                os._exit(1)  # a device that has failed once may fail in all later checks: they run in a new process
    os._exit(0)  # MindSpore's teardown is not checked


def run(settings: Settings, name: str, check: Callable[[], Outcome]) -> Result:
    """Run a check; returns its result, whatever it raises."""
    result = Result(settings.group, name, settings.precision, "passed")
    start = time.perf_counter()
    try:
        outcome = check()
    except Skipped as reason:
        result.verdict, result.note = "skipped", str(reason)
        return result
    except Exception:
        result.verdict, result.error = "failed", traceback.format_exc()
    else:
        result.difference, result.limit, result.note = outcome.difference, outcome.limit, outcome.note
        if outcome.difference is not None and not outcome.difference <= outcome.limit:
            result.verdict = "failed"
        result.memory = outcome.memory or _peak_memory()
    result.seconds = time.perf_counter() - start
    return result


def _peak_memory() -> Optional[int]:
    """Peak memory of the device, if MindSpore is in use."""
    if "mindspore" not in sys.modules:
        return None
    from svd import runtime

    try:
        return runtime.peak_memory(runtime.available_device())
    except RuntimeError:  # a device that fails, and was not needed
        return None


if __name__ == "__main__":
    main(sys.argv[1:])
