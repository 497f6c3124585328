"""What RabbitMQ means when it closes a channel: gone for good, or not there yet."""

from __future__ import annotations

import pytest
from pika.exceptions import ChannelClosedByBroker

from nbmr.broker.trouble import missing, passes


@pytest.mark.parametrize(
    ("code", "text", "is_missing", "is_passing"),
    [
        (404, "NOT_FOUND - no queue 'q' in vhost '/'", True, False),
        (404, "NOT_FOUND - no exchange 'x' in vhost '/'", True, False),
        # seen on 3.10.8 for the first half second after a restart, for every stream
        (
            404,
            "NOT_FOUND - home node 'a@b' of durable queue 'q' in vhost '/' is down or inaccessible",
            False,
            True,
        ),
        (404, "NOT_FOUND - queue 'no queue ' in vhost '/' process is stopped by supervisor", False, True),
        (541, "INTERNAL_ERROR", False, True),
        (
            406,
            "PRECONDITION_FAILED - queue 'q' does not have a running replica on the local node",
            False,
            True,
        ),
        (406, "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'q'", False, False),
        (403, "ACCESS_REFUSED - access to queue 'q' refused", False, False),
    ],
)
def test_what_a_closed_channel_means(code, text, is_missing, is_passing):
    reason = ChannelClosedByBroker(code, text)
    assert missing(reason) is is_missing
    assert passes(reason) is is_passing


def test_a_channel_that_was_closed_with_its_connection_means_neither():
    assert not missing(ConnectionError())
    assert not passes(ConnectionError())
