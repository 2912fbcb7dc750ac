"""Functions that wait, as tasks of a real cluster."""

from __future__ import annotations

import threading

__all__ = ["answer_by_client", "answer_from_inside", "asks", "finds", "needs_time", "needs_time_in_vain", "refused"]


def asks(question: str) -> str:
    """Ask under one key and return the answer."""
    from outrider.worker import current

    return current.ask(question, key="q")


def finds(question: str) -> tuple[str, str, list[str], dict[str, str]]:
    """Ask twice; the agent that gets the second answer, that answer, and what is known of attempts before."""
    from outrider.worker import current

    current.ask("first", key="first")
    answer = current.ask(question, key="q")
    return current.agent, answer, current.expired_waits, current.answers


def answer_from_inside(task_id: str, text: str) -> str:
    """Answer another task through the agent; this task's id."""
    from outrider.worker import current

    current.answer(task_id, text, key="q")
    return str(current.task_id)


def answer_by_client(address: str, task_id: str, text: str) -> str:
    """Answer another task as any client does."""
    import outrider

    with outrider.Client(address) as client:
        return client.task(task_id).answer(text, key="q")


def needs_time(run_s: float, *more_s: float) -> str:
    """Ask for more time, as often as told, then run."""
    from outrider.worker import current

    for amount_s in more_s:
        if not current.need_more_time(amount_s):
            return "refused"
    threading.Event().wait(run_s)
    return "done"


def needs_time_in_vain(more_s: float) -> bool:
    """Whether more time is granted."""
    from outrider.worker import current

    return bool(current.need_more_time(more_s))


def refused(question: str) -> str:
    """Ask; what a refusal says."""
    from outrider.errors import WaitRefused
    from outrider.worker import current

    try:
        return current.ask(question, key="q")
    except WaitRefused as error:
        return f"refused: {error}"
