"""What is said of an address that can't be listened on."""

from __future__ import annotations

import socket

import pytest

from carlarl.serving.ports import PortTakenError, check_free


def test_a_holder_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(
            PortTakenError, match=r"by .* \(process \d+\); end that process, or set"
        ):
            check_free("127.0.0.1", port, "PORT")


def test_nobody_holds_it() -> None:
    with socket.socket() as bound:  # and does not listen
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        with pytest.raises(PortTakenError, match="Address already in use; set PORT to another"):
            check_free("127.0.0.1", port, "PORT")


@pytest.mark.parametrize("host", ["nowhere.invalid", "192.0.2.1"])
def test_a_host_that_is_not_this_machine(host: str) -> None:
    with pytest.raises(PortTakenError, match=f"^HOST={host}: "):
        check_free(host, 8080, "PORT")
