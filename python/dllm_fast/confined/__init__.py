"""Work on what somebody hostile may have written, done in a child process with limits on time and memory.

    answer = confined.ask("echo", {"any": "plain data"}, seconds=10, gigabytes=1)

A task is a function of `tasks.py`. Whatever it does to its process (a crash, an abort, all memory, no end), this one only
gets an error. The child is started when it is first needed and kept.
"""

from dllm_fast.confined.errors import ConfinedError, DiedError, LimitError, TaskError, UnavailableError
from dllm_fast.confined.parent import ask, end, unavailable

__all__ = ["ConfinedError", "DiedError", "LimitError", "TaskError", "UnavailableError", "ask", "end", "unavailable"]
