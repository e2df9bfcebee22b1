"""What an error message keeps of Triton's log."""

from __future__ import annotations

from carlarl.serving.triton_server import explained, telling

FAILED = (
    "E1122 21:58:44.2 1626 model_lifecycle.cc:642] \"failed to load 'policy_onnx' version 2000:"
    ' Internal: InvalidProtobuf: parsing failed.\\n\\nAt:\\n  /x/policy.py(20): initialize\\n"'
)
FOLLOWS = (
    "E1122 21:58:44.239718 1626 model_repository_manager.cc:703] \"Invalid argument: ensemble 'a' "
    "depends on 'policy_onnx' which has no loaded version."
)


def test_tables_news_and_usage_are_left_out() -> None:
    log = [
        "I1122 21:58:44.2 1626 server.cc:1] started",
        "",
        "+----+",
        "| a  |",
        'E1122 21:58:44.2 1626 server.cc:241] "CudaDriverHelper has not been initialized."',
        "tritonserver: unrecognized option --x",
        "Usage: tritonserver [options]",
        "  --help",
        "error: what it says",
        "ImportError: no such module",
    ]
    assert list(telling(log)) == [
        "tritonserver: unrecognized option --x",
        "error: what it says",
        "ImportError: no such module",
    ]


def test_the_failed_model_comes_first_and_once() -> None:
    log = [FAILED, FOLLOWS, "error: creating server: all of it again", "At:", "  x"]
    first, *rest = explained(log).splitlines()
    assert first == (
        "failed to load 'policy_onnx' version 2000: Internal: InvalidProtobuf: parsing failed."
    )
    assert rest == [FAILED]


def test_without_a_failed_model_all_is_kept() -> None:
    assert explained(["one", "two"]) == "one\ntwo"
