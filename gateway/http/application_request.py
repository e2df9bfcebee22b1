"""A request that the application answers: everything but `POST /predict` and streams."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.server import ServerState

log = logging.getLogger(__name__)


class ApplicationRequest(RequestResponseCycle):
    """uvicorn's request-response cycle, as a request in the pipeline of a connection.

    `transport` is what the cycle writes to; it calls `on_response` after the answer.
    """

    error = None

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        scope: Any,
        transport: Any,
        flow: FlowControl,
        *,
        expects_continue: bool,
        keep_alive: bool,
        on_response: Callable[[], None],
    ) -> None:
        super().__init__(
            scope=scope,
            transport=transport,
            flow=flow,
            logger=log,
            access_logger=log,
            access_log=False,
            default_headers=server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=expects_continue,
            keep_alive=keep_alive,
            on_response=on_response,
        )
        self._application = config.loaded_app
        self._tasks = server_state.tasks

    @property
    def complete(self) -> bool:
        """Whether the whole body has come."""
        return not self.more_body

    @complete.setter
    def complete(self, _: bool) -> None:
        self.more_body = False
        self.message_event.set()

    def feed(self, data: bytes) -> None:
        """Take a piece of the body, or drop it if the request is answered already."""
        if not self.response_complete:
            self.body += data
            if len(self.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
            self.message_event.set()

    def start(self, _: object) -> None:
        """Run the application; it need not have the whole body for that."""
        task = asyncio.get_running_loop().create_task(self.run_asgi(self._application))
        task.add_done_callback(self._tasks.discard)
        self._tasks.add(task)

    def abandon(self) -> None:
        """Tell the application that the caller has gone."""
        self.disconnected = True
        self.message_event.set()
