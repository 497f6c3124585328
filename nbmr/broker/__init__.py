"""The connection to RabbitMQ. Nothing outside this package imports pika."""

from nbmr.broker.broker import Broker, connect
from nbmr.broker.calls import NotFound
from nbmr.broker.consumer import Consumer, Delivery
from nbmr.broker.publisher import Body

__all__ = ["Body", "Broker", "Consumer", "Delivery", "NotFound", "connect"]
