"""A client written on nothing but the generated stubs: submit a command, watch it, print its result.

python examples/stubs_client.py HOST:PORT -- echo hello
"""

from __future__ import annotations

import sys
import uuid

import grpc

from outrider.v1 import event_pb2, task_pb2, task_service_pb2, task_service_pb2_grpc

TERMINAL = range(event_pb2.EVENT_TYPE_TASK_SUCCEEDED, event_pb2.EVENT_TYPE_TASK_SKIPPED + 1)


def main(address: str, argv: list[str]) -> int:
    """Run ``argv`` on the fleet of the coordinator at ``address``; 0 when it succeeded."""
    with grpc.insecure_channel(address) as channel:
        tasks = task_service_pb2_grpc.TaskServiceStub(channel)
        # A request id makes it safe to repeat this call after an ambiguous error.
        request = task_service_pb2.SubmitRequest(
            request_id=uuid.uuid4().hex,
            spec=task_pb2.TaskSpec(command=task_pb2.Command(argv=argv)),
        )
        task_id = tasks.Submit(request, wait_for_ready=True, timeout=10).task_id
        # From cursor 0: the task's history first, then what happens, so nothing is missed.
        watch = task_service_pb2.WatchRequest(task_ids=[task_id], after_cursor=0, include_results=True)
        for response in tasks.Watch(watch):
            for event in response.events.events:
                print(event_pb2.EventType.Name(event.type).removeprefix("EVENT_TYPE_"))
                if event.type in TERMINAL:
                    print(event.completed.result.data.decode() or event.error.message)
                    return 0 if event.type == event_pb2.EVENT_TYPE_TASK_SUCCEEDED else 1
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[3:]))
