"""Pixels to findings: engines, model store and explanation. Knows neither network, database nor SR."""
