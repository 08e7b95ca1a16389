"""Autoship: ships fully packed Akinon OMS packages, once, and says why when it does not."""

__version__ = "0.1.0"
