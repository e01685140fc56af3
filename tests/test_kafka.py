"""Documents come by Kafka: its own client library has a broker to try things out with."""

import threading
import time
from collections.abc import Iterator

import fakes
import pytest

from bluesky_bayes.callbacks import BayesCallback

bluesky_kafka = pytest.importorskip("bluesky_kafka", reason="bluesky-kafka is not installed")
pytestmark = pytest.mark.usefixtures("no_compiling")

SECONDS = 60.0
TOPIC = "beamline.bluesky.documents"


@pytest.fixture
def broker() -> Iterator[str]:
    """Address of a broker that lives as long as its producer."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": "none:1", "test.mock.num.brokers": 1, "log_level": 0})
    (there,) = producer.list_topics(timeout=SECONDS).brokers.values()
    yield f"{there.host}:{there.port}"
    producer.flush(SECONDS)


def test_a_run_that_comes_by_kafka_is_answered(broker: str) -> None:
    documents, answered = fakes.scan_documents(), threading.Event()
    uid = documents[0][1]["uid"]
    publisher = bluesky_kafka.Publisher(TOPIC, broker, "key", flush_on_stop_doc=True)
    for name, doc in documents:
        publisher(name, doc)
    with BayesCallback(fakes.Quick()) as bayes:
        bayes.listen(lambda run, selection, final: answered.set())
        from_start = {"auto.offset.reset": "earliest"}
        dispatcher = bluesky_kafka.RemoteDispatcher([TOPIC], broker, "bluesky-bayes", consumer_config=from_start)
        dispatcher.subscribe(bayes)
        deadline = time.monotonic() + SECONDS
        dispatcher.start(continue_polling=lambda: not answered.is_set() and time.monotonic() < deadline)
        assert bayes.result(uid, SECONDS).data.x.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
