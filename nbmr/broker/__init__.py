"""The connection to RabbitMQ. Nothing outside this package imports pika."""

from nbmr.broker.broker import Broker, connect
from nbmr.broker.link import Consumer, Delivery, NotFound

__all__ = ["Broker", "Consumer", "Delivery", "NotFound", "connect"]
