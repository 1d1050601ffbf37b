"""Scaling on paper: fleets, autoscalers and queues as discrete-event simulations."""
