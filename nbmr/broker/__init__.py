"""The connection to RabbitMQ. Nothing outside this package imports pika."""

from nbmr.broker.broker import Broker, connect
from nbmr.broker.link import Body, Consumer, Delivery, NotFound

__all__ = ["Body", "Broker", "Consumer", "Delivery", "NotFound", "connect"]
