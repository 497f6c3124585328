"""The connection to RabbitMQ. Nothing outside this package imports pika."""

from nbmr.broker.broker import SETTLE_SECONDS, Broker, connect
from nbmr.broker.consumer import Consumer, Delivery
from nbmr.broker.publisher import Body
from nbmr.broker.trouble import DeliveryExpired, NotFound

__all__ = [
    "SETTLE_SECONDS",
    "Body",
    "Broker",
    "Consumer",
    "Delivery",
    "DeliveryExpired",
    "NotFound",
    "connect",
]
